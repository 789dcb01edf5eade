"""Batches on real servers: killed servers, killed clients, Ctrl-C, and the output folder afterwards."""

import asyncio
import csv
import io
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from PIL import Image

from facecdm.apps.batch.plan import Plan
from facecdm.apps.batch.start import run_async
from facecdm.apps.references import FACEWORLD_REFERENCE
from facecdm.cli import main
from facecdm.comfy_api.server import LocalServer
from facecdm.demo.weights import default_path

ROOT = Path(__file__).resolve().parents[4]
PROMPTS = [
    "a young woman, long red hair, smiling, green shirt, plain blue background",
    "a middle-aged man, short black hair, neutral, white shirt, plain grey background",
]


def demo_graph() -> dict:
    def node(kind, title="", **inputs):
        return {"class_type": kind, "inputs": inputs, **({"_meta": {"title": title}} if title else {})}

    return {
        "1": node("FaceCDMLoadDemoModel"),
        "2": node("CLIPTextEncode", "Prompt", clip=["1", 1], text=""),
        "3": node("CLIPTextEncode", clip=["1", 1], text=""),
        "4": node("EmptyLatentImage", width=64, height=64, batch_size=1),
        "5": node(
            "KSampler",
            model=["1", 0],
            positive=["2", 0],
            negative=["3", 0],
            latent_image=["4", 0],
            seed=0,
            steps=2,
            cfg=4.0,
            sampler_name="euler",
            scheduler="karras",
            denoise=1.0,
        ),
        "6": node("VAEDecode", samples=["5", 0], vae=["1", 2]),
        "7": node("SaveImage", images=["6", 0], filename_prefix="batch"),
    }


def flat_graph() -> dict:
    """An image of one colour."""
    return {
        "1": {"class_type": "EmptyImage", "inputs": {"width": 256, "height": 256, "batch_size": 1, "color": 0}},
        "3": {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": "flat"}},
    }


def table(folder: Path) -> list[dict]:
    with (folder / "results.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def pictures(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*.png") if "sheets" not in path.parts]


def recipe(path: Path) -> dict:
    return json.loads(Image.open(path).info["prompt"])


@pytest.fixture
def second(server, comfyui, tmp_path):
    """Another server beside the tests' one, with folders of its own."""
    folders = {kind: tmp_path / "second" / kind for kind in ("input", "output", "temp", "user")}
    for folder in folders.values():
        folder.mkdir(parents=True)
    own = tuple(f"--{kind}-directory={folder}" for kind, folder in folders.items())
    with LocalServer(comfyui, server.base, arguments=own, log=tmp_path / "second.log") as running:
        yield running


def test_sixty_jobs_on_two_servers_and_one_is_killed(server, second, tmp_path):
    if not default_path().is_file():
        pytest.skip(f"no demo weights at {default_path()}")
    plan = Plan.make(
        {
            "workflow": demo_graph(),
            "servers": [server.address, second.address],
            "output": tmp_path / "out",
            "patience": 2,
            "inputs": {"prompt": "Prompt.text", "seed": "KSampler.seed"},
            "name": "{prompt#}/{seed}",
            "jobs": [{"prompt": PROMPTS}, {"seed": {"from": 1, "to": 30}}],
        }
    )

    async def scenario():
        batch = asyncio.create_task(run_async(plan))
        while len(pictures(tmp_path / "out")) < 20:
            assert not batch.done()
            await asyncio.sleep(0.05)
        second.process.kill()
        return await batch

    summary = asyncio.run(asyncio.wait_for(scenario(), 550))
    assert summary.ok and summary.jobs == 60
    found = {path.relative_to(tmp_path / "out").as_posix(): recipe(path) for path in pictures(tmp_path / "out")}
    assert found.keys() == {f"{prompt}/{seed}.png" for prompt in (1, 2) for seed in range(1, 31)}
    for name, nodes in found.items():  # each is its own picture: the recipe in it says so
        assert nodes["2"]["inputs"]["text"] == PROMPTS[int(name[0]) - 1]
        assert nodes["5"]["inputs"]["seed"] == int(name[2:-4])
    rows = table(tmp_path / "out")
    assert [row["job"] for row in rows] == [str(number) for number in range(1, 61)]
    by = [row["server"] for row in rows]
    assert by.count(server.address) > 20 and by.count(second.address) >= 5, "both worked"
    assert rows[0]["KSampler.steps"] == "2" and rows[0]["prompt"] == PROMPTS[0]


def command(tmp_path: Path, server, count: int, *more: str) -> list[str]:
    """The command line of a batch of images of one colour each, none in the server's cache."""
    if not more:
        first = time.time_ns() // 1000 % 2**23
        (tmp_path / "flat.json").write_text(json.dumps(flat_graph()))
        (tmp_path / "plan.yaml").write_text(
            json.dumps(
                {
                    "workflow": "flat.json",
                    "servers": server.address,
                    "output": "out",
                    "name": "{colour}",
                    "inputs": {"colour": "EmptyImage.color"},
                    "jobs": {"colour": {"from": first, "count": count}},
                }
            )
        )
    return [sys.executable, "-m", "facecdm", "batch", str(tmp_path / "plan.yaml"), *more]


def check_flat(tmp_path: Path, count: int) -> None:
    plan = json.loads((tmp_path / "plan.yaml").read_text())
    first = plan["jobs"]["colour"]["from"]
    found = {int(path.stem): Image.open(path).convert("RGB").getpixel((32, 32)) for path in pictures(tmp_path / "out")}
    assert found.keys() == set(range(first, first + count))
    for colour, pixel in found.items():
        assert pixel == (colour >> 16 & 255, colour >> 8 & 255, colour & 255)
    assert not list((tmp_path / "out").rglob("*.part"))


def runs_of(server) -> int:
    return server.log.read_text(errors="replace").count("got prompt")


# A client that sends itself a signal right after the n-th call of a method: at the same point on any machine.
SIGNALLED = """
import functools, inspect, os, sys
from facecdm.apps.batch.execution.journal import Journal
from facecdm.cli import main
from facecdm.comfy_api.client import Client
number, owner, method, left = int(sys.argv[1]), globals()[sys.argv[2]], sys.argv[3], int(sys.argv[4])
real = getattr(owner, method)

def count():
    global left
    left -= 1
    if not left:
        os.kill(os.getpid(), number)

@functools.wraps(real)
def called(*arguments, **named):
    result = real(*arguments, **named)
    if not inspect.isawaitable(result):
        count()
        return result
    async def awaited():
        value = await result
        count()
        return value
    return awaited()

setattr(owner, method, called)
sys.exit(main(sys.argv[5:]))
"""


def signalled(number: int, owner: str, method: str, calls: int, arguments: list[str]) -> list[str]:
    """The command line, in a client that gets the signal after so many calls of the method."""
    return [sys.executable, "-c", SIGNALLED, str(int(number)), owner, method, str(calls), *arguments[3:]]


@pytest.mark.skipif(os.name == "nt", reason="signals")
def test_a_client_killed_again_and_again(server, tmp_path):
    count, before = 40, runs_of(server)
    arguments = command(tmp_path, server, count)
    points = [("Journal", "done", 3), ("Client", "submit", 6), ("Journal", "queued", 5), ("Journal", "claim", 4)]
    for owner, method, calls in points:
        killed = signalled(signal.SIGKILL, owner, method, calls, arguments)
        assert subprocess.run(killed, cwd=ROOT, stdin=subprocess.DEVNULL).returncode == -signal.SIGKILL
        arguments = command(tmp_path, server, count, "--resume")
    done = subprocess.run(arguments, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    check_flat(tmp_path, count)
    assert len(table(tmp_path / "out")) == count
    # Jobs that a killed client left on the server are found there and not queued again.
    assert runs_of(server) - before == count


@pytest.mark.skipif(os.name == "nt", reason="signals")
def test_ctrl_c_cancels_jobs_and_writes_the_table(server, tmp_path):
    stopped = signalled(signal.SIGINT, "Journal", "done", 5, command(tmp_path, server, 30))
    done = subprocess.run(stopped, cwd=ROOT, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=400)
    assert done.returncode == 130 and "Traceback" not in done.stderr and "--resume" in done.stderr
    rows = table(tmp_path / "out")
    assert sum(row["state"] == "done" for row in rows) == len(pictures(tmp_path / "out")) < 30 == len(rows)

    async def queue():
        from facecdm.comfy_api.client import Client

        async with Client(server.address) as client:
            return await client._transport.json("GET", "/queue")

    assert asyncio.run(queue()) == {"queue_running": [], "queue_pending": []}
    assert subprocess.run(command(tmp_path, server, 30, "--resume"), cwd=ROOT).returncode == 0
    check_flat(tmp_path, 30)


def test_people_are_measured_and_the_best_are_kept(server, face_models, astronaut, tmp_path, capsys):
    """Core nodes in place of a model: the reference at several sizes, so that similarity differs."""
    Image.fromarray((astronaut[0] * 255).byte().numpy()).save(tmp_path / "eileen.png")
    (tmp_path / "ada.webp").write_bytes(FACEWORLD_REFERENCE.read_bytes())
    (tmp_path / "w.json").write_text(
        json.dumps(
            {
                "1": {"class_type": "LoadImage", "inputs": {"image": ""}, "_meta": {"title": "Reference"}},
                "2": {
                    "class_type": "ImageScale",
                    "inputs": {
                        "image": ["1", 0],
                        "upscale_method": "area",
                        "width": 64,
                        "height": 64,
                        "crop": "disabled",
                    },
                },
                "3": {"class_type": "SaveImage", "inputs": {"images": ["2", 0], "filename_prefix": "x"}},
            }
        )
    )
    (tmp_path / "plan.yaml").write_text("""
workflow: w.json
inputs: {person: Reference.image, height: ImageScale.height, width: ImageScale.width}
jobs:
  - person: [ada.webp, eileen.png]
  - width: [128, 250, 256, 300]
    height: [256, 250, 256, 64]
name: "{person}/{width}"
""")
    code = main(
        [
            "batch",
            str(tmp_path / "plan.yaml"),
            "--server",
            server.address,
            "--output",
            str(tmp_path / "out"),
            "--base",
            str(face_models),
            "--keep-best",
            "2",
        ]
    )
    assert code == 0 and "8 of 8 jobs are done" in capsys.readouterr().out
    rows = {Path(row["file"]).with_suffix("").as_posix(): row for row in table(tmp_path / "out")}
    for person in ("ada", "eileen"):
        kept = {name: float(row["identity"]) for name, row in rows.items() if name.startswith(person)}
        rest = {name: row["identity"] for name, row in rows.items() if name.startswith(f"not-kept/{person}")}
        assert kept.keys() == {f"{person}/250", f"{person}/256"} and min(kept.values()) > 0.8
        assert len(rest) == 2 and all(not worse or float(worse) < min(kept.values()) for worse in rest.values())
        assert rows[f"{person}/256"]["faces"] == "1" and float(rows[f"{person}/256"]["detection"]) > 0.5
        assert rows[f"{person}/256"]["person"].startswith(str(tmp_path / person))
        sheet = Image.open(tmp_path / "out" / "sheets" / f"{person}.jpg")
        assert sheet.width == 2 * 36 + 3 * 192 + 2 * 22
    assert all((tmp_path / "out" / row["file"]).is_file() for row in rows.values())
    assert all(recipe(path)["2"]["inputs"]["width"] == int(path.stem) for path in pictures(tmp_path / "out"))
    data = io.BytesIO((tmp_path / "out" / "ada" / "256.png").read_bytes())
    assert Image.open(data).size == (256, 256)

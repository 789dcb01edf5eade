"""The quick start's portraits, with core nodes in place of a model: the whole way from picture to sheet."""

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest
from PIL import Image, ImageDraw

from facecdm.apps import portrait
from facecdm.apps.portrait import WORKFLOW, plan
from facecdm.apps.progress import ProgressLine
from facecdm.apps.references import FACEWORLD_REFERENCE, copy_examples, read_references
from facecdm.apps.sheet import SheetImage, SheetRow, contact_sheet, fit, font, wrap
from facecdm.cli import main
from facecdm.comfy_api.errors import WorkflowMistake
from facecdm.comfy_api.workflow import Workflow
from facecdm.errors import BadFile

ROOT = Path(__file__).resolve().parents[2]
# The server checks only what leads to an output: sampler and prompt may stand alone here.
NODES = {
    "1": {"class_type": "LoadImage", "inputs": {"image": ""}, "_meta": {"title": "Reference"}},
    "2": {"class_type": "CLIPTextEncode", "inputs": {"text": ""}, "_meta": {"title": "Prompt"}},
    "3": {"class_type": "KSampler", "inputs": {"seed": 0, "steps": 20}},
    "4": {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": ""}},
}


@pytest.fixture
def echo(tmp_path) -> Path:
    """A workflow whose portrait is the reference itself."""
    path = tmp_path / "echo.json"
    path.write_text(json.dumps(NODES))
    return path


@pytest.fixture
def run(server, face_models, tmp_path, echo):
    def run(*arguments: str, workflow: Path = echo) -> tuple[int, Path]:
        output = tmp_path / "out"
        where = ["--server", server.address, "--base", str(face_models), "--output", str(output)]
        return main(["portrait", *where, "--workflow", str(workflow), *map(str, arguments)]), output

    before = signal.getsignal(signal.SIGTERM)
    yield run
    signal.signal(signal.SIGTERM, before)


def test_two_references_and_three_prompts(run, capsys):
    code, output = run()
    assert code == 0
    results = json.loads((output / "report.json").read_text())
    assert len(results) == 6 and {item["reference"] for item in results} == {
        "astronaut.png",
        "faceworld.webp",
    }
    assert all(item["identity"] > 0.99 for item in results)  # each is its own reference
    assert {path.name for path in output.glob("*-?.png")} == {
        f"{name}-{number}.png" for name in ("astronaut", "faceworld") for number in (1, 2, 3)
    }
    sheet = Image.open(output / "contact-sheet.png")
    assert sheet.size == (36 * 2 + 4 * 256 + 3 * 22, sheet.height)
    assert str(output / "contact-sheet.png") in capsys.readouterr().out


def test_ones_own_picture_and_words(run, tmp_path):
    mine = tmp_path / "mé & you.jpg"
    Image.open(FACEWORLD_REFERENCE).save(mine, quality=95)
    code, output = run("--reference", mine, "--prompt", "a man", "--seed", 7, "--steps", 3)
    (result,) = json.loads((output / "report.json").read_text(encoding="utf-8"))
    assert code == 0 and result["prompt"] == "a man" and result["seed"] == 7 and result["identity"] > 0.9


def test_a_picture_that_is_none(run, tmp_path, capsys):
    (tmp_path / "x.jpg").write_bytes(b"no")
    code, _ = run("--reference", tmp_path / "x.jpg")
    assert code == 1 and "x.jpg is no picture" in capsys.readouterr().err


def test_a_reference_without_a_face(run, tmp_path, capsys):
    Image.new("RGB", (200, 200), "grey").save(tmp_path / "wall.png")
    code, _ = run("--reference", tmp_path / "wall.png", "--prompt", "x")
    assert code == 1 and "no face was found in the reference wall.png" in capsys.readouterr().err


def test_without_face_models_portraits_are_made_and_not_measured(run, tmp_path, capsys):
    (tmp_path / "models").mkdir()
    code, output = run("--base", tmp_path, "--prompt", "x", "--reference", FACEWORLD_REFERENCE)
    told = capsys.readouterr()
    assert code == 0 and "Identity similarity is not measured" in told.err and "models/insightface" in told.err
    assert json.loads((output / "report.json").read_text())[0]["identity"] is None
    assert "not measured" in told.out


def test_a_job_that_fails_is_told_on_the_sheet(run, tmp_path, server, capsys):
    """The server's own node raises: the sheet says so, and the exit code too where nothing was made."""
    nodes = json.loads(json.dumps(NODES))
    nodes["5"] = {"class_type": "LoadImageMask", "inputs": {"image": "gone.png", "channel": "red"}}
    nodes["6"] = {"class_type": "MaskToImage", "inputs": {"mask": ["5", 0]}}
    nodes["4"]["inputs"]["images"] = ["6", 0]
    (server.base / "input" / "gone.png").write_bytes(b"not a picture")
    path = tmp_path / "failing.json"
    path.write_text(json.dumps(nodes))
    code, output = run("--prompt", "x", "--reference", FACEWORLD_REFERENCE, workflow=path)
    (result,) = json.loads((output / "report.json").read_text())
    assert code == 1 and not result["made"] and "(LoadImageMask) failed" in result["problem"]
    assert (output / "contact-sheet.png").exists()


def test_a_server_that_dies_in_between(monkeypatch, tmp_path, echo, face_models, capsys):
    @contextmanager
    def dead(options):
        yield "127.0.0.1:9", SimpleNamespace(alive=False, log="server.log", tail=lambda: "    out of memory")

    monkeypatch.setattr(portrait, "running_server", dead)
    arguments = [
        "--workflow",
        str(echo),
        "--output",
        str(tmp_path),
        "--base",
        str(face_models),
        "--prompt",
        "x",
    ]
    assert main(["portrait", *arguments]) == 1
    assert "ended by itself; server.log ends:\n    out of memory" in capsys.readouterr().err


def test_serve_stays_until_ctrl_c(run, monkeypatch, capsys):
    def stop(_):
        raise KeyboardInterrupt

    monkeypatch.setattr(portrait.time, "sleep", stop)
    code, _ = run("--serve", "--prompt", "x", "--reference", FACEWORLD_REFERENCE)
    assert code == 0 and "stays up at http://127.0.0.1:" in capsys.readouterr().out


@pytest.mark.skipif(os.name == "nt", reason="signals")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_stopping_the_demo_ends_the_server(number, tmp_path):
    """A stand-in for ComfyUI that never answers; the demo waits for it and is stopped."""
    (tmp_path / "main.py").write_text("import time; print('up', flush=True); time.sleep(120)")
    command = [
        sys.executable,
        "-m",
        "facecdm",
        "portrait",
        "--comfyui",
        tmp_path,
        "--base",
        tmp_path / "base",
    ]
    command += ["--reference", FACEWORLD_REFERENCE, "--output", tmp_path / "out", "--workflow", "echo.json"]
    (tmp_path / "echo.json").write_text(json.dumps(NODES))
    command[-1] = tmp_path / "echo.json"
    process = subprocess.Popen(list(map(str, command)), cwd=ROOT)
    log = tmp_path / "base" / "server.log"
    deadline = time.monotonic() + 60
    while not (log.exists() and "up" in log.read_text()):
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.1)
    children = subprocess.run(["ps", "--ppid", str(process.pid), "-o", "pid="], capture_output=True, text=True)
    (server,) = map(int, children.stdout.split())
    process.send_signal(number)
    assert process.wait(30) in (130, 143)
    with pytest.raises(ProcessLookupError):
        os.kill(server, 0)


def test_the_pictures_that_workflows_name_are_laid_out_and_yours_stay(tmp_path):
    (tmp_path / "faceworld.webp").write_bytes(b"mine")
    copy_examples(tmp_path)
    shipped = [json.loads(path.read_text(encoding="utf-8")) for path in WORKFLOW.parent.glob("*.json")]
    named = {
        node["inputs"]["image"] for nodes in shipped for node in nodes.values() if node["class_type"] == "LoadImage"
    }
    assert named and named <= {path.name for path in tmp_path.iterdir()}
    assert (tmp_path / "faceworld.webp").read_bytes() == b"mine"


def test_the_plan_is_references_times_prompts():
    references = read_references([FACEWORLD_REFERENCE, FACEWORLD_REFERENCE])
    assert [item.name for item in references] == ["faceworld.webp", "faceworld-2.webp"]
    jobs = plan(Workflow.parse(NODES), references, ["a", "b"], ["u.webp", "v.webp"], 5, 9)
    seen = [(j.workflow.get("Reference", "image"), j.workflow.get("Prompt", "text")) for j in jobs]
    assert seen == [("u.webp", "a"), ("u.webp", "b"), ("v.webp", "a"), ("v.webp", "b")]
    assert {(j.workflow.get("KSampler", "seed"), j.workflow.get("KSampler", "steps")) for j in jobs} == {(5, 9)}


def test_a_workflow_without_the_nodes_is_told():
    with pytest.raises(WorkflowMistake, match="has no node 'Prompt'"):
        nodes = {key: node for key, node in NODES.items() if key != "2"}
        plan(Workflow.parse(nodes), read_references([FACEWORLD_REFERENCE]), ["a"], ["u"], 1, None)


def test_a_damaged_picture(tmp_path):
    path = tmp_path / "half.webp"
    path.write_bytes(FACEWORLD_REFERENCE.read_bytes()[:2000])
    with pytest.raises(BadFile, match="half.webp is no picture"):
        read_references([path])


def test_a_sheet_of_odd_parts():
    """Pictures of any size, endless words, nothing made, no row at all."""
    results = (
        SheetImage("word " * 200, Image.new("RGB", (10, 900)), 1.7),
        SheetImage("x" * 500, Image.new("RGBA", (900, 10)), None),
        SheetImage("p", None, problem="node 3 (KSampler) failed: out of memory"),
        SheetImage("", Image.new("L", (1, 1)), -0.3),
    )
    sheet = contact_sheet("t" * 300, "s" * 500, [SheetRow("n" * 99, Image.new("RGB", (4, 4)), results)] * 2, cell=120)
    assert sheet.mode == "RGB" and sheet.width == 72 + 5 * 120 + 4 * 22
    assert contact_sheet("t", "s", []).width > 0


def test_words_are_wrapped_and_cut():
    draw, text = ImageDraw.Draw(Image.new("RGB", (1, 1))), font(14)
    lines = wrap(draw, "a young woman, long blond hair, smiling", text, 120, 2)
    assert len(lines) == 2 and all(draw.textlength(line, text) <= 120 for line in lines)
    assert lines[-1].endswith("…") and fit(draw, "short", text, 500) == "short"


class Terminal:
    def __init__(self, tty: bool):
        self.tty, self.text = tty, ""

    def isatty(self):
        return self.tty

    def write(self, text):
        self.text += text

    def flush(self):
        pass


def test_progress_renews_a_line_in_a_terminal_and_only_there():
    for tty in (True, False):
        stream = Terminal(tty)
        line = ProgressLine(2, stream)
        line.begin("astronaut")
        line.step(SimpleNamespace(value=5, maximum=20))
        line.end("identity 0.50")
        assert "1/2  astronaut: identity 0.50\n" in stream.text
        assert ("step 5/20" in stream.text) == ("\r" in stream.text) == tty

"""The portrait command from reference to sheet, with core nodes in place of a model."""

import json
import shutil
import signal
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest
from PIL import Image

from facecdm.apps import portrait
from facecdm.apps.portrait import plan
from facecdm.apps.references import FACEWORLD_REFERENCE, read_references
from facecdm.cli import main
from facecdm.comfy_api.errors import WorkflowMistake
from facecdm.comfy_api.workflow import Workflow

ROOT = Path(__file__).resolve().parents[2]
# The server checks only nodes that lead to an output: sampler and prompt need no links.
NODES = {
    "1": {"class_type": "LoadImage", "inputs": {"image": ""}, "_meta": {"title": "Reference"}},
    "2": {"class_type": "CLIPTextEncode", "inputs": {"text": ""}, "_meta": {"title": "Prompt"}},
    "3": {"class_type": "KSampler", "inputs": {"seed": 0, "steps": 20}},
    "4": {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": ""}},
}


@pytest.fixture
def echo(tmp_path) -> Path:
    """A workflow that returns the reference."""
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
        "faceworld.webp",
        "faceworld-2.webp",
    }
    assert all(item["identity"] > 0.99 for item in results)  # each is its own reference
    assert {path.name for path in output.glob("*-?.png")} == {
        f"{name}-{number}.png" for name in ("faceworld", "faceworld-2") for number in (1, 2, 3)
    }
    sheet = Image.open(output / "contact-sheet.png")
    assert sheet.size == (36 * 2 + 4 * 256 + 3 * 22, sheet.height)
    assert str(output / "contact-sheet.png") in capsys.readouterr().out


def test_a_picture_and_a_prompt_of_the_user(run, tmp_path):
    mine = tmp_path / "mé & you.jpg"
    Image.open(FACEWORLD_REFERENCE).save(mine, quality=95)
    code, output = run("--reference", mine, "--prompt", "a man", "--seed", 7, "--steps", 3)
    (result,) = json.loads((output / "report.json").read_text(encoding="utf-8"))
    assert code == 0 and result["prompt"] == "a man" and result["seed"] == 7 and result["identity"] > 0.9


def test_a_file_that_is_no_picture(run, tmp_path, capsys):
    (tmp_path / "x.jpg").write_bytes(b"no")
    code, _ = run("--reference", tmp_path / "x.jpg")
    assert code == 1 and "x.jpg is no picture" in capsys.readouterr().err


def test_a_reference_without_a_face(run, tmp_path, capsys):
    Image.new("RGB", (200, 200), "grey").save(tmp_path / "wall.png")
    code, _ = run("--reference", tmp_path / "wall.png", "--prompt", "x")
    assert code == 1 and "no face was found in the reference wall.png" in capsys.readouterr().err


def test_without_face_models_nothing_is_measured(run, tmp_path, capsys):
    (tmp_path / "models").mkdir()
    code, output = run("--base", tmp_path, "--prompt", "x", "--reference", FACEWORLD_REFERENCE)
    message = capsys.readouterr()
    assert code == 0 and "Identity similarity is not measured" in message.err and "models/insightface" in message.err
    assert json.loads((output / "report.json").read_text())[0]["identity"] is None
    assert "not measured" in message.out


def test_the_sheet_shows_a_failed_job(run, tmp_path, server, capsys):
    """A node raises; nothing was made, so the exit code is 1."""
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


@pytest.mark.parametrize("name", ["report.json", "contact-sheet.png", "ada-2.png"])
def test_no_file_of_the_output_folder_is_replaced(tmp_path, echo, capsys, name):
    """Those of an earlier run, also of an interrupted one, and the user's own. Refused before a server is asked."""
    ada = tmp_path / "ada.webp"
    shutil.copy(FACEWORLD_REFERENCE, ada)
    output = tmp_path / "album"
    output.mkdir()
    (output / name).write_text("mine")
    where = ["--server", "127.0.0.1:9", "--workflow", str(echo), "--output", str(output)]
    assert main(["portrait", *where, "--reference", str(ada), "--prompt", "x", "--prompt", "y"]) == 1
    assert f"{output} already has {name}, and no file is replaced: choose another" in capsys.readouterr().err
    assert [(path.name, path.read_text()) for path in output.iterdir()] == [(name, "mine")]


def test_a_server_that_does_not_answer_is_not_reported_as_one_that_does(tmp_path, echo, capsys):
    """Port 9 of this machine has no server."""
    output = tmp_path / "out"
    assert main(["portrait", "--server", "127.0.0.1:9", "--workflow", str(echo), "--output", str(output)]) == 1
    message = capsys.readouterr()
    assert "no ComfyUI answers at http://127.0.0.1:9" in message.err and "ComfyUI answers" not in message.out


def test_a_server_that_dies(monkeypatch, tmp_path, echo, face_models, capsys):
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


def test_the_plan_is_references_times_prompts():
    references = read_references([FACEWORLD_REFERENCE, FACEWORLD_REFERENCE])
    assert [item.name for item in references] == ["faceworld.webp", "faceworld-2.webp"]
    jobs = plan(Workflow.parse(NODES), references, ["a", "b"], ["u.webp", "v.webp"], 5, 9)
    edits = [(j.workflow.get("Reference", "image"), j.workflow.get("Prompt", "text")) for j in jobs]
    assert edits == [("u.webp", "a"), ("u.webp", "b"), ("v.webp", "a"), ("v.webp", "b")]
    assert {(j.workflow.get("KSampler", "seed"), j.workflow.get("KSampler", "steps")) for j in jobs} == {(5, 9)}


def test_a_workflow_that_lacks_a_node():
    with pytest.raises(WorkflowMistake, match="has no node 'Prompt'"):
        nodes = {key: node for key, node in NODES.items() if key != "2"}
        plan(Workflow.parse(nodes), read_references([FACEWORLD_REFERENCE]), ["a"], ["u"], 1, None)

"""Commands that start a server: they end it, however they end themselves."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from facecdm import cli
from facecdm.apps.references import FACEWORLD_REFERENCE

ROOT = Path(__file__).resolve().parents[2]
COMMANDS = {
    "portrait": ["--reference", FACEWORLD_REFERENCE, "--output", "FOLDER/out", "--workflow", "FOLDER/w.json"],
    "gallery": ["--adapter", "FOLDER/mine.safetensors", "--output", "FOLDER/out", "--docs", "FOLDER/docs"],
}


def listen_to_ctrl_c() -> None:
    """In the child: undo what a shell does to commands that it starts in the background."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@pytest.mark.parametrize("name", COMMANDS)
def test_nothing_is_written_into_a_folder_that_is_no_comfyui(name, tmp_path, capsys):
    wrong = tmp_path / "wrong"
    (tmp_path / "w.json").write_text(json.dumps({"1": {"class_type": "SaveImage", "inputs": {}}}))
    (tmp_path / "mine.safetensors").write_bytes(b"x")
    before = sorted(tmp_path.iterdir())
    arguments = [str(word).replace("FOLDER", str(tmp_path)) for word in COMMANDS[name]]
    assert cli.main([name, "--comfyui", str(wrong), *arguments]) == 1
    assert f"{wrong} is no ComfyUI folder: it has no main.py" in capsys.readouterr().err
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.skipif(os.name == "nt", reason="signals")
@pytest.mark.parametrize("name", COMMANDS)
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stopped_command_ends_its_server_and_leaves_no_file(name, number, tmp_path):
    """A stand-in for ComfyUI never answers; the command waits for it and is stopped."""
    (tmp_path / "comfy").mkdir()
    (tmp_path / "main.py").write_text("import time; print('up', flush=True); time.sleep(120)")
    (tmp_path / "w.json").write_text(json.dumps({"1": {"class_type": "SaveImage", "inputs": {}}}))
    (tmp_path / "mine.safetensors").write_bytes(b"x")
    base = tmp_path / "base"
    command = [sys.executable, "-m", "facecdm", name, "--comfyui", tmp_path, "--base", base, *COMMANDS[name]]
    process = subprocess.Popen(
        [str(word).replace("FOLDER", str(tmp_path)) for word in command], cwd=ROOT, preexec_fn=listen_to_ctrl_c
    )
    log = base / "server.log"
    deadline = time.monotonic() + 300
    while not (log.exists() and "up" in log.read_text()):
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.1)
    children = subprocess.run(["ps", "--ppid", str(process.pid), "-o", "pid="], capture_output=True, text=True)
    (server,) = map(int, children.stdout.split())
    copies = list((base / "models" / "facecdm").glob("*")) if name == "gallery" else []
    assert bool(copies) == (name == "gallery")
    process.send_signal(number)
    assert process.wait(200) in (130, 143)
    with pytest.raises(ProcessLookupError):
        os.kill(server, 0)
    assert not any(path.exists() for path in copies)
    assert not any(path.is_file() for folder in ("out", "docs") for path in (tmp_path / folder).rglob("*"))

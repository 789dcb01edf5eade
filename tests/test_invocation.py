"""FaceCDM's commands in a Python that ignores the current folder, as that of ComfyUI's portable build does."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.mark.parametrize("start", [("facecdm", "get"), ("quickstart.py", "demo")])
def test_commands_start_in_an_isolated_python(start, tmp_path):
    """-I does what the ._pth file of an embeddable Python does: neither the folder nor PYTHON* variables count."""
    program, command = start
    for folder, path in ((ROOT, program), (tmp_path, str(ROOT / program))):
        done = subprocess.run(
            [sys.executable, "-I", path, command, "--help"], cwd=folder, capture_output=True, text=True
        )
        assert done.returncode == 0 and "--comfyui" in done.stdout, done.stderr


def test_messages_name_a_line_that_works_there(tmp_path):
    """As copied into a shell, in any folder."""
    code = "from facecdm.invocation import command_line; print(command_line('get x'))"
    print_line = f"import sys; sys.path.insert(0, sys.argv[1]); {code}"
    line = subprocess.run([sys.executable, "-I", "-c", print_line, ROOT], capture_output=True, text=True).stdout.strip()
    done = subprocess.run(f"{line} --list", shell=True, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0 and "sdxl_pulid" in done.stdout, line + done.stderr
    usual = subprocess.run(
        [sys.executable, "-c", print_line, ROOT], cwd=tmp_path, env=dict(os.environ), capture_output=True, text=True
    )
    assert usual.stdout.strip() == "python -m facecdm get x"

"""quickstart.py: it runs with nothing installed, passes options on, and reports mistakes before it sets anything up."""

import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from full_disk import disk

from facecdm.quickstart import environment, steps

ROOT = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.usefixtures("home")


@pytest.fixture
def quickstart():
    spec = importlib.util.spec_from_file_location("facecdm_quickstart", ROOT / "quickstart.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_it_needs_the_standard_library_only():
    """-S hides site-packages. The demo's options come from facecdm, so this includes facecdm."""
    for arguments in (["--help"], ["demo", "--help"]):
        command = [sys.executable, "-S", "-E", "quickstart.py", *arguments]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
    assert all(option in done.stdout for option in ("--reference", "--prompt", "--serve", "--comfyui", "--seed"))
    names = ", ".join(path.stem for path in (ROOT / "facecdm" / "quickstart").glob("[a-z]*.py"))
    code = f"from facecdm.quickstart import {names}"
    assert subprocess.run([sys.executable, "-S", "-E", "-c", code], cwd=ROOT).returncode == 0


def test_a_folder_without_a_comfyui(quickstart, tmp_path, capsys):
    assert quickstart.main(["demo", "--comfyui", str(tmp_path)]) == 1
    assert "it has no main.py" in capsys.readouterr().err


def test_a_missing_reference_is_reported_before_any_set_up(quickstart, home, capsys):
    with pytest.raises(SystemExit):
        quickstart.main(["demo", "--reference", "nowhere.jpg"])
    assert "there is no file nowhere.jpg" in capsys.readouterr().err and not home.exists()


def test_options_are_passed_on_with_absolute_paths(quickstart):
    assert quickstart.as_arguments("prompt", ["a b", "-c"]) == ["--prompt=a b", "--prompt=-c"]
    assert quickstart.as_arguments("output", Path("x")) == [f"--output={os.path.abspath('x')}"]
    assert quickstart.as_arguments("serve", True) == ["--serve"] and quickstart.as_arguments("serve", False) == []
    assert quickstart.as_arguments("steps", 4) == ["--steps=4"] and quickstart.as_arguments("port", None) == []


def test_the_variables_choose_the_comfyui_of_the_tests(quickstart, monkeypatch, tmp_path):
    found = {}
    monkeypatch.setenv("FACECDM_COMFYUI", str(tmp_path))
    monkeypatch.setenv("FACECDM_PYTHON", "/x/python")
    monkeypatch.delenv("FACECDM_BASE", raising=False)
    monkeypatch.setattr(
        environment, "set_up", lambda *asked, tests: found.update(asked=asked) or (Path("/y"), tmp_path)
    )
    monkeypatch.setattr("facecdm.quickstart.browser.get_browser", lambda python: "none here")
    monkeypatch.setattr(quickstart, "hand_over", lambda *command: found.update(command=command) or 0)
    assert quickstart.main(["test", "-k", "x"]) == 0
    python, arguments, settings = found["command"]
    assert found["asked"] == (str(tmp_path), "/x/python") and python == Path("/y")
    assert arguments == ["-m", "pytest", *quickstart.IN_PARALLEL, "-k", "x"]
    assert settings["FACECDM_COMFYUI"] == str(tmp_path)
    assert settings["FACECDM_NO_BROWSER"] == "none here" and settings["FACECDM_BASE"].endswith("base")


def test_ctrl_c_during_set_up_says_how_to_continue(quickstart, monkeypatch, capsys):
    def stop(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(environment, "set_up", stop)
    assert quickstart.main(["test"]) == 130
    assert "continues from here" in capsys.readouterr().err


def test_a_folder_that_cannot_be_written(quickstart, home, capsys):
    home.touch()  # stands for a clone without write permission, which root does not notice
    assert quickstart.main(["test"]) == 1
    message = capsys.readouterr().err
    assert f"could not be set up: {home}" in message and "It needs a clone that you can write to" in message


def test_every_write_on_a_full_disk(quickstart, home, monkeypatch, capsys):
    """The log, the command's output in it, and the step's stamp."""

    def set_up(*_, **__):
        steps.run([sys.executable, "-c", "print('x')"], "failed")
        steps.Step("a", "A", (), lambda: None).run()
        return Path(sys.executable), home

    monkeypatch.setattr(environment, "set_up", set_up)
    monkeypatch.setattr("facecdm.quickstart.browser.get_browser", lambda python: "")
    monkeypatch.setattr(quickstart, "hand_over", lambda *_: 0)
    for number in range(1, 100):
        shutil.rmtree(home, ignore_errors=True)
        with disk(home, number) as found:
            code = quickstart.main(["test"])
        message = capsys.readouterr().err
        if found.asked < number:
            break
        assert code == 1 and "No space left on device" in message and "8 GB of free space" in message
    assert code == 0 and number > 4


def test_an_old_python_is_refused(quickstart, monkeypatch, capsys):
    monkeypatch.setattr(quickstart.sys, "version_info", (3, 9, 1))
    assert quickstart.main(["demo"]) == 1
    assert "needs Python 3.10" in capsys.readouterr().err

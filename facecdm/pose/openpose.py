"""OpenPose by the package controlnet_aux: body, hands and face from three weight files."""

import logging
import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..errors import BadFile, MissingModel, MissingPackage
from ..tensor_file import check_weights, read_tensors
from .layout import BODY_SIZE, FACE_SIZE, HAND_SIZE
from .value import PosePerson

FOLDER = "openpose"  # below models/
FILES = {"body": "body_pose_model.pth", "hands": "hand_pose_model.pth", "face": "facenet.pth"}
SOURCE = "lllyasviel/Annotators on Hugging Face"
INSTALL = (
    "OpenPose needs the package controlnet_aux. In ComfyUI's Python: `python -m pip install --no-deps controlnet_aux` "
    "and `python -m pip install timm einops scikit-image scipy` (--no-deps keeps your torch and OpenCV). "
    "Then restart ComfyUI. Or choose the detector 'face key points', which needs nothing more."
)


@dataclass(frozen=True, eq=False)
class OpenPoseDetector:
    """Finds people in uint8 BGR pictures. Weights are read from files, never downloaded.

    OpenPose's licence (CMU) allows non-commercial use only.
    """

    model: object
    hands: bool
    face: bool
    side: int = 512  # the shorter side is scaled to it, as in controlnet_aux

    @classmethod
    def open(
        cls, folders: list[Path], device: str = "cpu", hands: bool = True, face: bool = True
    ) -> "OpenPoseDetector":
        """Open the weights. Raises MissingPackage, MissingModel (names file and folder), BadFile."""
        paths = dict(zip(FILES, find_files(folders), strict=True))
        parts = import_openpose()
        loaded = {task: _load(parts[task], path) for task, path in paths.items()}
        model = parts["all"](loaded["body"], loaded["hands"], loaded["face"]).to(device)
        return cls(model, hands, face)

    def to(self, device) -> None:
        self.model.to(device)

    def __call__(self, bgr: np.ndarray) -> list[PosePerson]:
        import cv2

        height, width = bgr.shape[:2]
        scale = self.side / min(height, width)
        size = tuple(max(64, round(side * scale / 64) * 64) for side in (width, height))  # multiples of 64, as upstream
        method = cv2.INTER_LANCZOS4 if scale > 1 else cv2.INTER_AREA
        rgb = cv2.resize(np.ascontiguousarray(bgr[..., ::-1]), size, interpolation=method)
        found = self.model.detect_poses(rgb, include_hand=self.hands, include_face=self.face)
        return [
            PosePerson(
                body=_table(person.body.keypoints, BODY_SIZE, width, height),
                left_hand=_table(person.left_hand, HAND_SIZE, width, height),
                right_hand=_table(person.right_hand, HAND_SIZE, width, height),
                face=_table(person.face, FACE_SIZE, width, height),
            )
            for person in found
        ]


def import_openpose() -> dict[str, type]:
    """Import the classes of controlnet_aux. Raises MissingPackage."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about mmcv, mediapipe …, which OpenPose does not need
            from controlnet_aux.open_pose import Body, Face, Hand, OpenposeDetector
    except ImportError as error:
        raise MissingPackage(f"{INSTALL} ({error})") from error
    except AttributeError as error:  # incompatible with the installed mediapipe or OpenCV
        raise MissingPackage(f"controlnet_aux is installed but cannot be imported ({error}). {INSTALL}") from error
    return {"body": Body, "hands": Hand, "face": Face, "all": OpenposeDetector}


def find_files(folders: list[Path]) -> list[Path]:
    """The weight files in the order of FILES; upstream loads all three or none. Raises MissingModel."""
    return [_find(folders, name) for name in FILES.values()]


def _find(folders: list[Path], name: str) -> Path:
    for folder in folders:
        if (folder / name).is_file():
            return folder / name
    first = folders[0] if folders else Path("models") / FOLDER
    raise MissingModel(
        f"OpenPose's weights {name} are not in {first}. Get {', '.join(FILES.values())} from {SOURCE} "
        "and put them there (nothing is downloaded automatically), or choose the detector 'face key "
        "points'."
    )


def _load(part: type, path: Path):
    for name, tensor in read_tensors(path)[0].items():  # check first, since controlnet_aux does not
        check_weights(name, tensor, path)
    try:
        return part(str(path))
    except Exception as error:  # torch's pickle errors are of many types; a wrong file lacks keys
        logging.getLogger("facecdm").debug("OpenPose", exc_info=error)
        raise BadFile(
            f"{path} cannot be read as OpenPose's weights ({str(error).splitlines()[0][:200]}). It is "
            f"probably cut off or another file: get it again from {SOURCE}."
        ) from error


def _table(points: list | None, count: int, width: int, height: int) -> np.ndarray:
    """Convert controlnet_aux's points from shares of the picture to [count, 3] in pixels. −1 means invisible."""
    table = np.zeros((count, 3), np.float32)
    for index, point in enumerate((points or [])[:count]):
        if point is not None and point.x >= 0 and point.y >= 0:
            table[index] = point.x * width, point.y * height, 1.0
    return table

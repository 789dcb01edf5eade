"""DWPose by the package rtmlib and ONNX Runtime: YOLOX detects people, RTMPose finds 133 key points of each."""

import io
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..errors import BadFile, FaceCDMError, MissingModel, MissingPackage
from ..faces.onnxinfo import read_signature
from ..faces.providers import CPU, choose_providers
from .value import PosePerson

FOLDER = "dwpose"  # below models/
SOURCE = "yzd-v/DWPose on Hugging Face (yolox_l.onnx and dw-ll_ucoco_384.onnx)"
INSTALL = (
    "DWPose needs the package rtmlib. In ComfyUI's Python: `python -m pip install --no-deps rtmlib` (--no-deps keeps "
    "your onnxruntime and OpenCV). Then restart ComfyUI. Or choose the detector 'face key points', which "
    "needs nothing more."
)
# Slices of the 134 points: rtmlib adds the neck to COCO-WholeBody's points and puts the body in OpenPose's order.
BODY, FACE68, LEFT_HAND, RIGHT_HAND = slice(0, 18), slice(24, 92), slice(92, 113), slice(113, 134)
EYES = (14, 15)  # body points that are used as the pupils of the face
MIN_CONFIDENCE = 0.3  # of a key point


@dataclass(frozen=True, eq=False)
class DWPoseDetector:
    """Finds people in uint8 BGR pictures. Weights are read from files, never downloaded."""

    people: object  # rtmlib's YOLOX
    points: object  # rtmlib's RTMPose
    provider: str  # used by ONNX Runtime

    @classmethod
    def open(cls, folders: list[Path], provider: str = "auto", min_score: float = 0.5) -> "DWPoseDetector":
        """Open the weights. Raises MissingPackage, MissingModel (names file and folder), BadFile."""
        detector, pose = find_files(folders)
        yolox, rtmpose = import_rtmlib()
        import onnxruntime

        providers, _ = choose_providers(provider, onnxruntime.get_available_providers())
        people = _load(yolox, detector, providers, (640, 640), score_thr=min_score)
        points = _load(rtmpose, pose, providers, (384, 288), to_openpose=True)
        return cls(people, points, points.session.get_providers()[0])

    def __call__(self, bgr: np.ndarray) -> list[PosePerson]:
        boxes = _boxes(self.people(bgr))
        if not len(boxes):  # rtmlib would treat the whole picture as a person
            return []
        points, scores = self.points(bgr, bboxes=boxes)
        return [_person(np.hstack([xy, score[:, None]])) for xy, score in zip(points, scores, strict=True)]


def find_files(folders: list[Path]) -> tuple[Path, Path]:
    """(detector, pose model): the first .onnx files with and without "yolo" in the name. Raises MissingModel."""
    files = [path for folder in folders if folder.is_dir() for path in sorted(folder.glob("*.onnx"))]
    detectors = [path for path in files if "yolo" in path.name.lower()]
    poses = [path for path in files if path not in detectors]
    if not detectors or not poses:
        first = folders[0] if folders else Path("models") / FOLDER
        have = ", ".join(path.name for path in files) or "nothing"
        raise MissingModel(
            f"DWPose needs a people detector (yolox….onnx) and a pose model in {first}, which has "
            f"{have}. Get them from {SOURCE} and put them there (nothing is downloaded automatically), or "
            "choose the detector 'face key points'."
        )
    return detectors[0], poses[0]


def import_rtmlib() -> tuple[type, type]:
    """Import YOLOX and RTMPose. Raises MissingPackage."""
    try:
        from rtmlib import YOLOX, RTMPose

        return YOLOX, RTMPose
    except ImportError as error:
        raise MissingPackage(f"{INSTALL} ({error})") from error


def _load(kind: type, path: Path, providers: list[str], size: tuple[int, int], **options):
    """Load a model of rtmlib. `size` (height, width) applies to models with a free input size. Raises BadFile."""
    import onnxruntime

    try:
        signature = read_signature(path)
        sides = signature.inputs[0][2:]
        height, width = sides if len(sides) == 2 and all(sides) else size  # None or 0: free
        if kind.__name__ == "YOLOX":
            # Five columns: the file detects people only and includes non-maximum suppression; else it has classes.
            options["det_mode"] = "human" if signature.outputs[0][-1] == 5 else "multiclass"
            size = (height, width)
        else:
            size = (width, height)
        with redirect_stdout(io.StringIO()):  # rtmlib prints the path
            model = kind(str(path), model_input_size=size, backend="onnxruntime", device="cpu", **options)
        if providers != [CPU]:
            model.session = onnxruntime.InferenceSession(str(path), providers=providers)
    except FaceCDMError:
        raise
    except Exception as error:  # ONNX Runtime's own error types are private and differ between versions
        raise BadFile(
            f"{path} cannot be opened by ONNX Runtime ({str(error).splitlines()[0][:200]}). The file is "
            f"probably damaged or was cut off: get it again from {SOURCE}."
        ) from error
    return model


def _boxes(found) -> np.ndarray:
    """Boxes of people [N, 4] from YOLOX's output: boxes alone, or (boxes, classes) with class 0 for people."""
    boxes, classes = found if isinstance(found, tuple) else (found, None)
    boxes = np.asarray(boxes, np.float32).reshape(-1, 4)
    boxes = boxes if classes is None else boxes[np.asarray(classes).reshape(-1) == 0]
    return boxes[np.isfinite(boxes).all(1)]


def _person(points: np.ndarray) -> PosePerson:
    """[134, 3] → a PosePerson. Points below MIN_CONFIDENCE are invisible."""
    points = np.where((points[:, 2:] >= MIN_CONFIDENCE) & np.isfinite(points).all(1, keepdims=True), points, 0)
    points[:, 2] = points[:, 2].clip(0, 1)
    return PosePerson(
        body=points[BODY],
        face=np.concatenate([points[FACE68], points[list(EYES)]]),
        left_hand=points[LEFT_HAND],
        right_hand=points[RIGHT_HAND],
    )

"""The face analyzer: InsightFace's detector and recogniser, loaded once, one file at a time."""

import logging
import threading
import warnings
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from ..errors import BadFile
from .detection import FaceDetection
from .ir_se50 import IrSe50Recogniser
from .packs import ADVICE, IR_SE50, PackFiles, find_pack, sort_pack
from .providers import CPU, choose_providers, import_insightface
from .turns import turned_face, turned_picture, turned_points, turns_to_upright
from .value import AURAFACE

logger = logging.getLogger("facecdm")

LICENCE = (
    "InsightFace's model weights are for non-commercial research only; "
    "for other use ask InsightFace for a licence. Use faces of people who agreed."
)
AURAFACE_LICENCE = (
    "AuraFace's recogniser is licensed under Apache-2.0 (fal/AuraFace-v1). No published adapter was trained with it; "
    "your own adapters can be."
)
_licence_shown = threading.Event()


def open_pack(folders: list[Path], name: str, provider: str = "auto", landmarks: bool = False) -> "FaceAnalyzer":
    """Load the pack called `name` from the given `insightface` folders.

    Raises MissingModel, BadFile, MissingPackage.
    """
    analyzer = FaceAnalyzer(sort_pack(name, find_pack(folders, name), landmarks), provider)
    analyzer.load()
    return analyzer


@dataclass
class FaceAnalyzer:
    """Detector, recogniser and optional 106-landmark model. Pictures are uint8 BGR [H, W, 3], as in InsightFace.

    load() makes the sessions and unload() drops them; they are made again when needed. Thread-safe: sessions are
    shared, and a lock guards the detector's settings.
    """

    files: PackFiles
    provider: str = "auto"
    notices: list[str] = field(default_factory=list)
    _models: dict = field(default_factory=dict, repr=False)
    _lock: threading.RLock = field(default_factory=threading.RLock, repr=False)

    def __deepcopy__(self, memo: dict) -> "FaceAnalyzer":
        return self  # sessions are shared, never copied

    @property
    def recogniser(self) -> str:
        return self.files.recogniser_name

    @property
    def loaded(self) -> bool:
        return bool(self._models)

    def load(self) -> None:
        """Make the sessions. Raises MissingPackage, BadFile."""
        with self._lock:
            if self._models:
                return
            import_insightface()
            import onnxruntime

            providers, warning = choose_providers(self.provider, onnxruntime.get_available_providers())
            self.notices = [warning] if warning else []
            files = {
                "detector": self.files.detector,
                "recogniser": self.files.recogniser,
                "landmarks": self.files.landmarks,
            }
            models = {task: _open(path, providers) for task, path in files.items() if path is not None}
            self._models = models
            if providers[0] != CPU and self.provider_got == CPU:
                self.notices.append(
                    f"{providers[0]} could not be started (a missing or wrong CUDA, cuDNN or driver is the "
                    "usual cause; see the console), so ONNX Runtime fell back to the CPU."
                )
            for text in self.notices:
                logger.warning("FaceCDM: %s", text)

    def unload(self) -> None:
        with self._lock:
            self._models = {}

    @property
    def provider_got(self) -> str:
        """The provider of the recogniser's session; that of the detector's session if the recogniser runs in torch."""
        self.load()
        session = getattr(self._models["recogniser"], "session", None) or self._models["detector"].session
        return session.get_providers()[0]

    def detect(self, picture: np.ndarray, size: int, min_score: float) -> list[FaceDetection]:
        """Detect the faces of a picture, which is scaled to fit size × size. Best score first."""
        if min(picture.shape[:2]) * size < max(picture.shape[:2]):
            return []  # the shorter side would be scaled to less than a pixel
        with self._lock:
            self.load()
            detector = self._models["detector"]
            detector.det_thresh = min_score
            fixed = detector.session.get_inputs()[0].shape[2:4]
            height, width = fixed if all(isinstance(side, int) for side in fixed) else (size, size)
            boxes, points = detector.detect(picture, input_size=(width, height))
        found = [
            FaceDetection(box[:4].astype(np.float32), float(box[4]), point.astype(np.float32))
            for box, point in zip(boxes, points, strict=True)
        ]
        return [face for face in found if np.isfinite(face.box).all() and np.isfinite(face.keypoints).all()]

    def embed(self, picture: np.ndarray, face: FaceDetection) -> tuple[np.ndarray, np.ndarray | None]:
        """Return (raw embedding [D], landmarks [106, 2] or None), float32, of one face."""
        with self._lock, warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # InsightFace uses deprecated scikit-image names
            self.load()
            embedding = self._models["recogniser"].get(picture, _insightface_face(face))
            points = self._landmarks(picture, face) if "landmarks" in self._models else None
        return np.asarray(embedding, dtype=np.float32).reshape(-1), points

    def _landmarks(self, picture: np.ndarray, face: FaceDetection) -> np.ndarray:
        """Landmarks [106, 2] float32. This model needs an upright face; the recogniser aligns by key points itself."""
        turns = turns_to_upright(face.keypoints)
        if turns == 0:
            points = self._models["landmarks"].get(picture, _insightface_face(face))
            return np.asarray(points, dtype=np.float32)[:, :2]
        upright = turned_picture(picture, turns)
        points = self._models["landmarks"].get(upright, _insightface_face(turned_face(face, turns, *picture.shape[:2])))
        return turned_points(np.asarray(points, dtype=np.float32)[:, :2], -turns, *upright.shape[:2])

    def report(self) -> str:
        """Describe pack, files, provider and warnings; once per process also the licence of the weights."""
        files = [self.files.detector, self.files.recogniser, self.files.landmarks]
        lines = [
            f"Face pack {self.files.name} on {self.provider_got.removesuffix('ExecutionProvider')}: "
            + ", ".join(path.name for path in files if path)
        ]
        lines += [f"Warning: {text}" for text in self.notices]
        if AURAFACE in self.files.name.lower():
            lines.append(AURAFACE_LICENCE)
        if not _licence_shown.is_set():
            _licence_shown.set()
            logger.warning("FaceCDM: %s", LICENCE)
            lines.append(LICENCE)
        return "\n".join(lines)


def _insightface_face(face: FaceDetection):
    from insightface.app.common import Face

    return Face(bbox=face.box, kps=face.keypoints, det_score=face.score)


def _open(path: Path, providers: list[str]):
    """Open one model of InsightFace's model zoo, or facexlib's recogniser. Raises BadFile."""
    from insightface import model_zoo

    if path.name == IR_SE50:
        return IrSe50Recogniser(path)

    # InsightFace 2 would make a session for each detection size; 0.7 ignores the option. CoreML needs fixed shapes.
    options = {} if "CoreMLExecutionProvider" in providers else {"static_shape_sessions": False}
    try:
        model = model_zoo.get_model(str(path), providers=providers, **options)
    except Exception as error:  # ONNX Runtime's own error types are private and differ between versions
        raise BadFile(
            f"{path} cannot be opened by ONNX Runtime ({str(error).splitlines()[0][:200]}). The file is "
            "probably damaged or was cut off: delete it and get the pack again."
        ) from error
    if model is None:
        raise BadFile(f"{path} is not a face model that InsightFace knows. {ADVICE}")
    batched = model.taskname == "detection" and len(model.session.get_outputs()[0].shape) == 3
    if batched and not hasattr(model, "batched"):
        model.session = _Unbatched(model.session)
    return model


class _Unbatched:
    """Detector session that removes the batch axis of its outputs; InsightFace 0.7 does not expect one."""

    def __init__(self, session) -> None:
        self._session = session

    def __getattr__(self, name: str):
        return getattr(self._session, name)

    def run(self, *arguments) -> list[np.ndarray]:
        return [output[0] for output in self._session.run(*arguments)]

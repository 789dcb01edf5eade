"""Detection of `Faces` in pictures: search, choose, embed, crop, report."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ..errors import FaceCDMError, NoFace
from ..pictures import uint8_rgb
from .align import aligned_crop, ellipse_mask
from .analyzer import FaceAnalyzer
from .detection import FaceDetection
from .search import search
from .value import BadFace, Face, Faces

NO_FACE = ("skip", "error")
CHOICES = ("largest", "best score", "left to right", "index", "all")


@dataclass(frozen=True)
class Options:
    """Settings of a detection. Raises FaceCDMError.

    choice          largest · best score · left to right (the index-th from the left) ·
                    index (the index-th by size) · all (every face, from left to right)
    index           from 0, for "left to right" and "index"
    min_score       lowest score that counts as a face, 0 … 1
    no_face         "skip": leave the picture out and report it · "error": raise NoFace
    crop_size       side of the crops in pixels
    crop_margin     border of the crop on each side, in face sizes
    detection_size  pictures are scaled to this size in pixels for the detector
    thorough        see `search.search`
    mask_grow       size of the mask; 1 reaches from forehead to chin
    mask_feather    width of the mask's soft edge, in half faces
    """

    choice: str = "largest"
    index: int = 0
    min_score: float = 0.5
    no_face: str = "skip"
    crop_size: int = 224
    crop_margin: float = 0.0
    detection_size: int = 640
    thorough: bool = True
    mask_grow: float = 1.0
    mask_feather: float = 0.15

    def __post_init__(self) -> None:
        for name, value, known in (("choice", self.choice, CHOICES), ("no_face", self.no_face, NO_FACE)):
            if value not in known:
                raise FaceCDMError(f"{name} is {value!r}; choose one of {', '.join(known)}.")
        if not (16 <= self.crop_size <= 4096 and 32 <= self.detection_size <= 4096 and self.index >= 0):
            raise FaceCDMError("crop_size must be 16 … 4096, detection_size 32 … 4096, index 0 or more.")


@dataclass(frozen=True)
class PictureFaces:
    """The faces of one picture.

    found    all faces, in the order of the choice
    chosen   indices into `found`
    problem  the reason why no face was chosen, or ""
    """

    found: tuple[FaceDetection, ...]
    chosen: tuple[int, ...]
    problem: str = ""


@dataclass(frozen=True)
class DetectionResult:
    """Result for a batch of B pictures with N chosen faces.

    crops     [N, S, S, 3] RGB 0 … 1; one black picture if N is 0
    mask      [B, H, W] 0 … 1, covers the chosen faces
    pictures  one entry for each picture
    report    for the user
    """

    faces: Faces
    crops: Tensor
    mask: Tensor
    pictures: tuple[PictureFaces, ...]
    report: str

    @property
    def problems(self) -> list[str]:
        """A sentence for each skipped picture."""
        return [
            f"Picture {index}: skipped, {picture.problem}"
            for index, picture in enumerate(self.pictures)
            if picture.problem
        ]


def detect_faces(
    analyzer: FaceAnalyzer,
    images: Tensor,
    options: Options = Options(),
    progress: Callable[[int, int], None] | None = None,
) -> DetectionResult:
    """Detect and embed the faces of a batch of pictures, IMAGE [B, H, W, C] 0 … 1: RGB, RGBA or grey.

    progress(done, pictures) is called after every picture. A picture with NaN or without pixels is skipped and
    reported. Raises NoFace (no_face = "error"), FaceCDMError (not a batch of pictures).
    """
    if images.ndim != 4:
        raise FaceCDMError(f"images must have the shape [batch, height, width, colours], not {list(images.shape)}.")
    faces: list[Face] = []
    pictures: list[PictureFaces] = []
    for index, image in enumerate(images):
        picture, embedded = _one_picture(analyzer, image, index, options)
        if picture.problem and options.no_face == "error":
            raise NoFace(
                f"Picture {index}: {picture.problem}. Choose another picture, lower min_score, or set no_face to skip."
            )
        faces += embedded
        pictures.append(picture)
        if progress:
            progress(index + 1, len(images))
    crops = [face.crop for face in faces] or [torch.zeros(options.crop_size, options.crop_size, 3)]
    return DetectionResult(
        faces=Faces(tuple(faces), analyzer.recogniser, len(images)),
        crops=torch.stack(crops),
        mask=_masks(faces, images.shape, options),
        pictures=tuple(pictures),
        report="\n".join([analyzer.report(), _summary(faces, pictures)]),
    )


def to_bgr(image: Tensor) -> np.ndarray | None:
    """Convert one IMAGE [H, W, C] 0 … 1 to uint8 BGR [H, W, 3]; None if it has NaN or no pixels."""
    if image.numel() == 0:
        return None
    image = image.detach().float()
    return np.ascontiguousarray(uint8_rgb(image)[..., ::-1]) if torch.isfinite(image).all() else None


def choose(found: list[FaceDetection], options: Options) -> tuple[list[FaceDetection], list[int]]:
    """Return (the faces in the order of the choice, indices of the chosen ones, possibly none)."""
    keys = {
        "largest": lambda face: -_area(face),
        "index": lambda face: -_area(face),
        "best score": lambda face: -face.score,
        "left to right": lambda face: face.box[0] + face.box[2],
        "all": lambda face: face.box[0] + face.box[2],
    }
    ordered = sorted(found, key=keys[options.choice])
    if options.choice == "all":
        return ordered, list(range(len(ordered)))
    index = options.index if options.choice in ("index", "left to right") else 0
    return ordered, [index] if index < len(ordered) else []


def _area(face: FaceDetection) -> float:
    return float(np.prod(np.maximum(face.box[2:] - face.box[:2], 0)))


def _one_picture(
    analyzer: FaceAnalyzer, image: Tensor, index: int, options: Options
) -> tuple[PictureFaces, list[Face]]:
    bgr = to_bgr(image)
    if bgr is None:
        return PictureFaces((), (), "the picture holds NaN or infinity" if image.numel() else "no pixels"), []
    found, chosen = choose(search(analyzer, bgr, options.detection_size, options.min_score, options.thorough), options)
    problem = ""
    if not found:
        problem = f"no face with a score of at least {options.min_score:g}"
    elif not chosen:
        problem = f"index {options.index} (counted from 0) is beyond the faces: only {len(found)} found"
    faces, kept = [], []
    for number in chosen:
        try:
            faces.append(_embedded(analyzer, bgr, found[number], index, options))
            kept.append(number)
        except (BadFace, ValueError) as error:  # degenerate key points, overflow in the recogniser
            problem = f"face {number} could not be embedded: {error}"
    return PictureFaces(tuple(found), tuple(kept), problem if not kept else ""), faces


def _embedded(analyzer: FaceAnalyzer, bgr: np.ndarray, found: FaceDetection, index: int, options: Options) -> Face:
    embedding, landmarks = analyzer.embed(bgr, found)
    crop = aligned_crop(bgr, found.keypoints, options.crop_size, options.crop_margin)
    return Face(
        embedding=torch.from_numpy(embedding.copy()),
        keypoints=torch.from_numpy(found.keypoints.copy()),
        box=torch.from_numpy(found.box.copy()),
        score=found.score,
        image_size=bgr.shape[:2],
        image_index=index,
        crop=torch.from_numpy(crop[..., ::-1].copy()).float() / 255,
        landmarks=None if landmarks is None else torch.from_numpy(landmarks.copy()),
    )


def _masks(faces: list[Face], shape: torch.Size, options: Options) -> Tensor:
    """[B, H, W] float32: the union of the chosen faces of each picture."""
    count, height, width = max(shape[0], 1), max(shape[1], 1), max(shape[2], 1)
    mask = np.zeros((count, height, width), np.float32)
    for face in faces:
        one = ellipse_mask(face.keypoints.numpy(), height, width, options.mask_grow, options.mask_feather)
        np.maximum(mask[face.image_index], one, out=mask[face.image_index])
    return torch.from_numpy(mask)


def _summary(faces: list[Face], pictures: list[PictureFaces]) -> str:
    lines = [f"{len(faces)} face{'s' * (len(faces) != 1)} from {len(pictures)} picture{'s' * (len(pictures) != 1)}"]
    for index, picture in enumerate(pictures):
        if picture.problem:
            lines.append(f"Picture {index}: skipped, {picture.problem}")
            continue
        chosen = [
            f"{f.score:.2f}, {f.box[2] - f.box[0]:.0f} × {f.box[3] - f.box[1]:.0f} px"
            for f in (picture.found[number] for number in picture.chosen)
        ]
        lines.append(f"Picture {index}: {len(picture.found)} found, chosen: {'; '.join(chosen)}")
    return "\n".join(lines)

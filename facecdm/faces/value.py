"""Faces with their embeddings, passed from detection to the adapter."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..errors import FaceCDMError, Mismatch, NoFace

AURAFACE = "auraface"  # part of the name of a pack with AuraFace's recogniser (fal/AuraFace-v1)
MOST = 10_000_000  # upper bound of sides in pixels, picture indices and values of an embedding


class BadFace(FaceCDMError, ValueError):
    """A face's tensor has the wrong shape or type or holds NaN, or its embedding has length zero."""


def _checked(name: str, tensor: Tensor, shape: tuple[int | None, ...]) -> Tensor:
    """Return the tensor if it is finite float32 on the CPU with that shape (None: any size but zero). Raises BadFace.

    ComfyUI runs nodes in inference mode. Inference tensors are copied, since training cannot use them.
    """
    if not isinstance(tensor, Tensor):
        raise BadFace(f"A face's {name} must be a torch tensor, not {type(tensor).__name__}.")
    fits = tensor.ndim == len(shape) and all(
        have == want if want is not None else have > 0 for have, want in zip(tensor.shape, shape, strict=True)
    )
    if not fits:
        wanted = ", ".join("any" if size is None else str(size) for size in shape)
        raise BadFace(f"A face's {name} must have the shape [{wanted}], not {list(tensor.shape)}.")
    if tensor.dtype != torch.float32 or tensor.device.type != "cpu":
        raise BadFace(f"A face's {name} must be float32 on the CPU, not {tensor.dtype} on {tensor.device}.")
    if not (tensor.abs() <= MOST).all():  # comparisons with NaN are false
        raise BadFace(f"A face's {name} holds NaN or infinity, or a number beyond {MOST:,}: detect the face again.")
    if not tensor.is_inference():
        return tensor
    with torch.inference_mode(False):
        return tensor.clone()


@dataclass(frozen=True, eq=False)
class Face:
    """One face of one picture. Tensors are float32 on the CPU, coordinates in pixels of the source picture.

    embedding    [D]       raw output of the recogniser
    keypoints    [5, 2]    x, y of left eye, right eye, nose, left and right corner of the mouth, from the viewer's side
    box          [4]       x0, y0, x1, y1; may extend beyond the picture
    score                  confidence of the detector, 0 … 1
    image_size             (height, width) of the source picture
    image_index            index of the picture in its batch
    crop         [S, S, 3] the aligned face, RGB, 0 … 1
    landmarks    [106, 2]  or None where the analyzer did not load them
    name                   free text for reports and lists

    Raises BadFace.
    """

    embedding: Tensor
    keypoints: Tensor
    box: Tensor
    score: float
    image_size: tuple[int, int]
    image_index: int
    crop: Tensor
    landmarks: Tensor | None = None
    name: str = ""

    def __post_init__(self) -> None:
        shapes = {"embedding": (None,), "keypoints": (5, 2), "box": (4,), "crop": (None, None, 3)}
        if self.landmarks is not None:
            shapes["landmarks"] = (106, 2)
        for name, shape in shapes.items():
            object.__setattr__(self, name, _checked(name, getattr(self, name), shape))
        if not (0 <= self.score <= 1.001 and min(self.image_size) >= 1 and self.image_index >= 0):
            raise BadFace(
                f"A face has the score {self.score}, a picture of the size {tuple(self.image_size)} and the index "
                f"{self.image_index}: detect the face again."
            )
        if self.image_index > MOST or max(self.image_size) > MOST:
            raise BadFace(f"A face has a picture of size {tuple(self.image_size)} and index {self.image_index}.")
        if self.embedding.norm() == 0:
            raise BadFace("A face's embedding is all zero: detect the face again.")

    @property
    def width(self) -> float:
        return float(self.box[2] - self.box[0])

    @property
    def height(self) -> float:
        return float(self.box[3] - self.box[1])

    @property
    def area(self) -> float:
        """Area of the box in square pixels."""
        return max(self.width, 0.0) * max(self.height, 0.0)


@dataclass(frozen=True, eq=False)
class Faces:
    """Any number of faces, embedded by one recogniser. Raises Mismatch.

    faces
    recogniser  `pack/file.onnx`
    pictures    number of pictures in the batch that they come from; 0: several batches
    """

    faces: tuple[Face, ...]
    recogniser: str
    pictures: int = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "faces", tuple(self.faces))
        sizes = {len(face.embedding) for face in self.faces}
        if len(sizes) > 1:
            raise Mismatch(
                f"Embeddings of different sizes ({sorted(sizes)}) cannot be in one FACES value: "
                "embed all pictures with the same face analyzer."
            )

    def __len__(self) -> int:
        return len(self.faces)

    def __iter__(self) -> Iterator[Face]:
        return iter(self.faces)

    def __getitem__(self, index: int) -> Face:
        return self.faces[index]

    def named(self, name: str) -> "Faces":
        """The same faces with a name, numbered where there are several. An empty name changes nothing."""
        if not name:
            return self
        names = [name] if len(self) == 1 else [f"{name} {i + 1}" for i in range(len(self))]
        named = (replace(face, name=own) for face, own in zip(self, names, strict=True))
        return replace(self, faces=tuple(named))

    @property
    def dim(self) -> int:
        """Size of an embedding; 0 without faces."""
        return len(self.faces[0].embedding) if self.faces else 0

    @property
    def raw(self) -> Tensor:
        """[N, D] float32, the raw embeddings; [0, 0] without faces."""
        return torch.stack([face.embedding for face in self.faces]) if self.faces else torch.zeros(0, 0)

    @property
    def normed(self) -> Tensor:
        """[N, D] float32, rows of length 1."""
        return self.raw / self.raw.norm(dim=-1, keepdim=True) if self.faces else self.raw

    def required(self, what: str) -> "Faces":
        """Return itself if it has a face. Raises NoFace; `what` names the input that needs one."""
        if not self.faces:
            raise NoFace(
                f"{what} holds no face: no face was found in the pictures. Look at the report and the "
                "preview of Detect & Embed Faces; lower min_score, or choose another picture."
            )
        return self


def same_recogniser(a: str, b: str) -> bool:
    """Whether two recognisers are the same file. Some packs share files, such as buffalo_s and buffalo_sc. AuraFace's
    file has the name of antelopev2's, so its pack counts, too.
    """
    return _file_of(a) == _file_of(b)


def _file_of(recogniser: str) -> str:
    pack, _, file = recogniser.replace("\\", "/").lower().rpartition("/")
    return f"{AURAFACE}/{file}" if AURAFACE in pack else file


def require_same_recogniser(parts: list[Faces], what: str) -> None:
    """Raise Mismatch if the parts have embeddings of different recognisers or sizes. Empty parts are ignored."""
    names = list(dict.fromkeys(part.recogniser for part in parts if len(part)))
    others = [name for name in names[1:] if not same_recogniser(names[0], name)]
    if others:
        raise Mismatch(
            f"{what} were embedded by different recognisers ({names[0]}; {', '.join(others)}), which cannot be "
            "compared. Embed all of them with one Load Face Analyzer."
        )
    sizes = sorted({part.dim for part in parts if len(part)})
    if len(sizes) > 1:
        raise Mismatch(
            f"{what} have embeddings of different sizes ({', '.join(map(str, sizes))}), although all name the "
            f"recogniser {names[0]}. Embed all of them with one Load Face Analyzer."
        )

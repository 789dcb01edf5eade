"""The inputs from which an adapter's features are computed."""

from dataclasses import dataclass

from torch import Tensor

from ..adapter.references import MEAN
from ..faces.value import Faces
from .vision import FaceTower, VisionOutput, VisionTower


@dataclass(frozen=True, eq=False)
class Sources:
    """The connected inputs.

    faces           recognised faces
    clip_vision     a vision tower
    image           pictures [B, H, W, 3] in 0…1
    encoded         a vision tower's output, in place of `image`
    negative_image  the picture for the negative prompt, in place of an empty one
    references      how several references are combined (adapter.references)
    weights         one weight per reference
    shortcut        FaceID PlusV2's structure weight
    noise           amount of noise in the negative prompt's empty face
    """

    faces: Faces | None = None
    clip_vision: VisionTower | FaceTower | None = None
    image: Tensor | None = None
    encoded: VisionOutput | None = None
    negative_image: Tensor | None = None
    references: str = MEAN
    weights: tuple[float, ...] = ()
    shortcut: float = 1.0
    noise: float = 0.0

    @property
    def separate_weights(self) -> tuple[float, ...]:
        """The weights of references that are not averaged."""
        return self.weights if self.references != MEAN else ()

    @property
    def has_pictures(self) -> bool:
        return self.image is not None or self.encoded is not None

"""The trainer's interface to a data set."""

from collections.abc import Mapping, Sequence
from typing import Protocol

from torch import Tensor

from .rows import Prompt, Rows


class Source(Protocol):
    """Encoded pictures by index; see `dataset.DataSet`.

    fingerprint   identifies the contents
    recogniser    the face recogniser of the embeddings, PACK/FILE
    empty_prompt  the empty text
    buckets       the indices of the pictures of each size
    mean_face     [W], the mean of the unit embeddings
    people        the indices of each person's pictures
    has_pose      whether rows have pose pictures
    """

    fingerprint: str
    recogniser: str
    empty_prompt: Prompt
    buckets: Sequence[Sequence[int]]
    mean_face: Tensor
    people: Mapping[int, list[int]]
    has_pose: bool

    def __len__(self) -> int: ...

    def latent_shape(self, index: int) -> tuple[int, int, int]:
        """(C, h, w) of a picture's latents."""

    def load(self, indices: list[int]) -> Rows:
        """Pictures of one bucket."""

    def features(
        self, indices: list[int], augmented: list[float | None] | None = None, vision: bool = True
    ) -> tuple[Tensor, Tensor | None]:
        """Raw face embeddings [B, W] of reference pictures and, with `vision`, vision states [B, N, V].

        A number in 0…1 in `augmented` chooses a variation of that picture.
        """

    def identity(self, index: int) -> int:
        """The person's number in the data set."""

    def references(self, index: int) -> list[int]:
        """Other photos of the same person; may be empty."""

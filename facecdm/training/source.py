"""What the trainer needs of a data set."""

from typing import Protocol

from torch import Tensor

from .rows import Prompt, Rows


class Source(Protocol):
    """Encoded pictures by index; see `dataset.DataSet`.

    fingerprint   names the contents
    recogniser    the face recogniser of the embeddings, pack/file
    empty_prompt  the empty text
    buckets       the indices of the pictures of each size
    mean_face     [W], the mean of the unit embeddings
    people        the indices of each person's pictures
    has_pose      whether rows have pose pictures
    """

    fingerprint: str
    recogniser: str
    empty_prompt: Prompt
    buckets: list[list[int]]
    mean_face: Tensor
    people: dict[int, list[int]]
    has_pose: bool

    def __len__(self) -> int: ...

    def latent_shape(self, index: int) -> tuple[int, int, int]:
        """(C, h, w) of a picture's latents."""

    def load(self, indices: list[int]) -> Rows:
        """Pictures of one bucket."""

    def features(
        self, indices: list[int], augmented: list[float | None] | None = None, vision: bool = True
    ) -> tuple[Tensor, Tensor | None]:
        """Raw face embeddings [B, W] and, if wanted, vision states [B, N, V] of pictures as references.

        A number in 0…1 in `augmented` chooses an augmented version of that picture.
        """

    def identity(self, index: int) -> int:
        """The person's number in the data set."""

    def references(self, index: int) -> list[int]:
        """Other photos of the same person; empty where there is none."""

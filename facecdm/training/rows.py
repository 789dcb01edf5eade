"""The encoded pictures of one batch."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional as F

from ..errors import FaceCDMError


@dataclass(frozen=True, eq=False)
class Prompt:
    """Encoded prompts.

    states   [B or 1, T, context]
    pooled   [B or 1, P], only for base models that read it (Base.pooled_text)
    sizes    [B or 1, 6], only for SDXL: original height and width, crop top and left, target height and width, in
             pixels
    lengths  [B or 1] int64, only for DiTs: number of tokens of each prompt; zeros follow them
    """

    states: Tensor
    pooled: Tensor | None = None
    sizes: Tensor | None = None
    lengths: Tensor | None = None

    @property
    def mask(self) -> Tensor | None:
        """[B or 1, T] bool: the tokens of each prompt; None if all are."""
        if self.lengths is None or bool((self.lengths == self.states.shape[1]).all()):
            return None
        return torch.arange(self.states.shape[1], device=self.lengths.device) < self.lengths[:, None]

    def check_one_length(self, base: str) -> None:
        """Raise FaceCDMError if the prompts' lengths differ, for a base model whose host has no mask for them."""
        if self.mask is not None:
            raise FaceCDMError(
                f"{base} has no mask for prompts of different lengths in one batch (a dropped prompt is shorter, too): "
                "set batch to 1 and accumulation higher"
            )

    def part(self, rows: slice | Tensor) -> "Prompt":
        """The prompts of some rows of the batch, cut to the longest of them; tensors for all rows (length 1) stay."""
        parts = (self.states, self.pooled, self.sizes, self.lengths)
        return Prompt(*(value if value is None or len(value) == 1 else value[rows] for value in parts)).cut()

    def cut(self) -> "Prompt":
        """The prompts without the padding that all of them have: without it, prompts of one length need no mask."""
        if self.lengths is None or not len(self.lengths):
            return self
        return replace(self, states=self.states[:, : int(self.lengths.max())])


def without_text(prompt: Prompt, empty: Prompt, off: Tensor) -> Prompt:
    """Replace the prompts of the rows where `off` [B] bool is true by the empty text.

    The empty text's states get the length of the prompts. For a U-Net, which has no mask, they are repeated, since
    repeated tokens do not change cross-attention; else they are padded or cut.
    """
    states, length = empty.states.to(prompt.states), prompt.states.shape[1]
    if prompt.lengths is None and length % states.shape[1] == 0:
        states = states.repeat(1, length // states.shape[1], 1)
    states = F.pad(states, (0, 0, 0, max(length - states.shape[1], 0)))[:, :length]
    pooled = prompt.pooled
    if pooled is not None:
        pooled = torch.where(off[:, None], empty.pooled.to(pooled), pooled)
    lengths = prompt.lengths
    if lengths is not None:
        lengths = torch.where(off, empty.lengths.to(lengths).clamp(max=length), lengths)
    states = torch.where(off[:, None, None], states, prompt.states)
    return replace(prompt, states=states, pooled=pooled, lengths=lengths).cut()


@dataclass(frozen=True, eq=False)
class Rows:
    """Pictures of one bucket, encoded. Float tensors are float32 on the CPU; coordinates are in 0…1 of the picture.

    latents    [B, C, h, w]    scaled for the U-Net
    prompt     their captions
    face       [B, W]          raw face embedding of the picture itself
    vision     [B, N, V]       penultimate states of the CLIP vision tower; None if the data set has none
    box        [B, 4]          x0, y0, x1, y1 of the face
    keypoints  [B, 5, 2]       left eye, right eye, nose, left and right corner of the mouth (image left first)
    control    [B, 3, H, W]    the pose picture in 0…1; None if the data set has none
    identity   [B]             int64, the person's number in the data set
    """

    latents: Tensor
    prompt: Prompt
    face: Tensor
    vision: Tensor | None
    box: Tensor
    keypoints: Tensor
    control: Tensor | None
    identity: Tensor

    def __len__(self) -> int:
        return len(self.latents)

    def part(self, rows: slice | Tensor) -> "Rows":
        """Some rows of the batch."""
        parts = {name: value for name, value in vars(self).items() if isinstance(value, Tensor)}
        return replace(self, prompt=self.prompt.part(rows), **{name: value[rows] for name, value in parts.items()})


def moved(value, device: torch.device):
    """Rows or a Prompt with every tensor on `device`."""
    return replace(
        value,
        **{
            name: part.to(device)
            if isinstance(part, Tensor)
            else moved(part, device)
            if isinstance(part, Prompt)
            else part
            for name, part in vars(value).items()
        },
    )

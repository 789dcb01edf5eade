"""Everything that one training step knows; losses are functions of it."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import Tensor, nn

from ..adapter.attention import LayerStream
from ..adapter.model import TripletAdapter
from ..adapter.reference_batch import ReferenceBatch
from .denoiser import Denoiser
from .rows import Prompt, Rows


@dataclass(frozen=True, eq=False)
class StepData:
    """One step on the device of the denoiser, all float32.

    rows       the batch, moved to the device
    t          [B] int64 steps; `signal`, `noise_level` [B] are α_t and σ_t
    noise      [B, C, h, w] ε; `noisy` = α z + σ ε
    prediction [B, C, h, w] the U-Net's output, with gradients; `clean` [B, C, h, w] the z that it implies
    face_on    [B] 1 where the row shows its face, 0 where it was dropped; `image_on`, `text_on` likewise
    outputs    per layer, the face stream's weighted output [B, n, C] (where a loss asked for it)
    plain      the same U-Net call without people, no gradient: `plain_prediction`; and queries of both
    face_region [B] bool: the diffusion loss of the row counts its face's region alone
    people     the streams that the U-Net saw; `prompt` and `control` likewise (for a loss that calls it again)
    adapter    the adapter in training; `reference_batch` the references that it was given (for the bottleneck's loss);
               `extra` the low-rank additions to its keys and values
    empty      the empty text (for a loss that samples with guidance)
    """

    denoiser: Denoiser
    rows: Rows
    t: Tensor
    signal: Tensor
    noise_level: Tensor
    noise: Tensor
    noisy: Tensor
    prediction: Tensor
    clean: Tensor
    face_on: Tensor
    image_on: Tensor
    text_on: Tensor
    step: int
    outputs: list[Tensor] = field(default_factory=list)
    queries: list[tuple[Tensor, Tensor]] = field(default_factory=list)  # per layer (q, text k), with people
    plain_queries: list[tuple[Tensor, Tensor]] = field(default_factory=list)  # the same without, no gradient
    plain_prediction: Tensor | None = None
    face_region: Tensor | None = None
    people: list[list[LayerStream]] | None = None
    prompt: Prompt | None = None
    control: Tensor | None = None
    adapter: TripletAdapter | None = None
    reference_batch: ReferenceBatch | None = None
    extra: Mapping[nn.Linear, nn.Module] = field(default_factory=dict)
    empty: Prompt | None = None

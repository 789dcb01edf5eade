"""The data of one training step; losses are functions of it."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import Tensor, nn

from ..adapter.attention import LayerStream
from ..adapter.location_finder import LocationFinder
from ..adapter.model import TripletAdapter
from ..adapter.reference_batch import ReferenceBatch
from .denoiser import Denoiser
from .rows import Prompt, Rows


@dataclass(frozen=True, eq=False)
class StepData:
    """One step, float32 on the denoiser's device.

    rows              the batch
    t                 [B] int64 timesteps
    signal            [B] α_t
    noise_level       [B] σ_t
    noise             [B, C, h, w] ε
    noisy             [B, C, h, w] α z + σ ε
    prediction        [B, C, h, w] the U-Net's output, with gradients
    clean             [B, C, h, w] the z that the prediction implies
    face_on           [B] 1 if the row has its face, 0 if the face was dropped; `image_on`, `text_on` likewise
    outputs           per layer, the face stream's gated output [B, n, C], if a loss needs it
    queries           per layer, (queries, text keys) of the call, if a loss needs them
    plain_queries     the same without face and image, no gradient
    plain_prediction  the U-Net's output without face and image, no gradient
    face_region       [B] bool: the row's diffusion loss counts only the face's region
    people            the streams of the call; `prompt` and `control` likewise, for a loss that calls the U-Net again
    adapter           the adapter in training
    reference_batch   the references of the batch
    extra             the low-rank additions to the adapter's keys and values
    empty             the empty text, for a loss that samples with guidance
    find_location     finds the face locations in the step before, if this batch uses the adapter's own estimates
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
    queries: list[tuple[Tensor, Tensor]] = field(default_factory=list)
    plain_queries: list[tuple[Tensor, Tensor]] = field(default_factory=list)
    plain_prediction: Tensor | None = None
    face_region: Tensor | None = None
    people: list[list[LayerStream]] | None = None
    prompt: Prompt | None = None
    control: Tensor | None = None
    adapter: TripletAdapter | None = None
    reference_batch: ReferenceBatch | None = None
    extra: Mapping[nn.Linear, nn.Module] = field(default_factory=dict)
    empty: Prompt | None = None
    find_location: LocationFinder | None = None

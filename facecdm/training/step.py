"""The forward pass of one batch, from rows and random numbers to losses."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..adapter.config import AdapterConfig
from ..adapter.location import FaceLocation
from ..adapter.location_finder import LocationFinder, Prediction
from ..adapter.model import TripletAdapter
from ..adapter.reference_batch import ReferenceBatch
from ..faces.align import TEMPLATE
from ..faces.location import SIZE
from .denoiser import Denoiser, clean_from
from .learner import Learner
from .randomness import RandomNumbers
from .rows import Prompt, Rows, without_text
from .step_data import StepData

SAMPLING_STEPS = 20  # of a typical sampling, for the distance between two of its noise levels


@dataclass(frozen=True)
class Term:
    """One term of the total loss: `weight` · `loss(step_data)`, computed every `every` steps.

    The weight grows over `ramp` steps. `needs` are fields of StepData, from "outputs", "queries", "plain".
    """

    name: str
    loss: Callable[[StepData], Tensor]
    weight: float = 1.0
    every: int = 1
    ramp: int = 0
    needs: frozenset[str] = frozenset()

    def weight_at(self, step: int) -> float:
        """The weight at `step` (from 1), multiplied by `every`, so that terms computed less often count as much."""
        if step % self.every:
            return 0.0
        return self.weight * self.every * (min(1.0, step / self.ramp) if self.ramp else 1.0)


def forward(
    denoiser: Denoiser,
    learner: Learner,
    terms: list[Term],
    rows: Rows,
    reference_batch: ReferenceBatch,
    empty: Prompt,
    random_numbers: RandomNumbers,
    step: int,
) -> tuple[Tensor, dict[str, Tensor]]:
    """The weighted sum of this step's terms, and each term (detached) by name."""
    step_data = compute_step_data(
        denoiser,
        learner,
        {need for term in terms if term.weight_at(step) for need in term.needs},
        rows,
        reference_batch,
        empty,
        random_numbers,
        step,
    )
    total, values = torch.zeros((), device=denoiser.device), {}
    for term in terms:
        if weight := term.weight_at(step):
            value = term.loss(step_data)
            total, values[term.name] = total + weight * value, value.detach()
    return total, values


def compute_step_data(
    denoiser: Denoiser,
    learner: Learner,
    needs: set[str],
    rows: Rows,
    reference_batch: ReferenceBatch,
    empty: Prompt,
    random_numbers: RandomNumbers,
    step: int,
) -> StepData:
    """Call the U-Net on noised rows with `reference_batch` applied; the learner's LoRA must be on already."""
    device = denoiser.device
    t, epsilon = random_numbers.t.to(device), random_numbers.epsilon.to(device)
    signal, level = (table.to(device)[t] for table in (denoiser.signal, denoiser.noise))
    noisy = signal.view(-1, 1, 1, 1) * rows.latents + level.view(-1, 1, 1, 1) * epsilon
    prompt = without_text(rows.prompt, empty, ~random_numbers.text_on.to(device))
    outputs: list[Tensor] = []
    queries: list[tuple[Tensor, Tensor]] = []
    control = rows.control if rows.control is not None and bool(random_numbers.pose_on[0]) else None
    finder = LocationFinder(learner.adapter) if finds_locations(learner.adapter, random_numbers) else None
    if finder is not None:
        before = prediction_before(denoiser, rows.latents, epsilon, t, prompt, control)
        reference_batch = replace(reference_batch, location=finder(before, tuple(noisy.shape[-2:]), device))
    elif learner.adapter.config.spatial_tokens and bool(random_numbers.pose_on[0]):
        reference_batch = replace(reference_batch, location=face_locations(rows, learner.adapter.config))
    reference_batch = reference_batch.with_tokens(learner.adapter, prompt.states, prompt.mask)
    people = reference_batch.streams(
        learner.adapter,
        prompt.states,
        level / signal.clamp(min=1e-4),
        denoiser.dtype,
        learner.extra,
        outputs.append if "outputs" in needs else None,
        prompt.mask,
    )
    prediction = denoiser.predict(noisy, t, prompt, people, control, _keep(queries) if "queries" in needs else None)
    plain, plain_queries = None, []
    if needs & {"plain", "queries"}:
        with torch.no_grad(), learner.lora.off():
            plain = denoiser.predict(noisy, t, prompt, None, control, _keep(plain_queries))
    return StepData(
        denoiser,
        rows,
        t,
        signal,
        level,
        epsilon,
        noisy,
        prediction,
        clean_from(prediction, noisy, signal, level, denoiser.prediction),
        reference_batch.face_on.float(),
        reference_batch.image_on.float(),
        random_numbers.text_on.to(device).float(),
        step,
        outputs,
        queries,
        plain_queries,
        plain,
        random_numbers.face_region.to(device),
        people,
        prompt,
        control,
        learner.adapter,
        reference_batch,
        learner.extra,
        empty,
        finder,
    )


def finds_locations(adapter: TripletAdapter, random_numbers: RandomNumbers) -> bool:
    """Whether the adapter finds the face locations of this batch by itself."""
    return adapter.location_head is not None and adapter.config.spatial_tokens and bool(random_numbers.find_on[0])


@torch.no_grad()
def prediction_before(
    denoiser: Denoiser, latents: Tensor, epsilon: Tensor, t: Tensor, prompt: Prompt, control: Tensor | None
) -> Prediction:
    """Return the prediction without the face, by the U-Net with its LoRA, at the noise level of the sampling step that
    precedes t; for a location head.

    The latents [B, C, h, w] have the same noise. A row at the highest noise level has no previous step. It
    gets the prediction at that level, which contains little of the face, so the head's certainty is low.
    """
    earlier = (t + len(denoiser.signal) // SAMPLING_STEPS).clamp(max=len(denoiser.signal) - 1)
    signal, level = (table.to(t.device)[earlier] for table in (denoiser.signal, denoiser.noise))
    noisy = signal.view(-1, 1, 1, 1) * latents + level.view(-1, 1, 1, 1) * epsilon
    predicted = denoiser.predict(noisy, earlier, prompt, None, control)
    clean = clean_from(predicted, noisy, signal, level, denoiser.prediction)
    return Prediction(clean, level / signal.clamp(min=1e-4))


def face_locations(rows: Rows, config: AdapterConfig) -> FaceLocation:
    """The location of each row's face; for a row without a face, the location of a face that fills the picture."""
    there = (rows.box[:, 2:] > rows.box[:, :2]).all(1)
    anywhere = rows.keypoints.new_tensor(TEMPLATE) / SIZE
    return FaceLocation(
        torch.where(there[:, None, None], rows.keypoints, anywhere), tuple(rows.latents.shape[-2:]), config.grid_side
    )


def _keep(into: list) -> Callable[[int, Tensor, Tensor], None]:
    return lambda index, queries, keys: into.append((queries, keys))

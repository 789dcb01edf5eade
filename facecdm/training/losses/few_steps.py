"""The identity loss at high noise: on the picture after a few steps of sampling."""

from dataclasses import dataclass

import torch
from torch import Tensor

from ...adapter.reference_batch import ReferenceBatch
from ..denoiser import clean_from
from ..rows import Prompt, without_text
from ..step_data import StepData
from .identity import IdentityLoss


@dataclass(frozen=True, eq=False)
class FewStepIdentityLoss(IdentityLoss):
    """As the identity loss, on pictures that are sampled to the end first: DDIM (Song et al. 2021) in `steps` even
    steps, with gradients through the last `learnt` of them and classifier-free `guidance` as a graph has it. What is
    drawn without people and text, by the U-Net with its LoRA, counts as a constant there: gradients do not go through
    it, so that of two steps the earlier one counts the more, by the guidance.

    begin    "picture": from the row's own noisy latents, at all noise levels below `top` (rows below `high` take the
             training step's one prediction). The first prediction is the training step's own, so `steps` − 1 calls of
             the U-Net are added, without guidance. From `top` on the picture would no longer have its face where the
             row's key points are.
             "noise": from the row's noise alone, as a user's picture begins (PuLID, 2404.16022), whatever the row's t.
             The face is where the key points are if the adapter is told so; other rows are left out.
    """

    steps: int = 4
    learnt: int = 1
    guidance: float = 1.0
    begin: str = "picture"
    top: int = 700

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 1 <= self.learnt <= self.steps:
            raise ValueError(f"learnt must be in 1 … steps ({self.steps}); got {self.learnt}")
        if self.begin not in ("picture", "noise"):
            raise ValueError(f'begin is "picture" or "noise", not {self.begin!r}')

    def applies(self, t: Tensor) -> Tensor:
        return (t >= self.low) & (t < max(self.top, self.high)) | (self.begin == "noise")

    def chosen(self, step_data: StepData) -> Tensor:
        chosen = super().chosen(step_data)
        return chosen & (self.begin == "picture" or step_data.reference_batch.where is not None)

    def latents(self, step_data: StepData, rows: Tensor) -> Tensor:
        if self.begin == "noise":
            return self.sample(step_data, rows)
        clean, far = step_data.clean[rows], step_data.t[rows] >= self.high
        if not far.any():
            return clean
        return clean.index_put((far.nonzero()[:, 0],), self.sample(step_data, rows[far]))

    def sample(self, step_data: StepData, rows: Tensor) -> Tensor:
        """Clean latents [k, C, h, w] of the rows [k]."""
        noise_alone = self.begin == "noise"
        start, latents = step_data.t[rows], (step_data.noise if noise_alone else step_data.noisy)[rows]
        if noise_alone:
            start = torch.full_like(start, len(step_data.denoiser.signal) - 1)
        for step in range(self.steps):
            t = (start * (self.steps - step) / self.steps).round().long()
            signal, noise = (table.to(t.device)[t] for table in (step_data.denoiser.signal, step_data.denoiser.noise))
            with torch.set_grad_enabled(torch.is_grad_enabled() and step >= self.steps - self.learnt):
                shown = (
                    step_data.prediction[rows]
                    if step == 0 and not noise_alone
                    else predict_again(step_data, latents, t, rows)
                )
                clean = clean_from(shown, latents, signal, noise, step_data.denoiser.prediction)
                if self.guidance != 1:
                    with torch.no_grad():
                        plain = clean_from(
                            predict_again(step_data, latents, t, rows, nobody=True),
                            latents,
                            signal,
                            noise,
                            step_data.denoiser.prediction,
                        )
                    clean = plain + self.guidance * (clean - plain)
                if step + 1 < self.steps:
                    after = (start * (self.steps - step - 1) / self.steps).round().long()
                    latents = self._renoise(step_data, latents, clean, t, after)
        return clean

    @staticmethod
    def _renoise(step_data: StepData, latents: Tensor, clean: Tensor, t: Tensor, after: Tensor) -> Tensor:
        """From z_t and what it implies to the latents at the steps `after`, along the same noise."""
        (a, s), (a_after, s_after) = (
            [
                table.to(t.device)[when].view(-1, 1, 1, 1)
                for table in (step_data.denoiser.signal, step_data.denoiser.noise)
            ]
            for when in (t, after)
        )
        epsilon = (latents - a * clean) / s.clamp(min=1e-3)
        return a_after * clean + s_after * epsilon


def predict_again(step_data: StepData, noisy: Tensor, t: Tensor, rows: Tensor, nobody: bool = False) -> Tensor:
    """The U-Net's prediction for other latents [k, C, h, w] and steps [k] of the rows [k], with the same people.

    Their gates are those of the new noise level. With `nobody` there are no people and no text.
    """

    def part(value: Tensor | None) -> Tensor | None:
        return value if value is None or len(value) == 1 else value[rows]

    denoiser, given = step_data.denoiser, step_data.prompt
    prompt = Prompt(part(given.states), part(given.pooled), part(given.sizes))
    people = None
    if nobody:
        prompt = without_text(prompt, step_data.empty, torch.ones_like(t, dtype=torch.bool))
    elif step_data.adapter is not None:
        seen = step_data.reference_batch
        reference_batch = ReferenceBatch(
            seen.face[rows],
            None if seen.image is None else seen.image[rows],
            seen.face_on[rows],
            seen.image_on[rows],
            None if seen.where is None else seen.where.part(rows),
        )
        signal, noise = (table.to(t.device)[t] for table in (denoiser.signal, denoiser.noise))
        people = reference_batch.streams(
            step_data.adapter, prompt.states, noise / signal.clamp(min=1e-4), denoiser.dtype, step_data.extra
        )
    return denoiser.predict(noisy, t, prompt, people, part(step_data.control))

"""The identity loss at high noise: on the picture after a few steps of sampling."""

from dataclasses import dataclass

import torch
from torch import Tensor

from ...adapter.crowd import Crowd
from ..denoiser import clean_from
from ..moment import Moment
from ..rows import Prompt
from .identity import IdentityLoss


@dataclass(frozen=True, eq=False)
class FewStepIdentityLoss(IdentityLoss):
    """As the identity loss, at all noise levels below `top`: rows above `high` are sampled to the end first.

    DDIM (Song et al. 2021) in `steps` even steps from the row's own noisy latents, with gradients through the last
    `learnt` of them alone (PuLID looks at a picture of 4 steps). The first prediction is the training step's own, so
    `steps` − 1 calls of the U-Net are added. From `top` on the picture would no longer have its face where the row's
    key points are.
    """

    steps: int = 4
    learnt: int = 1
    top: int = 700

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 1 <= self.learnt <= self.steps:
            raise ValueError(f"learnt must be in 1 … steps ({self.steps}); got {self.learnt}")

    def applies(self, t: Tensor) -> Tensor:
        return (t >= self.low) & (t < max(self.top, self.high))

    def latents(self, moment: Moment, rows: Tensor) -> Tensor:
        clean, far = moment.clean[rows], moment.t[rows] >= self.high
        if not far.any():
            return clean
        return clean.index_put((far.nonzero()[:, 0],), self.sample(moment, rows[far]))

    def sample(self, moment: Moment, rows: Tensor) -> Tensor:
        """Clean latents [k, C, h, w] of the rows [k]."""
        start, latents = moment.t[rows], moment.noisy[rows]
        for step in range(self.steps):
            t = (start * (self.steps - step) / self.steps).round().long()
            signal, noise = (table.to(t.device)[t] for table in (moment.denoiser.signal, moment.denoiser.noise))
            with torch.set_grad_enabled(torch.is_grad_enabled() and step >= self.steps - self.learnt):
                prediction = moment.prediction[rows] if step == 0 else predict_again(moment, latents, t, rows)
                clean = clean_from(prediction, latents, signal, noise, moment.denoiser.prediction)
                if step + 1 < self.steps:
                    after = (start * (self.steps - step - 1) / self.steps).round().long()
                    latents = self._renoise(moment, latents, clean, t, after)
        return clean

    @staticmethod
    def _renoise(moment: Moment, latents: Tensor, clean: Tensor, t: Tensor, after: Tensor) -> Tensor:
        """From z_t and what it implies to the latents at the steps `after`, along the same noise."""
        (a, s), (a_after, s_after) = ([table.to(t.device)[when].view(-1, 1, 1, 1) for table in
                                       (moment.denoiser.signal, moment.denoiser.noise)] for when in (t, after))
        epsilon = (latents - a * clean) / s.clamp(min=1e-3)
        return a_after * clean + s_after * epsilon


def predict_again(moment: Moment, noisy: Tensor, t: Tensor, rows: Tensor) -> Tensor:
    """The U-Net's prediction for other latents [k, C, h, w] and steps [k] of the rows [k], with the same people.

    Their gates are those of the new noise level.
    """
    def part(value: Tensor | None) -> Tensor | None:
        return value if value is None or len(value) == 1 else value[rows]

    denoiser, given = moment.denoiser, moment.prompt
    prompt = Prompt(part(given.states), part(given.pooled), part(given.sizes))
    people = None
    if moment.adapter is not None:
        seen = moment.crowd
        crowd = Crowd(seen.face[rows], None if seen.image is None else seen.image[rows], seen.face_on[rows],
                      seen.image_on[rows], None if seen.where is None else seen.where.part(rows))
        signal, noise = (table.to(t.device)[t] for table in (denoiser.signal, denoiser.noise))
        people = crowd.streams(moment.adapter, prompt.states, noise / signal.clamp(min=1e-4), denoiser.dtype,
                               moment.extra)
    return denoiser.predict(noisy, t, prompt, people, part(moment.control))

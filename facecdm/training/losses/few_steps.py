"""The identity loss on a picture sampled in a few steps, for high noise levels."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ...adapter.location_finder import Prediction
from ..denoiser import clean_from
from ..rows import without_text
from ..step_data import StepData
from .identity import IdentityLoss

BEGIN = ("picture", "noise")


@dataclass(frozen=True, eq=False)
class FewStepIdentityLoss(IdentityLoss):
    """The identity loss on pictures sampled with DDIM (Song et al. 2021) in `steps` even steps.

    The unconditional prediction for `guidance` comes from the U-Net with its LoRA, without gradients. So the earlier of
    two steps with gradients counts more, by the guidance scale.

    learnt     number of steps with gradients, counted from the last
    guidance   classifier-free guidance scale; 1: none
    begin      "picture": sample from the row's noisy latents, for t < `top`; rows with t < `high` use only the training
               step's prediction. Other rows use it as their first step, so `steps` − 1 U-Net calls are added without
               guidance. Above `top` the face would move away from the row's key points.
               "noise": sample from the row's noise at any t, as in a user's graph (PuLID, 2404.16022). This needs an
               adapter conditioned on face location, which puts the face at the key points; else rows are left out.
               If the adapter finds the location by itself, each step uses the step before, and the recogniser the
               location in the final latents.
    top        see `begin`
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
        if self.begin not in BEGIN:
            raise ValueError(f"begin must be one of {', '.join(BEGIN)}; got {self.begin!r}")

    def applies(self, t: Tensor) -> Tensor:
        return (t >= self.low) & (t < max(self.top, self.high)) | (self.begin == "noise")

    def chosen(self, step_data: StepData) -> Tensor:
        chosen = super().chosen(step_data)
        return chosen & (self.begin == "picture" or step_data.reference_batch.location is not None)

    def latents(self, step_data: StepData, rows: Tensor) -> Tensor:
        if self.begin == "noise":
            return self.sample(step_data, rows)
        clean, far = step_data.clean[rows], step_data.t[rows] >= self.high
        if not far.any():
            return clean
        return clean.index_put((far.nonzero()[:, 0],), self.sample(step_data, rows[far]))

    def sample(self, step_data: StepData, rows: Tensor) -> Tensor:
        """Clean latents [k, C, h, w] of the rows [k]."""
        from_noise = self.begin == "noise"
        start, latents = step_data.t[rows], (step_data.noise if from_noise else step_data.noisy)[rows]
        if from_noise:
            start = torch.full_like(start, len(step_data.denoiser.signal) - 1)
        before: Prediction | None = None
        for step in range(self.steps):
            t = (start * (self.steps - step) / self.steps).round().long()
            with torch.set_grad_enabled(torch.is_grad_enabled() and step >= self.steps - self.learnt):
                known = step_data.prediction[rows] if step == 0 and not from_noise else None
                shown = self._conditional(step_data, latents, t, rows, known, before)
                clean = self._guided(step_data, latents, t, rows, shown)
                before = Prediction(shown.detach(), _sigma(step_data, t))
                if step + 1 < self.steps:
                    after = (start * (self.steps - step - 1) / self.steps).round().long()
                    latents = _renoise(step_data, latents, clean, t, after)
        return clean

    def keypoints(self, step_data: StepData, rows: Tensor, latents: Tensor) -> Tensor:
        if self.begin != "noise" or step_data.find_location is None:
            return super().keypoints(step_data, rows, latents)
        lowest = torch.full_like(step_data.t[rows], 1)
        found = step_data.find_location(
            Prediction(latents.detach(), _sigma(step_data, lowest)), tuple(latents.shape[-2:]), latents.device
        )
        return found.keypoints

    def _conditional(
        self,
        step_data: StepData,
        latents: Tensor,
        t: Tensor,
        rows: Tensor,
        known: Tensor | None,
        before: Prediction | None,
    ) -> Tensor:
        """The clean latents that the conditional prediction implies; `known` is that prediction, if computed."""
        prediction = known
        if prediction is None:
            prediction = predict_again(step_data, latents, t, rows, before=before, guidance=self.guidance)
        return clean_from(prediction, latents, *_levels(step_data, t), step_data.denoiser.prediction)

    def _guided(self, step_data: StepData, latents: Tensor, t: Tensor, rows: Tensor, shown: Tensor) -> Tensor:
        """The clean latents with guidance; `shown` are the clean latents of the conditional prediction."""
        if self.guidance == 1 or step_data.denoiser.distilled:
            return shown
        with torch.no_grad():
            prediction = predict_again(step_data, latents, t, rows, unconditional=True)
            plain = clean_from(prediction, latents, *_levels(step_data, t), step_data.denoiser.prediction)
        return plain + self.guidance * (shown - plain)


def _levels(step_data: StepData, t: Tensor) -> tuple[Tensor, Tensor]:
    """α and σ [k] of the timesteps [k]."""
    signal, noise = step_data.denoiser.signal, step_data.denoiser.noise
    return signal.to(t.device)[t], noise.to(t.device)[t]


def _sigma(step_data: StepData, t: Tensor) -> Tensor:
    """σ/α [k] of the timesteps [k]."""
    signal, noise = _levels(step_data, t)
    return noise / signal.clamp(min=1e-4)


def _renoise(step_data: StepData, latents: Tensor, clean: Tensor, t: Tensor, after: Tensor) -> Tensor:
    """The DDIM step from timesteps `t` to `after`, with the noise that `clean` implies."""
    (a, s), (a_after, s_after) = (
        [level.view(-1, 1, 1, 1) for level in _levels(step_data, timesteps)] for timesteps in (t, after)
    )
    epsilon = (latents - a * clean) / s.clamp(min=1e-3)
    return a_after * clean + s_after * epsilon


def predict_again(
    step_data: StepData,
    noisy: Tensor,
    t: Tensor,
    rows: Tensor,
    unconditional: bool = False,
    before: Prediction | None = None,
    guidance: float = 1.0,
) -> Tensor:
    """The U-Net's prediction for the rows [k] with other latents [k, C, h, w] and timesteps [k].

    The gates are those of the new noise level.

    unconditional  no faces, and the empty prompt
    before         the prediction of the step before, if the adapter finds the face locations by itself
    guidance       the guidance scale that a distilled model reads
    """
    denoiser, prompt, people = step_data.denoiser, step_data.prompt.part(rows), None
    if unconditional:
        prompt = without_text(prompt, step_data.empty, torch.ones_like(t, dtype=torch.bool))
    elif step_data.adapter is not None:
        references = step_data.reference_batch.part(rows)
        if step_data.find_location is not None:
            found = step_data.find_location(before, tuple(noisy.shape[-2:]), noisy.device)
            references = replace(references, location=found)
        people = references.streams(
            step_data.adapter,
            prompt.states,
            _sigma(step_data, t),
            denoiser.dtype,
            step_data.extra,
            text_mask=prompt.mask,
        )
    control = None if step_data.control is None else step_data.control[rows]
    own = {"guidance": guidance} if denoiser.distilled else {}
    return denoiser.predict(noisy, t, prompt, people, control, **own)

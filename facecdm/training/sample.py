"""Sampling with a Denoiser, for previews during training and for measurements afterwards."""

from collections.abc import Callable

import torch
from torch import Tensor

from ..adapter.attention import LayerStream
from ..adapter.location_finder import Prediction
from .denoiser import Denoiser, clean_from
from .rows import Prompt, without_text

# σ [B] and the prediction of the step before → every layer's streams
People = Callable[[Tensor, Prediction | None], list[list[LayerStream]]]


@torch.no_grad()
def sample(
    denoiser: Denoiser,
    noisy: Tensor,
    prompt: Prompt,
    empty: Prompt,
    people: People | None,
    levels: list[int],
    guidance: float,
    control: Tensor | None = None,
) -> Tensor:
    """Pure noise [B, C, h, w] → pictures [B, 3, H, W] in 0…1, over the falling timesteps `levels`.

    DDIM (Song et al. 2021, η = 0; for a flow, Euler's method) with classifier-free guidance, unless the model is
    distilled. The base model gives the unconditional prediction, as in a graph. A LoRA of the U-Net must already be on.
    Everything is on the denoiser's device.
    """
    rows = len(noisy)
    negative = without_text(prompt, empty, torch.ones(rows, dtype=torch.bool, device=noisy.device))
    signal, noise = denoiser.signal.to(noisy.device), denoiser.noise.to(noisy.device)
    before: Prediction | None = None
    for now, after in zip(levels, [*levels[1:], None]):
        t = torch.full((rows,), now, device=noisy.device)
        a, s = signal[t], noise[t]
        sigma = s / a.clamp(min=1e-4)
        own = {"guidance": guidance} if denoiser.distilled else {}
        shown = denoiser.predict(noisy, t, prompt, people and people(sigma, before), control, **own)
        clean = clean_from(shown, noisy, a, s, denoiser.prediction)
        before = Prediction(clean, sigma)
        if not denoiser.distilled:
            plain = denoiser.predict(noisy, t, negative, None, control)
            clean = clean_from(plain + guidance * (shown - plain), noisy, a, s, denoiser.prediction)
        if after is None:
            return denoiser.decode(clean).clamp(-1, 1) / 2 + 0.5
        epsilon = (noisy - a[0] * clean) / s[0].clamp(min=1e-4)
        noisy = signal[after] * clean + noise[after] * epsilon
    raise ValueError("levels are empty")


def even_timesteps(denoiser: Denoiser, steps: int) -> list[int]:
    """`steps` evenly spaced timesteps, falling from the last timestep."""
    return torch.linspace(len(denoiser.signal) - 1, 0, steps + 1).round().long().tolist()[:-1]

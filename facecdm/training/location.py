"""Training of a location head, which finds a face's key points in the clean latents that the base model predicts.

The base model is frozen and no adapter is used, so one head is trained per base model, before or after the adapter.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..adapter.location_head import LocationHead, location_loss
from ..adapter.model import TripletAdapter
from .denoiser import Denoiser, clean_from
from .randomness import batches, generator
from .rows import Prompt, Rows, without_text
from .source import Source

LOW_NOISE = 0.4  # share of the timesteps below which slightly noisy latents can replace predicted ones
CLEAN_NOISE = 0.3  # noise of those latents, as a share of the timestep's noise
DROPPED_TEXT = 0.1


@dataclass(frozen=True)
class LocationPlan:
    """Settings for training a location head.

    steps          optimiser steps
    batch          pictures per step
    predicted      share of the pictures whose latents the base model predicts; the others have slightly noisy latents
    learning_rate  the rate after a warm-up; it falls over the last 60 % of the steps
    seed           seed of pictures, noise and weights
    """

    steps: int = 1000
    batch: int = 64
    predicted: float = 0.5
    learning_rate: float = 3e-3
    seed: int = 0


def train_location_head(
    denoiser: Denoiser, data: Source, plan: LocationPlan = LocationPlan(), report: Callable[[int, float], None] = print
) -> LocationHead:
    """Train a head; returns it on the CPU. `report(step, loss)` is called every 50 steps."""
    device = denoiser.device
    torch.manual_seed(plan.seed)
    head = LocationHead(data.latent_shape(0)[0]).to(device)
    optimiser = torch.optim.AdamW(head.parameters(), plan.learning_rate, weight_decay=0.01)
    shuffled, losses = batches(data.buckets, plan.batch, plan.seed, 0), []
    for step in range(1, plan.steps + 1):
        falling = min(1.0, step / 50, max(0.01, (1 - step / plan.steps) / 0.6))
        for group in optimiser.param_groups:
            group["lr"] = plan.learning_rate * falling
        clean, level, keypoints = location_batch(denoiser, data, data.load(next(shuffled)), plan, step)
        loss = location_loss(*head(clean, level), keypoints)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(head.parameters(), 1.0)
        optimiser.step()
        optimiser.zero_grad()
        losses.append(loss.item())
        if step % 50 == 0 or step == plan.steps:
            report(step, sum(losses) / len(losses))
            losses = []
    return head.cpu().eval()


@torch.no_grad()
def location_batch(
    denoiser: Denoiser, data: Source, rows: Rows, plan: LocationPlan, step: int
) -> tuple[Tensor, Tensor, Tensor]:
    """(predicted or slightly noisy latents [B, C, h, w], σ over signal [B], key points [B, 5, 2]) of a step."""
    device, rng = denoiser.device, generator(plan.seed, "location", step)
    latents, count = rows.latents.to(device), round(plan.predicted * len(rows))
    noise = torch.randn(latents.shape, generator=rng).to(device)
    steps = len(denoiser.signal)
    first = torch.rand(count, generator=rng) * (1 - LOW_NOISE / 2) + LOW_NOISE / 2
    rest = torch.rand(len(rows) - count, generator=rng) * LOW_NOISE
    t = (torch.cat([first, rest]) * steps).long().clamp(max=steps - 1).to(device)
    signal, sigma = denoiser.signal.to(device)[t], denoiser.noise.to(device)[t]
    level = sigma / signal.clamp(min=1e-4)
    clean = latents + CLEAN_NOISE * level.clamp(max=1).view(-1, 1, 1, 1) * noise
    if count:
        a, s = signal[:count].view(-1, 1, 1, 1), sigma[:count].view(-1, 1, 1, 1)
        noisy = a * latents[:count] + s * noise[:count]
        prompt = prompts_of(rows, data, torch.rand(len(rows), generator=rng) < DROPPED_TEXT, count, device)
        predicted = denoiser.predict(noisy, t[:count], prompt)
        clean = torch.cat(
            [clean_from(predicted, noisy, signal[:count], sigma[:count], denoiser.prediction), clean[count:]]
        )
    return clean.float(), level.float(), rows.keypoints.to(device)


def prompts_of(rows: Rows, data: Source, off: Tensor, count: int, device: torch.device) -> Prompt:
    """The prompts of the first `count` rows on `device`, some of them empty."""
    prompt = without_text(rows.prompt, data.empty_prompt, off)

    def part(value: Tensor | None) -> Tensor | None:
        return value if value is None else (value if len(value) == 1 else value[:count]).to(device)

    return replace(prompt, states=part(prompt.states), pooled=part(prompt.pooled), sizes=part(prompt.sizes))


def with_location_head(adapter: TripletAdapter, head: LocationHead) -> TripletAdapter:
    """A copy of a TripletAdapter that finds the face's location with this head, which replaces any earlier head."""
    made = TripletAdapter(replace(adapter.config, location_channels=head.channels))
    own = {name: value for name, value in adapter.state_dict().items() if not name.startswith("location_head.")}
    made.load_state_dict(own | {f"location_head.{name}": value for name, value in head.state_dict().items()})
    return made.requires_grad_(False)

"""Training of a location head, which finds a face's key points in the clean latents that the base model predicts.

The base model is frozen and no adapter is used, so one head is trained per base model, before or after the adapter.
"""

import io
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path

import torch
from torch import Tensor

from ..adapter.location_head import KNOWN, LocationHead, location_loss
from ..adapter.model import TripletAdapter
from ..errors import FaceCDMError
from ..files import write_file
from ..tensor_file import load_pickle
from .denoiser import Denoiser, clean_from
from .held_out import without
from .randomness import batches, generator
from .rows import Rows, moved, without_text
from .settings import rule, setting, share
from .source import Source
from .state import FREE_SPACE, RunMismatch, damaged
from .window import rows_in_windows
from .worker import ALONE, Worker

LOW_NOISE = 0.4  # share of the timesteps below which slightly noisy latents can replace predicted ones
CLEAN_NOISE = 0.3  # noise of those latents, as a share of the timestep's noise
DROPPED_TEXT = 0.1
LOWEST_RATE = 1e-9  # at 0 nothing is learnt

Report = Callable[[int, float], None]  # step, loss


@dataclass(frozen=True)
class LocationPlan:
    """Settings for training a location head. Raises FaceCDMError for a value that is out of range."""

    steps: int = setting(1000, "Optimiser steps.", 1)
    batch: int = setting(64, "Pictures per step.", 1)
    predicted: float = share(
        0.5, "Share of the pictures whose latents the base model predicts; the others have slightly noisy latents."
    )
    learning_rate: float = setting(
        3e-3, "The rate after a warm-up; it falls over the last 60 % of the steps.", LOWEST_RATE
    )
    seed: int = 0
    windows: float = share(
        0.0, "Share of the steps on windows around the faces (window.py), where the faces are larger."
    )
    call: int = setting(0, "Pictures per call of the base model, which limits the memory; 0: all.", 0)

    def __post_init__(self) -> None:
        for one in fields(self):
            if found := rule(one):
                found.check(one.name, getattr(self, one.name))

    def to_dict(self) -> dict:
        return asdict(self)


def train_location_head(
    denoiser: Denoiser,
    data: Source,
    plan: LocationPlan = LocationPlan(),
    report: Report = lambda step, loss: None,
    held_out: frozenset[int] = frozenset(),
    worker: Worker = ALONE,
) -> LocationHead:
    """Train a head; returns it on the CPU. `report(step, loss)` is called after each step; it may raise to stop.

    held_out  indices of pictures that are not used
    worker    this process, one of those that share every batch

    Raises FaceCDMError if the data set has no picture to train on.
    """
    buckets = without(data.buckets, held_out)
    if not buckets:
        raise FaceCDMError("the data set has no picture to train the location head on")
    with torch.random.fork_rng(devices=[]):
        torch.random.default_generator.manual_seed(plan.seed)
        head = LocationHead(data.latent_shape(0)[0]).to(denoiser.device)
    parameters = list(head.parameters())
    optimiser = torch.optim.AdamW(parameters, plan.learning_rate, weight_decay=0.01)
    shuffled = batches(buckets, plan.batch, plan.seed, 0)
    for step in range(1, plan.steps + 1):
        for group in optimiser.param_groups:
            group["lr"] = plan.learning_rate * min(1.0, step / 50, max(0.01, (1 - step / plan.steps) / 0.6))
        rows = data.load(next(shuffled)[worker.rank :: worker.count])
        clean, level, keypoints = location_batch(denoiser, data, rows, plan, step, worker)
        loss = location_loss(*head(clean, level), keypoints)
        loss.backward()
        worker.average([value.grad for value in parameters])
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimiser.step()
        optimiser.zero_grad()
        report(step, loss.item())
    return head.cpu().eval()


@torch.no_grad()
def location_batch(
    denoiser: Denoiser, data: Source, rows: Rows, plan: LocationPlan, step: int, worker: Worker = ALONE
) -> tuple[Tensor, Tensor, Tensor]:
    """(predicted or slightly noisy latents [B, C, h, w], σ over signal [B], key points [B, 5, 2]) of a step.

    Only of rows with a face, unless there is none.
    """
    rng = generator(plan.seed, "location", step)  # whether a step is on windows is the same in all processes
    in_windows = bool(torch.rand(1, generator=rng) < plan.windows) if plan.windows else False
    if worker.count > 1:
        rng = generator(plan.seed, "location", step, worker.rank)
    device = denoiser.device
    rows = _with_faces(rows)
    if in_windows:
        rows, _ = rows_in_windows(rows, torch.rand(len(rows), 2, generator=rng), denoiser.stride)
    latents, count = rows.latents.to(device), round(plan.predicted * len(rows))
    noise = torch.randn(latents.shape, generator=rng).to(device)
    steps = len(denoiser.signal)
    first = torch.rand(count, generator=rng) * (1 - LOW_NOISE / 2) + LOW_NOISE / 2
    rest = torch.rand(len(rows) - count, generator=rng) * LOW_NOISE
    t = (torch.cat([first, rest]) * steps).long().clamp(max=steps - 1).to(device)
    signal, sigma = denoiser.signal.to(device)[t], denoiser.noise.to(device)[t]
    level = sigma / signal.clamp(min=1e-4)
    clean = latents + CLEAN_NOISE * level.clamp(max=1).view(-1, 1, 1, 1) * noise
    prompt = without_text(rows.prompt, data.empty_prompt, torch.rand(len(rows), generator=rng) < DROPPED_TEXT)
    for start in range(0, count, plan.call or max(count, 1)):
        part = slice(start, min(start + (plan.call or count), count))
        noisy = signal[part].view(-1, 1, 1, 1) * latents[part] + sigma[part].view(-1, 1, 1, 1) * noise[part]
        predicted = denoiser.predict(noisy, t[part], moved(prompt.part(part), device))
        clean[part] = clean_from(predicted, noisy, signal[part], sigma[part], denoiser.prediction)
    return clean.float(), level.float(), rows.keypoints.to(device)


def _with_faces(rows: Rows) -> Rows:
    """The rows whose box is not empty; all rows if there is none."""
    there = (rows.box[:, 2:] > rows.box[:, :2]).all(1)
    return rows if there.all() or not there.any() else rows.part(there)


def kept_location_head(
    path: Path, made_with: str, train: Callable[[], LocationHead], worker: Worker = ALONE
) -> LocationHead:
    """Read the head in `path`; if there is none, make one by `train` and write it there.

    made_with  the data and settings that determine the head

    All processes get rank 0's head. Raises RunMismatch if the file's `made_with` differs, BadFile if the file is
    damaged, FaceCDMError if the disk is full.
    """
    kept = worker.broadcast(path.read_bytes() if worker.rank == 0 and path.exists() else b"")
    if not kept:
        content = io.BytesIO()
        torch.save({"made_with": made_with, "head": train().state_dict()}, content)
        kept = worker.broadcast(content.getvalue())
        if worker.rank == 0:
            write_file(path, kept, FREE_SPACE)
    with damaged(path):
        stored = load_pickle(io.BytesIO(kept))
        if stored["made_with"] != made_with:
            raise RunMismatch(
                f"{path} was made with other data or settings. Give the same to resume, or another run folder to begin "
                "anew."
            )
        tensors = stored["head"]
        head = LocationHead(tensors["body.0.weight"].shape[1] - KNOWN)
        head.load_state_dict(tensors)
    return head.eval()


def with_location_head(adapter: TripletAdapter, head: LocationHead) -> TripletAdapter:
    """A copy of a TripletAdapter that finds the face's location with this head, which replaces any earlier head."""
    with torch.device("meta"):
        made = TripletAdapter(replace(adapter.config, location_channels=head.channels))
    own = {name: value for name, value in adapter.state_dict().items() if not name.startswith("location_head.")}
    own |= {f"location_head.{name}": value for name, value in head.state_dict().items()}
    made.load_state_dict({name: value.detach() for name, value in own.items()}, assign=True)
    return made.requires_grad_(False).eval()

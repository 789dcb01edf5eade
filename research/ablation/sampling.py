"""The images of an arm, sampled in batches and kept on disk, so that an interrupted run continues."""

import copy
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import torch
from torch import Tensor

from facecdm.adapter.location import FaceLocation
from facecdm.adapter.location_finder import LocationFinder, Prediction
from facecdm.adapter.reference_batch import ReferenceBatch
from facecdm.files import write_atomically
from facecdm.pictures import png
from facecdm.training.randomness import generator
from facecdm.training.rows import Prompt, moved
from facecdm.training.sample import even_timesteps, sample

from .arms import NONE, Design, SamplingSettings
from .bases import Bases
from .people import EvaluationSet
from .training import Trained, digest


@dataclass(frozen=True, eq=False)
class ImageSampler:
    """Samples all requests; `latent` is the shape [C, h, w] of an image's latents.

    The noise of a picture depends only on `seed` and its index: it is the same in every arm. `spent` gets the
    processor's seconds a step of one image, by the arm that was trained.
    """

    bases: Bases
    evaluation_set: EvaluationSet
    latent: tuple[int, ...]
    folder: Path
    steps: int = 20
    guidance: float = 4.0
    batch: int = 8
    seed: int = 0
    spent: dict[str, float] = field(default_factory=dict)

    def generate(
        self,
        trained: Trained | None,
        sampling: SamplingSettings,
        progress: Callable[[int], None],
        design: Design | None = None,
    ) -> list[Path]:
        """A PNG for each request, in order; `progress` gets the number of new ones after each batch."""
        denoiser = self.bases.sampling(design or Design())
        paths = self.paths(trained and trained.key, sampling, design)
        paths[0].parent.mkdir(parents=True, exist_ok=True)
        shown = None
        for start in range(0, len(paths), self.batch):
            indices = list(range(start, min(start + self.batch, len(paths))))
            if not all(paths[index].exists() for index in indices):
                shown = shown or (trained and _prepared(trained, sampling, denoiser.device))
                began = time.process_time()
                pictures = self._batch(denoiser, indices, shown, sampling)
                seconds = (time.process_time() - began) / len(indices) / self.steps
                self.spent[trained.facts["arm"] if trained else NONE] = seconds
                for index, picture in zip(indices, pictures):
                    write_atomically(paths[index], png(picture.numpy()))
            progress(len(indices))
        return paths

    def paths(self, key: str | None, sampling: SamplingSettings, design: Design | None = None) -> list[Path]:
        """Where the images of a training are or will be; `key` is the training's, None without an adapter."""
        denoiser = self.bases.sampling(design or Design())
        settings = [
            key,
            key and asdict(sampling),
            sampling.pose and denoiser.control_fingerprint,
            self.evaluation_set.key,
            denoiser.fingerprint,
            self.steps,
            self.guidance,
            self.batch,
            self.seed,
        ]
        folder = self.folder / digest(settings)
        return [folder / f"{index:04d}.png" for index in range(len(self.evaluation_set.requests))]

    def _batch(self, denoiser, indices: list[int], shown: Trained | None, sampling: SamplingSettings) -> Tensor:
        """uint8 [B, H, W, 3]; `shown` is on the denoiser's device."""
        evaluation_set, device = self.evaluation_set, denoiser.device
        noise = torch.stack(
            [torch.randn(self.latent, generator=generator("ablation", self.seed, index)) for index in indices]
        ).to(device)
        prompt = moved(evaluation_set.prompts.part(torch.tensor(indices)), device)
        empty = moved(evaluation_set.empty, device)
        people = None if shown is None else self._people(denoiser, shown, sampling, indices, prompt)
        hint = evaluation_set.hints[indices].to(device) if sampling.pose and evaluation_set.hints is not None else None
        levels = timesteps(denoiser, self.steps)
        with ExitStack() as applied:
            if shown is not None and shown.lora.parts:
                applied.enter_context(shown.lora.on(denoiser.layers()))
            if shown is not None and shown.control.parts:
                applied.enter_context(shown.control.on(denoiser.control_layers()))
            pixels = sample(denoiser, noise, prompt, empty, people, levels, self.guidance, hint)
        return (pixels.movedim(1, -1) * 255).round().to(torch.uint8).cpu()

    def _people(self, denoiser, shown: Trained, sampling: SamplingSettings, indices: list[int], prompt: Prompt):
        """The function that gives the streams of each step. The location is given, found by the adapter, or unknown."""
        adapter, size, device = shown.adapter, tuple(self.latent[-2:]), denoiser.device
        keypoints = self.evaluation_set.keypoints
        batch = self._references([self.evaluation_set.requests[index].person for index in indices], sampling, device)
        given = sampling.located and adapter.config.spatial_tokens and keypoints is not None
        if given:
            location = FaceLocation(keypoints[indices].to(device), size, adapter.config.grid_side)
            batch = replace(batch, location=location)
        batch = batch.with_tokens(adapter, prompt.states)
        finder = LocationFinder(adapter) if adapter.location_head is not None and not given else None

        def people(sigma: Tensor, before: Prediction | None):
            own = batch if finder is None else replace(batch, location=finder(before, size, device))
            return own.streams(adapter, prompt.states, sigma, denoiser.dtype)

        return people

    def _references(self, people: list[int], sampling: SamplingSettings, device: torch.device) -> ReferenceBatch:
        vision = self.evaluation_set.vision
        on = torch.ones(len(people), dtype=torch.bool, device=device)
        return ReferenceBatch(
            self.evaluation_set.faces[people].to(device),
            None if vision is None else vision[people].to(device),
            on if sampling.face else ~on,
            on if sampling.image else ~on,
        )


def timesteps(denoiser, steps: int) -> list[int]:
    """Falling timesteps: those of Karras et al. 2022; for a flow even ones of its own schedule."""
    return (even_timesteps if denoiser.prediction == "flow" else karras_timesteps)(denoiser, steps)


def karras_timesteps(denoiser, steps: int, rho: float = 7.0) -> list[int]:
    """The timesteps nearest to the noise levels σ of Karras et al. 2022 (eq. 5), highest first. Timesteps that several
    levels share are listed once."""
    sigmas = denoiser.noise / denoiser.signal
    high, low = (float(sigmas[end]) ** (1 / rho) for end in (-1, 0))
    wanted = torch.linspace(high, low, steps) ** rho
    nearest = (wanted.log()[:, None] - sigmas.cpu().log()[None]).abs().argmin(1).tolist()
    return list(dict.fromkeys(nearest))


@torch.no_grad()
def _prepared(trained: Trained, sampling: SamplingSettings, device: torch.device) -> Trained:
    """A copy with the strengths of `sampling`, on `device`."""
    adapter = copy.deepcopy(trained.adapter)
    for name, stream in adapter.streams.items():
        stream.gate.knots *= getattr(sampling, name)
    for lora in (trained.lora, trained.control):
        for part in lora.parts.values():
            part.to(device)
    return replace(trained, adapter=adapter.requires_grad_(False).to(device))

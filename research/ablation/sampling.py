"""The images of an arm, sampled in batches and kept on disk, so that an interrupted run continues."""

import copy
import io
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from facecdm.adapter.location import FaceLocation
from facecdm.adapter.location_finder import LocationFinder, Prediction
from facecdm.adapter.model import TripletAdapter
from facecdm.adapter.reference_batch import ReferenceBatch
from facecdm.files import write_atomically
from facecdm.training.lora import Lora
from facecdm.training.randomness import generator
from facecdm.training.rows import moved
from facecdm.training.sample import even_timesteps, karras_timesteps, sample

from .arms import SamplingSettings
from .people import EvaluationSet
from .training import Trained, digest


@dataclass(frozen=True, eq=False)
class ImageSampler:
    """Samples all requests on one denoiser; `latent` is the shape [C, h, w] of an image's latents.

    The noise of a picture depends only on `seed` and its index: it is the same in every arm. `control` names the
    denoiser's pose ControlNet.
    """

    denoiser: object
    evaluation_set: EvaluationSet
    latent: tuple[int, ...]
    folder: Path
    steps: int = 20
    guidance: float = 4.0
    batch: int = 8
    seed: int = 0
    control: str | None = None

    def generate(
        self, trained: Trained | None, sampling: SamplingSettings, progress: Callable[[int], None]
    ) -> list[Path]:
        """A PNG for each request, in order; `progress` gets the number of new ones after each batch."""
        settings = [
            trained and trained.key,
            trained and asdict(sampling),
            sampling.pose and self.control,
            self.evaluation_set.key,
            self.denoiser.fingerprint,
            self.steps,
            self.guidance,
            self.batch,
            self.seed,
        ]
        folder = self.folder / digest(settings)
        paths = [folder / f"{index:04d}.png" for index in range(len(self.evaluation_set.requests))]
        folder.mkdir(parents=True, exist_ok=True)
        adapter = lora = None
        for start in range(0, len(paths), self.batch):
            indices = list(range(start, min(start + self.batch, len(paths))))
            if not all(paths[index].exists() for index in indices):
                if trained is not None and adapter is None:
                    adapter, lora = tuned(trained.adapter, sampling).to(self.denoiser.device), trained.lora
                    for part in lora.parts.values():
                        part.to(self.denoiser.device)
                for index, picture in zip(indices, self._batch(indices, adapter, lora, sampling)):
                    write_atomically(paths[index], png(picture))
            progress(len(indices))
        return paths

    def _batch(
        self, indices: list[int], adapter: TripletAdapter | None, lora: Lora | None, sampling: SamplingSettings
    ) -> Tensor:
        """uint8 [B, H, W, 3]."""
        denoiser, evaluation_set = self.denoiser, self.evaluation_set
        device = denoiser.device
        noise = torch.stack(
            [torch.randn(self.latent, generator=generator("ablation", self.seed, index)) for index in indices]
        ).to(device)
        prompt = moved(evaluation_set.prompts.part(torch.tensor(indices)), device)
        empty = moved(evaluation_set.empty, device)
        people = finder = None
        if adapter is not None:
            reference_batch = self._references([evaluation_set.requests[index].person for index in indices], sampling)
            if sampling.located and adapter.config.spatial_tokens and evaluation_set.keypoints is not None:
                reference_batch = replace(
                    reference_batch,
                    location=FaceLocation(
                        evaluation_set.keypoints[indices].to(device), tuple(noise.shape[-2:]), adapter.config.grid_side
                    ),
                )

            elif adapter.location_head is not None:
                finder = LocationFinder(adapter)

            def people(sigma: Tensor, before: Prediction | None):
                batch = reference_batch
                if finder is not None:
                    batch = replace(batch, location=finder(before, tuple(noise.shape[-2:]), device))
                return batch.streams(adapter, prompt.states, sigma, denoiser.dtype)

        hint = evaluation_set.hints[indices].to(device) if sampling.pose and evaluation_set.hints is not None else None
        with lora.on(denoiser.layers()) if lora is not None and lora.parts else nullcontext():
            levels = timesteps(denoiser, self.steps)
            pixels = sample(denoiser, noise, prompt, empty, people, levels, self.guidance, hint)
        return (pixels.movedim(1, -1) * 255).round().to(torch.uint8).cpu()

    def _references(self, people: list[int], sampling: SamplingSettings) -> ReferenceBatch:
        device, vision = self.denoiser.device, self.evaluation_set.vision
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


@torch.no_grad()
def tuned(adapter: TripletAdapter, sampling: SamplingSettings) -> TripletAdapter:
    """A copy with the strengths and κ of `sampling`."""
    adapter = copy.deepcopy(adapter)
    for name, stream in adapter.streams.items():
        stream.gate.knots *= getattr(sampling, name)
        if sampling.kappa is not None:
            stream.kappa.fill_(sampling.kappa)
    return adapter.requires_grad_(False)


def png(picture: Tensor) -> bytes:
    from PIL import Image

    out = io.BytesIO()
    Image.fromarray(picture.numpy()).save(out, "PNG")
    return out.getvalue()

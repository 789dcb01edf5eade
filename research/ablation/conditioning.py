"""How much a one-step prediction depends on whose face is the reference, before any image is sampled.

The held-out photo is noised and predicted in one step with the empty prompt: with the person's reference, with another
person's, and with none. The difference of their errors over the face measures the dependence. It needs no sampling, so
it shows differences between short trainings whose images do not differ.
"""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from facecdm.adapter.location import FaceLocation
from facecdm.adapter.reference_batch import ReferenceBatch
from facecdm.evaluation.measures import interval
from facecdm.files import write_atomically
from facecdm.training.denoiser import clean_from
from facecdm.training.losses import LinearRecogniser
from facecdm.training.randomness import generator
from facecdm.training.rows import moved

from .people import EvaluationSet, joined
from .training import Trained

LOCATED = ", with face location"
SEED = "heard"  # of the noise, with the level; another text changes the numbers in docs/results.md
LEVELS = (500, 700, 900)
COLUMNS = {
    "added by the wrong reference": ("wrong", "right"),
    "removed by the right reference": ("unconditional", "right"),
}
# By noise level and by reference (right, wrong, unconditional): the error over each person's face.
Errors = dict[str, dict[str, list[float]]]


@dataclass(frozen=True, eq=False)
class ConditioningProbe:
    """What a measurement needs.

    latents    [P, C, h, w], of the held-out photos
    keypoints  [P, 5, 2] in 0…1, of the same
    linear     the linear recogniser in whose coordinates errors are measured
    folder     of the cache
    """

    denoiser: object
    linear: LinearRecogniser
    evaluation_set: EvaluationSet
    latents: Tensor
    keypoints: Tensor
    folder: Path

    @torch.no_grad()
    def measure(self, trained: Trained, located: bool = False) -> Errors:
        """The errors of one training, conditioned on face location if `located`; cached on disk."""
        path = self.folder / f"{trained.key} {self.evaluation_set.key}{' located' if located else ''}.json"
        if not path.exists():
            self.folder.mkdir(parents=True, exist_ok=True)
            errors = {str(level): self._errors(trained, level, located) for level in LEVELS}
            write_atomically(path, json.dumps(errors).encode())
        return json.loads(path.read_text())

    def _errors(self, trained: Trained, level: int, located: bool) -> dict[str, list[float]]:
        device, people = self.denoiser.device, len(self.latents)
        t = torch.full((people,), level, device=device)
        a, s = self.denoiser.signal.to(device)[t], self.denoiser.noise.to(device)[t]
        latents = self.latents.to(device)
        noise = torch.randn(latents.shape, generator=generator(SEED, level)).to(device)
        noisy = a.view(-1, 1, 1, 1) * latents + s.view(-1, 1, 1, 1) * noise
        prompt = moved(joined([self.evaluation_set.empty] * people), device)
        adapter, on = trained.adapter.to(device), torch.ones(people, dtype=torch.bool, device=device)
        faces, vision = self.evaluation_set.faces.to(device), self.evaluation_set.vision
        vision = None if vision is None else vision.to(device)
        where, found = None, {}
        if located:
            where = FaceLocation(self.keypoints.to(device), tuple(latents.shape[-2:]), adapter.config.grid_side)
        for name, turn, shown in (("right", 0, on), ("wrong", 1, on), ("unconditional", 0, ~on)):
            reference_batch = ReferenceBatch(
                faces.roll(turn, 0), None if vision is None else vision.roll(turn, 0), shown, shown, where
            )
            streams = reference_batch.streams(adapter, prompt.states, s / a, self.denoiser.dtype)
            with trained.lora.on(self.denoiser.layers()):
                prediction = self.denoiser.predict(noisy, t, prompt, streams)
            clean = clean_from(prediction, noisy, a, s, self.denoiser.prediction)
            found[name] = self.linear(clean - latents, self.keypoints).square().sum(1).tolist()
        return found


def open_probe(denoiser, data, evaluation_set: EvaluationSet, recognise, encoders, folder: Path) -> ConditioningProbe:
    """`recognise` finds the key points; `encoders` are the base model's."""
    pictures = [np.asarray(Image.open(path).convert("RGB")) for path in evaluation_set.held_out]
    keypoints = torch.stack(
        [torch.as_tensor(recognise(picture).keypoints).float() / len(picture) for picture in pictures]
    )
    small = torch.nn.functional.interpolate(
        torch.from_numpy(np.stack(pictures)).movedim(-1, 1).float() / 255,
        (encoders.resolution, encoders.resolution),
        mode="area",
    )
    latents = encoders.latents(small.movedim(1, -1)).float().cpu()
    return ConditioningProbe(denoiser, LinearRecogniser.fit(denoiser, data), evaluation_set, latents, keypoints, folder)


HEAD = ["training", "noise_level", "measure", "mean", "low", "high", "difference", "difference_low", "difference_high"]


def rows(probed: dict[str, Errors], names: list[str], first: str) -> list[list]:
    """For results/conditioning.csv, below HEAD: means over people (`names`) with 95 % intervals.

    Differences are paired, to the training `first`; with face location, to `first` with face location.
    """
    found = []
    for training, errors in probed.items():
        located = first + LOCATED
        other = probed.get(located if training.endswith(LOCATED) and training != located else first)
        for level in LEVELS:
            for column, pair in COLUMNS.items():
                gain = _gain(errors, level, *pair)
                values = interval(dict(zip(names, gain)))
                if other is not None and training != first:
                    less = [a - b for a, b in zip(gain, _gain(other, level, *pair))]
                    values = (*values, *interval(dict(zip(names, less))))
                found.append([training, level, column, *(f"{value:.6g}" for value in values)])
    return found


def _gain(errors: Errors, level: int, more: str, less: str) -> list[float]:
    return [a - b for a, b in zip(errors[str(level)][more], errors[str(level)][less])]

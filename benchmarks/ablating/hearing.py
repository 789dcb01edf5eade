"""Whether a training hears who is shown, long before its pictures show it.

The held-out photo is noised and predicted in one step, without words: with the person's reference, with another
person's, with nobody's. How much more of the face is missed with the wrong one says how much the prediction depends on
who is shown; it needs no sampling, so it tells small trainings apart whose pictures do not.
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
from facecdm.training.rows import Prompt

from .people import Cast
from .training import Trained

TOLD = ", told where the face is"
LEVELS = (500, 700, 900)
COLUMNS = {"the wrong person adds": ("wrong", "right"), "the right person takes off": ("nobody", "right")}


@dataclass(frozen=True, eq=False)
class Ear:
    """`latents` [P, C, h, w] and `keypoints` [P, 5, 2] in 0…1 are those of the cast's held-out photos."""

    denoiser: object
    linear: LinearRecogniser
    cast: Cast
    latents: Tensor
    keypoints: Tensor
    folder: Path

    @torch.no_grad()
    def ask(self, trained: Trained, told: bool = False) -> dict[str, dict[str, list[float]]]:
        """By level, what is missed of each person's face with the right, the wrong, and nobody's; kept on disk.

        `told`: the adapter is told where the face is to be.
        """
        path = self.folder / f"{trained.key} {self.cast.key}{' told' if told else ''}.json"
        if not path.exists():
            self.folder.mkdir(parents=True, exist_ok=True)
            write_atomically(
                path, json.dumps({str(level): self._missed(trained, level, told) for level in LEVELS}).encode()
            )
        return json.loads(path.read_text())

    def _missed(self, trained: Trained, level: int, told: bool) -> dict[str, list[float]]:
        device, people = self.denoiser.device, len(self.latents)
        t = torch.full((people,), level, device=device)
        a, s = self.denoiser.signal.to(device)[t], self.denoiser.noise.to(device)[t]
        latents = self.latents.to(device)
        noise = torch.randn(latents.shape, generator=generator("heard", level)).to(device)
        noisy = a.view(-1, 1, 1, 1) * latents + s.view(-1, 1, 1, 1) * noise
        prompt = Prompt(self.cast.empty.to(device).expand(people, -1, -1))
        adapter, on = trained.adapter.to(device), torch.ones(people, dtype=torch.bool, device=device)
        faces, vision = self.cast.faces.to(device), self.cast.vision
        vision = None if vision is None else vision.to(device)
        where, found = None, {}
        if told:
            where = FaceLocation(self.keypoints.to(device), tuple(latents.shape[-2:]), adapter.config.grid_side)
        for name, turn, shown in (("right", 0, on), ("wrong", 1, on), ("nobody", 0, ~on)):
            reference_batch = ReferenceBatch(
                faces.roll(turn, 0), None if vision is None else vision.roll(turn, 0), shown, shown, where
            )
            streams = reference_batch.streams(adapter, prompt.states, s / a, self.denoiser.dtype)
            with trained.lora.on(self.denoiser.layers()):
                prediction = self.denoiser.predict(noisy, t, prompt, streams)
            clean = clean_from(prediction, noisy, a, s, self.denoiser.prediction)
            found[name] = self.linear(clean - latents, self.keypoints).square().sum(1).tolist()
        return found


def open_ear(denoiser, data, cast: Cast, look, encoders, folder: Path) -> Ear:
    """`look` is a recogniser's, and finds the key points; `encoders` are the base's, for the latents."""
    pictures = [np.asarray(Image.open(path).convert("RGB")) for path in cast.held_out]
    keypoints = torch.stack([torch.as_tensor(look(picture).keypoints).float() / len(picture) for picture in pictures])
    small = torch.nn.functional.interpolate(
        torch.from_numpy(np.stack(pictures)).movedim(-1, 1).float() / 255,
        (encoders.resolution, encoders.resolution),
        mode="area",
    )
    latents = encoders.latents(small.movedim(1, -1)).float().cpu()
    return Ear(denoiser, LinearRecogniser.fit(denoiser, data), cast, latents, keypoints, folder)


Heard = dict[str, dict[str, list[float]]]  # by level and by who was shown, what was missed of each person's face


def table(heard: dict[str, Heard], names: list[str]) -> str:
    """Markdown: a row for each training, by its name, with 95 % intervals over the people."""
    head = [f"{column}, t = {level}" for level in LEVELS for column in COLUMNS]
    rows = {
        training: [_gain(levels, level, *pair) for level in LEVELS for pair in COLUMNS.values()]
        for training, levels in heard.items()
    }
    return _markdown(head, rows, names)


def against(heard: dict[str, Heard], first: str, names: list[str]) -> str:
    """Markdown: how much more the wrong person adds than in the training `first`, person by person; who is told, than
    in `first` when it is told, too."""
    pair, told = COLUMNS["the wrong person adds"], first + TOLD

    def other(training: str) -> dict:
        return heard[told if training.endswith(TOLD) and training != told and told in heard else first]

    rows = {
        training: [
            [a - b for a, b in zip(_gain(levels, level, *pair), _gain(other(training), level, *pair))]
            for level in LEVELS
        ]
        for training, levels in heard.items()
        if training != first
    }
    return _markdown([f"t = {level}" for level in LEVELS], rows, names)


def _gain(levels: Heard, level: int, more: str, less: str) -> list[float]:
    return [a - b for a, b in zip(levels[str(level)][more], levels[str(level)][less])]


def _markdown(head: list[str], rows: dict[str, list[list[float]]], names: list[str]) -> str:
    lines = [f"| | {' | '.join(head)} |", "|---" * (len(head) + 1) + "|"]
    for training, columns in rows.items():
        cells = ["{:+.3f} [{:+.3f}, {:+.3f}]".format(*interval(dict(zip(names, column)))) for column in columns]
        lines.append(f"| {training} | {' | '.join(cells)} |")
    return "\n".join(lines)

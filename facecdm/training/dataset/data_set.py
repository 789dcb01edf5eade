"""A prepared data set: what the trainer reads."""

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ...errors import BadFile, FaceCDMError
from ..rows import Prompt, Rows
from .manifest import Entry, Manifest, read_manifest
from .references import difference, shape
from .store import Store

STAGES = ("faces", "latents", "text", "vision", "augmented")


@dataclass(frozen=True, eq=False)
class Features:
    """What an adapter sees of reference photos: `face` [B, W] raw embeddings, `vision` [B, N, V] or None; float32."""

    face: Tensor
    vision: Tensor | None

    def __len__(self) -> int:
        return len(self.face)


class DataSet:
    """Pictures, encoded, on disk. Records are read when asked for, so that memory does not grow with their number.

    Indices count `entries` from 0. Opening raises MissingModel, BadFile.
    """

    def __init__(self, folder: Path):
        self.folder = Path(folder)
        self.manifest: Manifest = read_manifest(self.folder)
        self._stores = {stage: Store(self.folder / stage) for stage in STAGES}
        for entry in self.entries:
            keys = entry.keys
            for stage, key in zip(STAGES, (keys.face, keys.latents, keys.text, keys.vision, keys.augmented)):
                if key and key not in self._stores[stage].places:
                    raise BadFile(f"{self.folder / stage} lacks what was made of {entry.name}: prepare the data set "
                                  "again (only what is missing is made)")
        self._people: dict[int, list[int]] = {}
        for index, entry in enumerate(self.entries):
            self._people.setdefault(entry.identity, []).append(index)

    def __len__(self) -> int:
        return len(self.entries)

    def __repr__(self) -> str:
        return f"DataSet({len(self)} pictures of {len(self._people)} people, {self.folder.name})"

    @property
    def entries(self) -> tuple[Entry, ...]:
        return self.manifest.entries

    @cached_property
    def fingerprint(self) -> str:
        """Hash of contents and settings: equal where a training would see the same numbers."""
        return self.manifest.fingerprint

    @property
    def recogniser(self) -> str:
        return self.manifest.recogniser

    @cached_property
    def face_width(self) -> int:
        return len(self._rows("faces", [self.entries[0].keys.face], "embedding")[0])

    @cached_property
    def vision_width(self) -> int:
        """Features of the CLIP vision tower's states; 0 where the data set has none."""
        return self._rows("vision", [self.entries[0].keys.vision], "states")[0].shape[-1] if self.has_vision else 0

    @property
    def has_vision(self) -> bool:
        return bool(self.entries[0].keys.vision)

    @cached_property
    def buckets(self) -> dict[tuple[int, int], list[int]]:
        """(height, width) in pixels → the indices of its pictures."""
        out: dict[tuple[int, int], list[int]] = {}
        for index, entry in enumerate(self.entries):
            out.setdefault(entry.bucket, []).append(index)
        return out

    @property
    def people(self) -> dict[int, list[int]]:
        """The person's number → the indices of their pictures."""
        return self._people

    @cached_property
    def embeddings(self) -> Tensor:
        """[N, W] float32: the raw face embeddings of all pictures (2 KB each), read once."""
        return self.features(range(len(self)), vision=False).face

    def load(self, indices: Sequence[int]) -> Rows:
        """The pictures of those indices, all of one bucket. Raises FaceCDMError, BadFile."""
        entries = [self.entries[index] for index in indices]
        if len({entry.bucket for entry in entries}) != 1:
            raise FaceCDMError(f"one batch holds pictures of one bucket, not {sorted({e.bucket for e in entries})}")
        keys = [entry.keys for entry in entries]
        features = self.features(indices)
        return Rows(
            latents=_stack(self._rows("latents", [key.latents for key in keys], "latents")),
            prompt=self._prompt([key.text for key in keys], entries),
            face=features.face, vision=features.vision,
            box=torch.tensor([entry.box for entry in entries]),
            keypoints=torch.tensor([entry.keypoints for entry in entries]),
            control=None,
            identity=torch.tensor([entry.identity for entry in entries]))

    @cached_property
    def empty_prompt(self) -> Prompt:
        """[1, T, C]: the empty text; SDXL's sizes are a square picture's of the data set's resolution."""
        return self._prompt([self.manifest.empty], None)

    def features(self, indices: Sequence[int], vision: bool = True) -> Features:
        """What is seen of pictures when they are references; any buckets."""
        keys = [self.entries[index].keys for index in indices]
        states = self._rows("vision", [key.vision for key in keys], "states") if vision and self.has_vision else None
        return Features(_stack(self._rows("faces", [key.face for key in keys], "embedding")),
                        None if states is None else _stack(states))

    def augmented(self, index: int) -> Features | None:
        """[K, …]: variations of the picture itself, made where the person has no other photo; else None."""
        key = self.entries[index].keys.augmented
        if not key:
            return None
        states = self._rows("augmented", [key], "states")[0].float() if self.has_vision else None
        return Features(self._rows("augmented", [key], "embedding")[0].float(), states)

    def references(self, index: int) -> list[int]:
        """Other photos of the same person, the most different in pose and expression first; [] where there is none."""
        others = [other for other in self._people[self.entries[index].identity] if other != index]
        if not others:
            return []
        shapes = self._shapes
        far = difference(shapes[index], shapes[others])
        return [others[place] for place in np.argsort(-far, kind="stable")]

    def draw_references(self, indices: Sequence[int], rng: random.Random) -> Features:
        """One reference for each picture: another photo of the person, the more likely the more different it is;
        where there is none, a variation of the picture; where there are none either, the picture itself."""
        chosen = []
        for index in indices:
            others, own = self.references(index), self.augmented(index)
            if others:
                weights = range(len(others) + 1, 1, -1)  # the first is about twice as likely as the middle one
                chosen.append(self.features(rng.choices(others, weights)))
            elif own is not None:
                row = slice(place := rng.randrange(len(own)), place + 1)
                chosen.append(Features(own.face[row], None if own.vision is None else own.vision[row]))
            else:
                chosen.append(self.features([index]))
        return Features(torch.cat([one.face for one in chosen]),
                        torch.cat([one.vision for one in chosen]) if self.has_vision else None)

    @cached_property
    def _shapes(self) -> np.ndarray:
        """[N, P, 2]: pose and expression of every picture; five points where not all have landmarks."""
        keys = [entry.keys.face for entry in self.entries]
        points = [row.numpy() for row in self._rows("faces", keys, "keypoints")]
        marks = [row.numpy() for row in self._rows("faces", keys, "landmarks")]
        marks = marks if all(len(row) for row in marks) else [row[:0] for row in marks]
        return np.stack([shape(*both) for both in zip(points, marks)])

    def _prompt(self, keys: list[str], entries: list[Entry] | None) -> Prompt:
        states = [row.float() for row in self._rows("text", keys, "states")]
        longest = math.lcm(*(len(row) for row in states))
        if not self.manifest.large:
            return Prompt(repeat(states, longest))
        pooled = _stack(self._rows("text", keys, "pooled"))
        side = self.manifest.settings["resolution"]
        sizes = [sdxl_sizes(entry) for entry in entries] if entries else [(side, side, 0, 0, side, side)]
        return Prompt(repeat(states, longest), pooled, torch.tensor(sizes, dtype=torch.float32))

    def _rows(self, stage: str, keys: list[str], name: str) -> list[Tensor]:
        return self._stores[stage].rows(keys, name)


def repeat(states: list[Tensor], length: int) -> Tensor:
    """[T, C] each, T a divisor of `length` → [B, length, C]: a text said twice gives the same attention."""
    return torch.stack([row.repeat(length // len(row), 1) for row in states])


def sdxl_sizes(entry: Entry) -> tuple[float, ...]:
    """Original height and width, crop from above and from the left, target height and width, in pixels.

    The crop is counted in the picture as it was resized, as in SDXL's own training.
    """
    x0, y0, x1, _ = entry.part
    scale = entry.bucket[1] / (x1 - x0)
    return (*entry.original, round(y0 * scale), round(x0 * scale), *entry.bucket)


def _stack(rows: list[Tensor]) -> Tensor:
    return torch.stack([row.float() for row in rows])

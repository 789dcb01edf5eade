"""A prepared data set, as the trainer reads it."""

import math
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ...errors import BadFile, FaceCDMError
from ..rows import Prompt, Rows
from .manifest import Manifest, Record, read_manifest
from .poses import draw_pose
from .references import difference, shape
from .store import Store, digest

STAGES = ("faces", "latents", "text", "vision", "augmented")  # in the order of Keys.all()


class DataSet:
    """Encoded pictures on disk (a `training.source.Source`), read on demand: memory does not grow with their number.

    Indices count `entries` from 0; tensors are float32 on the CPU. Raises MissingModel or BadFile on opening, and
    BadFile on reading a damaged record.
    """

    def __init__(self, folder: Path):
        self.folder = Path(folder)
        self.manifest: Manifest = read_manifest(self.folder)
        self._stores = {stage: Store(self.folder / stage) for stage in STAGES}
        for entry in self.entries:
            for stage, key in zip(STAGES, entry.keys.all()):
                if key and key not in self._stores[stage].locations:
                    raise BadFile(
                        f"{self.folder / stage} lacks a record of {entry.name}: prepare the data set again (only what "
                        "is missing is made)"
                    )
        self.people: dict[int, list[int]] = {}
        for index, entry in enumerate(self.entries):
            self.people.setdefault(entry.identity, []).append(index)

    def __len__(self) -> int:
        return len(self.entries)

    def __repr__(self) -> str:
        return f"DataSet({len(self)} pictures of {len(self.people)} people, {self.folder.name})"

    @property
    def entries(self) -> tuple[Record, ...]:
        return self.manifest.entries

    @cached_property
    def fingerprint(self) -> str:
        """Hash of settings, contents and the records' bytes. Equal hashes mean equal training data.

        The records' checksums stand for their bytes. Data sets from versions without checksums keep their fingerprint.
        """
        sums = [
            self._stores[stage].checksum(key)
            for entry in self.entries
            for stage, key in zip(STAGES, entry.keys.all())
            if key
        ]
        sums.append(self._stores["text"].checksum(self.manifest.empty))
        return digest(self.manifest.fingerprint, sums) if any(sums) else self.manifest.fingerprint

    @property
    def recogniser(self) -> str:
        return self.manifest.recogniser

    @cached_property
    def face_width(self) -> int:
        return len(self._rows("faces", [self.entries[0].keys.face], "embedding")[0])

    @cached_property
    def vision_width(self) -> int:
        """Features of the CLIP vision tower's states; 0 if the data set has none."""
        return self._rows("vision", [self.entries[0].keys.vision], "states")[0].shape[-1] if self.has_vision else 0

    @property
    def has_vision(self) -> bool:
        return bool(self.entries[0].keys.vision)

    @property
    def has_pose(self) -> bool:
        """Whether rows have pose pictures for a ControlNet."""
        return self.manifest.settings.get("pose", "none") != "none"

    @cached_property
    def buckets(self) -> list[list[int]]:
        """The indices of the pictures of each bucket, the largest bucket first."""
        by_size: dict[tuple[int, int], list[int]] = {}
        for index, entry in enumerate(self.entries):
            by_size.setdefault(entry.bucket, []).append(index)
        return [by_size[size] for size in sorted(by_size, key=lambda size: (-len(by_size[size]), size))]

    @cached_property
    @torch.inference_mode(False)
    def mean_face(self) -> Tensor:
        """[W]: the mean of the unit embeddings of all pictures."""
        total = torch.zeros(self.face_width)
        for start in range(0, len(self), 1024):
            face, _ = self.features(range(start, min(start + 1024, len(self))), vision=False)
            total += torch.nn.functional.normalize(face, dim=1).sum(0)
        return total / len(self)

    def latent_shape(self, index: int) -> tuple[int, int, int]:
        """(C, h, w) of a picture's latents."""
        return tuple(self._rows("latents", [self.entries[index].keys.latents], "latents")[0].shape)

    def identity(self, index: int) -> int:
        """The person's number."""
        return self.entries[index].identity

    @torch.inference_mode(False)
    def load(self, indices: Sequence[int]) -> Rows:
        """Load the pictures at these indices, all of one bucket. Raises FaceCDMError, BadFile."""
        entries = [self.entries[index] for index in indices]
        if len({entry.bucket for entry in entries}) != 1:
            raise FaceCDMError(f"one batch holds pictures of one bucket, not {sorted({e.bucket for e in entries})}")
        face, vision = self.features(indices)
        return Rows(
            latents=_stack(self._rows("latents", [entry.keys.latents for entry in entries], "latents")),
            prompt=self._prompt([entry.keys.text for entry in entries], entries),
            face=face,
            vision=vision,
            box=torch.tensor([entry.box for entry in entries]),
            keypoints=torch.tensor([entry.keypoints for entry in entries]),
            control=self._control(entries),
            identity=torch.tensor([entry.identity for entry in entries]),
        )

    @cached_property
    @torch.inference_mode(False)
    def empty_prompt(self) -> Prompt:
        """The empty prompt [1, T, C]; its SDXL sizes are those of a square picture at the data set's resolution."""
        return self._prompt([self.manifest.empty], None)

    @torch.inference_mode(False)
    def features(
        self, indices: Sequence[int], augmented: Sequence[float | None] | None = None, vision: bool = True
    ) -> tuple[Tensor, Tensor | None]:
        """The features of reference pictures from any buckets: raw face embeddings [B, W], and vision states
        [B, N, V] if the data set has them.

        A number in 0…1 in `augmented` chooses a variation of that picture. Only a person's single photo has
        variations; for other pictures the number is ignored.
        """
        entries = [self.entries[index] for index in indices]
        picks = list(augmented) if augmented is not None else [None] * len(entries)
        vision = vision and self.has_vision
        faces, states = [], []
        for entry, pick in zip(entries, picks):
            keys = entry.keys
            varied = pick is not None and bool(keys.augmented)
            stage, key = ("augmented", keys.augmented) if varied else ("faces", keys.face)
            row = self._rows(stage, [key], "embedding")[0]
            number = min(int((pick or 0) * len(row)), len(row) - 1)
            faces.append(row[number] if varied else row)
            if vision:
                key = keys.augmented if varied else keys.vision
                row = self._rows("augmented" if varied else "vision", [key], "states")[0]
                states.append(row[number] if varied else row)
        return _stack(faces), _stack(states) if vision else None

    def references(self, index: int) -> list[int]:
        """Other photos of the same person, the most different in pose and expression first; [] if there are none."""
        others = [other for other in self.people[self.entries[index].identity] if other != index]
        if not others:
            return []
        distance = difference(self._shapes[index], self._shapes[others])
        return [others[number] for number in np.argsort(-distance, kind="stable")]

    @cached_property
    def _shapes(self) -> np.ndarray:
        """Shapes [N, P, 2] of all faces (1 KB each): landmarks, or five key points if any face has no landmarks."""
        keys = [entry.keys.face for entry in self.entries]
        points = [row.numpy() for row in self._rows("faces", keys, "keypoints")]
        marks = [row.numpy() for row in self._rows("faces", keys, "landmarks")]
        marks = marks if all(len(row) for row in marks) else [row[:0] for row in marks]
        return np.stack([shape(*both) for both in zip(points, marks)])

    def _control(self, entries: list[Record]) -> Tensor | None:
        """The pose pictures [B, 3, H, W] in 0…1, drawn from the key points."""
        if not self.has_pose:
            return None
        kind = self.manifest.settings["pose"]
        marks = [row.numpy() for row in self._rows("faces", [entry.keys.face for entry in entries], "landmarks")]
        drawn = [draw_pose(kind, entry, points) for entry, points in zip(entries, marks)]
        return torch.from_numpy(np.stack(drawn)).movedim(-1, 1).float() / 255

    def _prompt(self, keys: list[str], entries: list[Record] | None) -> Prompt:
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
    """B states [T, C] → [B, length, C]; each T divides `length`. Repeated tokens do not change attention."""
    return torch.stack([row.repeat(length // len(row), 1) for row in states])


def sdxl_sizes(entry: Record) -> tuple[float, ...]:
    """Original height and width, crop from the top and the left, target height and width, in pixels.

    The crop is measured in the resized picture, as in SDXL's own training.
    """
    x0, y0, x1, _ = entry.part
    scale = entry.bucket[1] / (x1 - x0)
    return (*entry.original, round(y0 * scale), round(x0 * scale), *entry.bucket)


def _stack(rows: list[Tensor]) -> Tensor:
    return torch.stack([row.float() for row in rows])

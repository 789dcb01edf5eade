"""A prepared data set, as the trainer reads it."""

import math
from array import array
from collections.abc import Iterator, Sequence
from functools import cached_property
from itertools import chain
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ...errors import FaceCDMError
from ..rows import Prompt, Rows
from .columns import Groups, read_columns
from .manifest import STAGES, Manifest, Record, read_manifest
from .poses import draw_pose
from .references import difference, shape
from .store import ShardReader, digest_with_list

TEXT = STAGES.index("text")
MOST_CHUNKS = 4  # of 75 tokens of a U-Net's caption; so a batch has at most 12, the least common multiple of 1 … 4
PEOPLE_KEPT = 256  # people whose faces' shapes are kept


class DataSet:
    """Encoded pictures on disk (a `training.source.Source`), read on demand: memory grows by some 30 bytes a picture.

    Indices count `entries` from 0; tensors are float32 on the CPU. Raises MissingModel or BadFile on opening, and
    BadFile on reading a damaged record.
    """

    def __init__(self, folder: Path):
        self.folder = Path(folder)
        self.manifest: Manifest = read_manifest(self.folder)
        self._shards = [ShardReader(self.folder / stage) for stage in STAGES]
        self._columns = read_columns(self.entries, self.folder)
        self.people = Groups(self._columns.identities)
        self._people_read: dict[int, tuple[list[int], np.ndarray]] = {}

    def __len__(self) -> int:
        return len(self.entries)

    def __repr__(self) -> str:
        return f"DataSet({len(self)} pictures of {len(self.people)} people, {self.folder.name})"

    @property
    def entries(self) -> Sequence[Record]:
        return self.manifest.entries

    @cached_property
    def fingerprint(self) -> str:
        """Hash of settings, contents and the records' bytes. Equal hashes mean equal training data.

        The records' checksums stand for their bytes. Data sets from versions without checksums keep their fingerprint.
        """
        there = False

        def sums() -> Iterator[str]:
            nonlocal there
            empty = self._shards[TEXT], self.manifest.empty, self.manifest.empty_at
            records = (record for entry in self.entries for record in zip(self._shards, entry.keys.all(), entry.at))
            for shards, key, place in chain(records, [empty]):
                if place is not None:
                    there |= bool(value := shards.checksum(key, place))
                    yield value

        contents = self.manifest.fingerprint
        with_bytes = digest_with_list(sums(), contents, [])
        return with_bytes if there else contents

    @property
    def recogniser(self) -> str:
        return self.manifest.recogniser

    @cached_property
    def face_width(self) -> int:
        return len(self._rows("faces", [self.entries[0]], "embedding")[0])

    @cached_property
    def vision_width(self) -> int:
        """Features of the CLIP vision tower's states; 0 if the data set has none."""
        return self._rows("vision", [self.entries[0]], "states")[0].shape[-1] if self.has_vision else 0

    @property
    def has_vision(self) -> bool:
        return bool(self.entries[0].keys.vision)

    @property
    def has_pose(self) -> bool:
        """Whether rows have pose pictures for a ControlNet."""
        return self.manifest.settings.get("pose", "none") != "none"

    @cached_property
    def buckets(self) -> list[array]:
        """The indices of the pictures of each bucket, the largest bucket first."""
        return self._columns.pictures_by_bucket

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
        return tuple(self._rows("latents", [self.entries[index]], "latents")[0].shape)

    def identity(self, index: int) -> int:
        """The person's number."""
        return int(self._columns.identities[index])

    @torch.inference_mode(False)
    def load(self, indices: Sequence[int]) -> Rows:
        """Load the pictures at these indices, all of one bucket. Raises FaceCDMError, BadFile."""
        entries = [self.entries[index] for index in indices]
        if len({entry.bucket for entry in entries}) != 1:
            raise FaceCDMError(f"one batch holds pictures of one bucket, not {sorted({e.bucket for e in entries})}")
        face, vision = self.features(indices)
        return Rows(
            latents=_stack(self._rows("latents", entries, "latents")),
            prompt=self._prompt(entries),
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
        return self._prompt(None)

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
            varied = pick is not None and bool(entry.keys.augmented)
            row = self._rows("augmented" if varied else "faces", [entry], "embedding")[0]
            number = min(int((pick or 0) * len(row)), len(row) - 1)
            faces.append(row[number] if varied else row)
            if vision:
                row = self._rows("augmented" if varied else "vision", [entry], "states")[0]
                states.append(row[number] if varied else row)
        return _stack(faces), _stack(states) if vision else None

    def references(self, index: int) -> list[int]:
        """Other photos of the same person, the most different in pose and expression first; [] if there are none."""
        people, shapes = self._person(self.identity(index))
        own = people.index(index)
        others = [other for other in range(len(people)) if other != own]
        if not others:
            return []
        distance = difference(shapes[own], shapes[others])
        return [people[others[number]] for number in np.argsort(-distance, kind="stable")]

    def _person(self, identity: int) -> tuple[list[int], np.ndarray]:
        """A person's pictures and the shapes [N, P, 2] of the faces (1 KB each), kept for the last people.

        A shape has landmarks, or five key points if any face of the data set has no landmarks.
        """
        if identity not in self._people_read:
            pictures = self.people[identity]
            entries = [self.entries[index] for index in pictures]
            points = [row.numpy() for row in self._rows("faces", entries, "keypoints")]
            if self._columns.landmarks:
                marks = [row.numpy() for row in self._rows("faces", entries, "landmarks")]
            else:
                marks = [row[:0] for row in points]
            while len(self._people_read) >= PEOPLE_KEPT:
                self._people_read.pop(next(iter(self._people_read)))
            self._people_read[identity] = pictures, np.stack([shape(*both) for both in zip(points, marks)])
        return self._people_read[identity]

    def _control(self, entries: list[Record]) -> Tensor | None:
        """The pose pictures [B, 3, H, W] in 0…1, drawn from the key points."""
        if not self.has_pose:
            return None
        kind = self.manifest.settings["pose"]
        marks = [row.numpy() for row in self._rows("faces", entries, "landmarks")]
        drawn = [draw_pose(kind, entry, points) for entry, points in zip(entries, marks)]
        return torch.from_numpy(np.stack(drawn)).movedim(-1, 1).float() / 255

    def _prompt(self, entries: list[Record] | None) -> Prompt:
        """The entries' captions; the empty prompt without entries."""
        states = [row.float() for row in self._text(entries, "states")]
        if self.manifest.dit:
            pooled = _stack(self._text(entries, "pooled")) if self.manifest.pooled else None
            lengths = torch.tensor([len(row) for row in states])
            return Prompt(torch.nn.utils.rnn.pad_sequence(states, batch_first=True), pooled, lengths=lengths)
        if entries:
            states = [row[: MOST_CHUNKS * self.empty_prompt.states.shape[1]] for row in states]
        longest = math.lcm(*(len(row) for row in states))
        if not self.manifest.large:
            return Prompt(repeat(states, longest))
        pooled = _stack(self._text(entries, "pooled"))
        side = self.manifest.settings["resolution"]
        sizes = [sdxl_sizes(entry) for entry in entries] if entries else [(side, side, 0, 0, side, side)]
        return Prompt(repeat(states, longest), pooled, torch.tensor(sizes, dtype=torch.float32))

    def _text(self, entries: list[Record] | None, name: str) -> list[Tensor]:
        if entries is not None:
            return self._rows("text", entries, name)
        return self._shards[TEXT].read([(self.manifest.empty, self.manifest.empty_at)], name)

    def _rows(self, stage: str, entries: list[Record], name: str) -> list[Tensor]:
        number = STAGES.index(stage)
        return self._shards[number].read([(entry.keys.all()[number], entry.at[number]) for entry in entries], name)


def repeat(states: list[Tensor], length: int) -> Tensor:
    """B states [T, C] → [B, length, C]; each T divides `length`. Repeated tokens do not change cross-attention."""
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

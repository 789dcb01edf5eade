"""Encoding of pictures, variations of single photos, and captions. Only records missing from a store are encoded."""

import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import chain
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from .augment import vary
from .disk import DiskDict, DiskList
from .encoders import Encoders, as_batch
from .faces import Finder
from .manifest import Record
from .settings import Settings
from .sources import Item, Unreadable
from .store import Store, digest, to_half
from .work import Part, Progress, shards


class Encoding:
    """Fills the stores `latents`, `text`, `vision` and `augmented` of a folder. `item` finds an item by its key."""

    def __init__(
        self,
        folder: Path,
        encoders: Encoders,
        settings: Settings,
        progress: Progress,
        item: Callable[[str], Item],
    ):
        self.encoders, self.settings, self.progress, self._item = encoders, settings, progress, item
        self.latents, self.text, self.vision, self.augmented = (
            Store(folder / stage) for stage in ("latents", "text", "vision", "augmented")
        )

    def pictures(self, entries: Sequence[Record]) -> set[str]:
        """Encode latents and vision states, bucket by bucket. Returns the keys of pictures that are unreadable now."""
        todo = DiskList(entry for entry in _by_bucket(entries) if self._new(entry))
        unreadable: set[str] = set()
        for part in shards("encoding pictures", todo, self.progress, lambda entry: entry.bucket):
            unreadable |= self._picture_shard(part)
        return unreadable

    def _new(self, entry: Record) -> bool:
        return entry.keys.latents not in self.latents or self._lacks_vision(entry)

    def _lacks_vision(self, entry: Record) -> bool:
        return bool(entry.keys.vision) and entry.keys.vision not in self.vision

    def _picture_shard(self, part: Part) -> set[str]:
        latents: dict[str, Tensor] = {}
        vision: dict[str, Tensor] = {}
        unreadable = set()
        for batch in part.batches():
            pictures = []
            for entry in batch:
                try:
                    pictures.append((entry, self._item(entry.key).read().pixels))
                except Unreadable:
                    unreadable.add(entry.key)
            new = [(entry, pixels) for entry, pixels in pictures if entry.keys.latents not in self.latents]
            if new:
                made = self.encoders.latents(as_batch([cut(pixels, entry.part, entry.bucket) for entry, pixels in new]))
                latents |= {entry.keys.latents: row for (entry, _), row in zip(new, to_half(made))}
            new = [(entry, pixels) for entry, pixels in pictures if self._lacks_vision(entry)]
            if new:
                made = self.encoders.vision([self._vision_input(entry, pixels) for entry, pixels in new])
                vision |= {entry.keys.vision: row for (entry, _), row in zip(new, to_half(made))}
        if latents:
            self.latents.add(list(latents), {"latents": _stacked(latents)})
        if vision:
            self.vision.add(list(vision), {"states": _stacked(vision)})
        return unreadable

    def _vision_input(self, entry: Record, pixels: np.ndarray) -> np.ndarray:
        """The vision tower's input: the whole picture, or the portrait."""
        if self.settings.framing == "whole":
            return pixels
        x0, y0, x1, y1 = entry.part
        return pixels[y0:y1, x0:x1]

    def variations(self, entries: Sequence[Record], faces: Store, finder: Finder) -> Iterator[Record]:
        """The entries, with variations added for people who have only one photo."""
        count = np.bincount(np.fromiter((entry.identity for entry in entries), np.int32, len(entries)))

        def alone(entry: Record) -> bool:
            return count[entry.identity] == 1 and self.settings.augmented > 0

        def key_of(entry: Record) -> str:
            return digest("augmented/1", entry.keys.face, entry.keys.vision, self.settings.augmented)

        todo = DiskList(entry for entry in entries if alone(entry) and key_of(entry) not in self.augmented)
        for part in shards("varying single photos", todo, self.progress):
            embedded: dict[str, Tensor] = {}
            states: dict[str, Tensor] = {}
            for entry in part:
                part.tick()
                points = faces.rows([entry.keys.face], "keypoints")[0].numpy()
                self._vary(key_of(entry), entry, points, finder, embedded, states)
            tensors = {"embedding": _stacked(embedded)} if embedded else {}
            if states:
                tensors["states"] = _stacked(states)
            self.augmented.add(
                list(embedded),
                tensors,
                {key: {"problem": "could not be embedded"} for key in map(key_of, part) if key not in embedded},
            )
        for entry in entries:
            varied = alone(entry) and self.augmented.location(key_of(entry)) is not None
            yield replace(entry, keys=replace(entry.keys, augmented=key_of(entry))) if varied else entry

    def _vary(
        self,
        key: str,
        entry: Record,
        points: np.ndarray,
        finder: Finder,
        embedded: dict[str, Tensor],
        states: dict[str, Tensor],
    ) -> None:
        """Add the record `key`, unless the finder cannot embed it."""
        try:
            pixels = self._vision_input(entry, self._item(entry.key).read().pixels)
        except Unreadable:
            return
        shift = entry.part[:2] if self.settings.framing == "portrait" else (0, 0)
        rng = random.Random(key)
        made = [vary(pixels, points - np.float32(shift), rng) for _ in range(self.settings.augmented)]
        faces = [finder.embed(np.ascontiguousarray(one.pixels[..., ::-1]), one.keypoints) for one in made]
        if any(face is None for face in faces):
            return
        embedded[key] = torch.from_numpy(np.stack(faces))
        if entry.keys.vision:
            states[key] = to_half(self.encoders.vision([one.pixels for one in made]))

    def text_key(self, caption: str) -> str:
        return digest("text", caption, self.encoders.fingerprints.text)

    def captions(self, captions: Iterable[str]) -> str:
        """Encode each caption once, and the empty caption; returns the key of the empty caption."""
        todo = DiskList(self._new_captions(chain([""], captions)))
        for part in shards("encoding captions", todo, self.progress):
            groups: dict[tuple, dict[str, dict[str, Tensor]]] = {}
            for texts in part.batches():
                for caption, prompt in zip(texts, self.encoders.text(texts)):
                    row = {"states": prompt.states[0]} | ({} if prompt.pooled is None else {"pooled": prompt.pooled[0]})
                    groups.setdefault(prompt.states.shape, {})[self.text_key(caption)] = row
            for rows in groups.values():
                names = next(iter(rows.values()))
                self.text.add(
                    list(rows),
                    {name: to_half(torch.stack([row[name].cpu() for row in rows.values()])) for name in names},
                )
        return self.text_key("")

    def _new_captions(self, captions: Iterable[str]) -> Iterator[str]:
        seen = DiskDict()
        for caption in captions:
            key = self.text_key(caption)
            if key not in self.text and key not in seen:
                seen.put([(key, None)])
                yield caption


def _by_bucket(entries: Sequence[Record]) -> Iterator[Record]:
    """The entries sorted by bucket, in their order within a bucket."""
    sides = np.fromiter(chain.from_iterable(entry.bucket for entry in entries), np.int32).reshape(-1, 2)
    return (entries[int(number)] for number in np.lexsort((sides[:, 1], sides[:, 0])))


def cut(pixels: np.ndarray, part: tuple[int, int, int, int], bucket: tuple[int, int]) -> np.ndarray:
    """The part of a picture, resized to the bucket: uint8 [height, width, 3]."""
    from PIL import Image

    x0, y0, x1, y1 = part
    piece = Image.fromarray(np.ascontiguousarray(pixels[y0:y1, x0:x1]))
    return np.asarray(piece.resize((bucket[1], bucket[0]), Image.Resampling.LANCZOS))


def _stacked(rows: dict[str, Tensor]) -> Tensor:
    """The rows as one tensor: float32 if any row is float32, else float16."""
    dtypes = {row.dtype for row in rows.values()}
    return torch.stack([row.to(torch.float32) if len(dtypes) > 1 else row for row in rows.values()])

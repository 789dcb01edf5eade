"""Encoding of pictures, variations of single photos, and captions. Only records missing from a store are encoded."""

import random
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from .augment import vary
from .encoders import Encoders, as_batch
from .faces import Finder
from .manifest import Record
from .settings import Settings
from .sources import Item, Unreadable
from .store import Store, digest, to_half
from .work import Part, Progress, shards


class Encoding:
    """Fills the stores `latents`, `text`, `vision` and `augmented` of a folder."""

    def __init__(self, folder: Path, encoders: Encoders, settings: Settings, progress: Progress):
        self.encoders, self.settings, self.progress = encoders, settings, progress
        self.latents, self.text, self.vision, self.augmented = (
            Store(folder / stage) for stage in ("latents", "text", "vision", "augmented")
        )

    def pictures(self, entries: list[Record], items: dict[str, Item]) -> set[str]:
        """Encode latents and vision states, bucket by bucket.

        items   the items of the source, by the entries' keys

        Returns the keys of pictures that can no longer be read.
        """
        todo = [entry for entry in sorted(entries, key=lambda entry: entry.bucket) if self._new(entry)]
        unreadable: set[str] = set()
        for part in shards("encoding pictures", todo, self.progress, lambda entry: entry.bucket):
            unreadable |= self._picture_shard(part, items)
        return unreadable

    def _new(self, entry: Record) -> bool:
        return entry.keys.latents not in self.latents or self._lacks_vision(entry)

    def _lacks_vision(self, entry: Record) -> bool:
        return bool(entry.keys.vision) and entry.keys.vision not in self.vision

    def _picture_shard(self, part: Part, items: dict[str, Item]) -> set[str]:
        latents: dict[str, Tensor] = {}
        vision: dict[str, Tensor] = {}
        unreadable = set()
        for batch in part.batches():
            pictures = []
            for entry in batch:
                try:
                    pictures.append((entry, items[entry.key].read().pixels))
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

    def variations(self, entries: list[Record], items: dict[str, Item], faces: Store, finder: Finder) -> list[Record]:
        """The entries, with variations added for people who have only one photo."""
        count: dict[int, int] = {}
        for entry in entries:
            count[entry.identity] = count.get(entry.identity, 0) + 1
        alone = {
            entry.key: digest("augmented/1", entry.keys.face, entry.keys.vision, self.settings.augmented)
            for entry in entries
            if count[entry.identity] == 1 and self.settings.augmented
        }
        todo = [entry for entry in entries if entry.key in alone and alone[entry.key] not in self.augmented]
        for part in shards("varying single photos", todo, self.progress):
            embedded: dict[str, Tensor] = {}
            states: dict[str, Tensor] = {}
            for entry in part:
                part.tick()
                points = faces.rows([entry.keys.face], "keypoints")[0].numpy()
                self._vary(alone[entry.key], entry, points, items[entry.key], finder, embedded, states)
            tensors = {"embedding": _stacked(embedded)} if embedded else {}
            if states:
                tensors["states"] = _stacked(states)
            self.augmented.add(
                list(embedded),
                tensors,
                {
                    alone[entry.key]: {"problem": "could not be embedded"}
                    for entry in part
                    if alone[entry.key] not in embedded
                },
            )
        return [
            replace(entry, keys=replace(entry.keys, augmented=alone[entry.key]))
            if alone.get(entry.key) in self.augmented.locations
            else entry
            for entry in entries
        ]

    def _vary(
        self,
        key: str,
        entry: Record,
        points: np.ndarray,
        item: Item,
        finder: Finder,
        embedded: dict[str, Tensor],
        states: dict[str, Tensor],
    ) -> None:
        """Add the record `key`, unless the finder cannot embed it."""
        try:
            pixels = self._vision_input(entry, item.read().pixels)
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

    def captions(self, captions: list[str]) -> str:
        """Encode each caption once, and the empty caption; returns the key of the empty caption."""
        captions = list(dict.fromkeys(["", *captions]))
        todo = [caption for caption in captions if self.text_key(caption) not in self.text]
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

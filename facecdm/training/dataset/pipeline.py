"""From a source to a data set on disk, in stages whose results are kept and found again by content."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ...errors import FaceCDMError, NoFace
from .augment import vary
from .buckets import Frame, bucket_sizes, frame
from .data_set import DataSet
from .encoders import Encoders, as_batch
from .faces import Finder, Seen
from .identities import cluster
from .manifest import Entry, Keys, Manifest
from .report import Dropped, write_report
from .settings import Settings
from .sources import Item, Source, Unreadable
from .store import Store, digest, to_half

SHARD = 128  # pictures per shard: the most that a killed run loses of one stage
BATCH = 8

# Called with the name of the stage, pictures done and pictures to do; what it raises ends the preparation.
Progress = Callable[[str, int, int], None]


@dataclass(frozen=True, eq=False)
class Candidate:
    """A picture on its way."""

    item: Item
    key: str
    face_key: str
    person: str = ""
    caption: str = ""
    frame: Frame | None = None


def prepare(source: Source, folder: Path, encoders: Encoders, finder: Finder, settings: Settings | None = None,
            progress: Progress | None = None, prune: bool = False) -> DataSet:
    """Make, finish or bring up to date the data set in `folder`, and open it.

    Every record is keyed by the hash of what it is made from (the picture's bytes or the caption, the settings that
    matter to it, the model's weights), so only what is new or changed is made, and a run that was killed goes on
    where it stopped. `prune` deletes records that the data set no longer uses. Writes report.json, report.md and
    contact.jpg beside the manifest. Raises FaceCDMError, and NoFace where no picture is left.
    """
    settings = settings or Settings(encoders.resolution, encoders.step)
    if settings.step % encoders.step:
        raise FaceCDMError(f"step is {settings.step}, and this base model needs multiples of {encoders.step}")
    folder = Path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise FaceCDMError(f"{folder} cannot be made: {error}. Choose another folder") from error
    return _Preparation(folder, encoders, finder, settings, progress or (lambda stage, done, total: None)).run(
        source, prune)


class _Preparation:
    def __init__(self, folder: Path, encoders: Encoders, finder: Finder, settings: Settings, progress: Progress):
        self.folder, self.encoders, self.finder = folder, encoders, finder
        self.settings, self.progress = settings, progress
        self.faces, self.latents, self.text, self.vision, self.augmented = (
            Store(folder / stage) for stage in ("faces", "latents", "text", "vision", "augmented"))
        self.dropped: list[Dropped] = []

    def run(self, source: Source, prune: bool) -> DataSet:
        for store in self._stores:
            store.sweep()
        items = source.items()
        candidates = self._find_faces(self._hash(items))
        kept = self._frame(self._name(self._choose(candidates)))
        if not kept:
            write_report(self.folder, source.describe(), [], self.dropped, {}, len(items))
            raise NoFace(f"none of {len(items)} pictures can be used: see {self.folder / 'report.md'}. "
                         + "; ".join(sorted({drop.reason for drop in self.dropped})[:4]))
        entries = self._encode(kept)
        entries = self._vary(entries, {candidate.key: candidate.item for candidate in kept})
        empty = self._texts([entry.caption for entry in entries])
        manifest = Manifest(source.describe(), self.finder.describe(), self.finder.recogniser,
                            asdict(self.encoders.fingerprints), asdict(self.settings), self.encoders.large, empty,
                            tuple(entries))
        manifest.write(self.folder)
        if prune:
            self._prune(entries, empty)
        pictures = {candidate.item.name: candidate.item for candidate in kept}
        write_report(self.folder, source.describe(), entries, self.dropped, pictures, len(items))
        return DataSet(self.folder)

    @property
    def _stores(self) -> tuple[Store, ...]:
        return self.faces, self.latents, self.text, self.vision, self.augmented

    def _drop(self, item: Item, reason: str) -> None:
        self.dropped.append(Dropped(item.name, reason, item))

    def _hash(self, items: list[Item]) -> list[Candidate]:
        """Reads every picture's bytes once. The second of two equal files is dropped."""
        first: dict[str, str] = {}
        out = []
        for item in self._each("reading", items):
            try:
                key = item.digest()
            except Unreadable as error:
                self._drop(item, str(error))
                continue
            if key in first:
                self._drop(item, f"the same picture as {first[key]}")
                continue
            first[key] = item.name
            out.append(Candidate(item, key, digest("face", key, self.finder.fingerprint)))
        return out

    def _find_faces(self, candidates: list[Candidate]) -> list[Candidate]:
        todo = [candidate for candidate in candidates if candidate.face_key not in self.faces]
        for part in self._shards("finding faces", todo):
            seen: dict[str, Seen] = {}
            notes: dict[str, dict] = {}
            for candidate in part:
                part.tick()
                try:
                    face = self.finder.find(candidate.item)
                except Unreadable as error:
                    face = str(error)
                if isinstance(face, str):
                    notes[candidate.face_key] = {"problem": face}
                    continue
                seen[candidate.face_key] = face
                notes[candidate.face_key] = {"score": face.score, "size": face.size, "original": face.original,
                                             "others": face.others}
            names = ("embedding", "keypoints", "box", "landmarks")
            tensors = {name: torch.from_numpy(np.stack([getattr(face, name) for face in seen.values()]))
                       for name in names} if seen else {}
            self.faces.add(list(seen), tensors, notes)
        return candidates

    def _choose(self, candidates: list[Candidate]) -> list[Candidate]:
        """What the settings refuse is dropped; it stays in the store, for other settings."""
        out = []
        for candidate in candidates:
            note, caption = self.faces.notes[candidate.face_key], candidate.item.caption
            if "problem" in note:
                self._drop(candidate.item, note["problem"])
            elif note["others"] and self.settings.several == "drop":
                self._drop(candidate.item, f"{note['others'] + 1} faces")
            elif caption is None and self.settings.no_caption == "drop":
                self._drop(candidate.item, "no caption")
            else:
                out.append(replace(candidate, caption=caption or ""))
        return out

    def _name(self, candidates: list[Candidate]) -> list[Candidate]:
        """Who is who."""
        settings = self.settings
        if settings.identities == "one person":
            return [replace(candidate, person="person") for candidate in candidates]
        named = settings.identities == "auto"
        unknown = [c for c in candidates if not (named and c.item.identity is not None)]
        names: dict[str, str] = {}
        if unknown:
            self.progress("telling people apart", 0, len(unknown))
            embeddings = np.stack([row.numpy() for row in self.faces.rows([c.face_key for c in unknown], "embedding")])
            numbers = cluster(embeddings, settings.same_person)
            names = {c.key: f"person {number + 1:04d}" for c, number in zip(unknown, numbers)}
            self.progress("telling people apart", len(unknown), len(unknown))
        return [replace(c, person=names.get(c.key) or str(c.item.identity)) for c in candidates]

    def _frame(self, candidates: list[Candidate]) -> list[Candidate]:
        settings = self.settings
        sizes = bucket_sizes(settings.resolution, settings.step, settings.aspect)
        out = []
        for candidate in candidates:
            note = self.faces.notes[candidate.face_key]
            box = self._face(candidate, "box")
            cut = frame(tuple(note["size"]), box, sizes, settings.framing == "portrait")
            width = (box[2] - box[0]) * cut.scale
            if cut.scale * settings.min_picture > 1:
                self._drop(candidate.item, f"too small: {note['size'][1]} × {note['size'][0]} pixels for a bucket of "
                                           f"{cut.bucket[1]} × {cut.bucket[0]}")
            elif width < settings.min_face * min(cut.bucket):
                self._drop(candidate.item, f"the face is too small: {width:.0f} pixels wide in the bucket")
            else:
                out.append(replace(candidate, frame=cut))
        return out

    def _encode(self, candidates: list[Candidate]) -> list[Entry]:
        """Latents and vision states, bucket by bucket; the shards' batches are the same in every run."""
        people = {name: number for number, name in enumerate(sorted({c.person for c in candidates}))}
        pairs = [(candidate, self._entry(candidate, people[candidate.person])) for candidate in candidates]
        todo = [(c, e) for c, e in sorted(pairs, key=lambda pair: pair[1].bucket)
                if e.keys.latents not in self.latents or (e.keys.vision and e.keys.vision not in self.vision)]
        spoilt: set[str] = set()
        for part in self._shards("encoding pictures", todo, lambda pair: pair[1].bucket):
            spoilt |= self._encode_shard(part)
        for candidate, entry in pairs:
            if entry.key in spoilt:
                self._drop(candidate.item, "cannot be read any more")
        return [entry for _, entry in pairs if entry.key not in spoilt]

    def _encode_shard(self, part: "_Part") -> set[str]:
        latents: dict[str, Tensor] = {}
        vision: dict[str, Tensor] = {}
        spoilt = set()
        for start in range(0, len(part), BATCH):
            part.tick(start)
            pictures = {}
            for candidate, entry in part[start : start + BATCH]:
                try:
                    pictures[entry.key] = (entry, candidate.item.read().pixels)
                except Unreadable:
                    spoilt.add(entry.key)
            new = [(e, p) for e, p in pictures.values() if e.keys.latents not in self.latents]
            if new:
                made = self.encoders.latents(as_batch([cut(pixels, entry.part, entry.bucket) for entry, pixels in new]))
                latents |= {entry.keys.latents: row for (entry, _), row in zip(new, to_half(made))}
            new = [(e, p) for e, p in pictures.values() if e.keys.vision and e.keys.vision not in self.vision]
            if new:
                made = self.encoders.vision([self._seen(entry, pixels) for entry, pixels in new])
                vision |= {entry.keys.vision: row for (entry, _), row in zip(new, to_half(made))}
        if latents:
            self.latents.add(list(latents), {"latents": _stacked(latents)})
        if vision:
            self.vision.add(list(vision), {"states": _stacked(vision)})
        return spoilt

    def _seen(self, entry: Entry, pixels: np.ndarray) -> np.ndarray:
        """What the vision tower sees: the whole picture, or the portrait."""
        if self.settings.framing == "whole":
            return pixels
        x0, y0, x1, y1 = entry.part
        return pixels[y0:y1, x0:x1]

    def _entry(self, candidate: Candidate, identity: int) -> Entry:
        note, cut, prints = self.faces.notes[candidate.face_key], candidate.frame, self.encoders.fingerprints
        box = cut.places(self._face(candidate, "box").reshape(2, 2)).reshape(-1)
        points = cut.places(self._face(candidate, "keypoints"))
        view = cut.part if self.settings.framing == "portrait" else None
        keys = Keys(candidate.face_key, digest("latents", candidate.key, cut.part, cut.bucket, prints.latents),
                    self._text_key(candidate.caption),
                    digest("vision", candidate.key, view, prints.vision) if prints.vision else "")
        return Entry(candidate.key, candidate.item.name, identity, candidate.person, candidate.caption, cut.bucket,
                     cut.part, tuple(note["size"]), tuple(note["original"]), tuple(box.tolist()),
                     tuple(map(tuple, points.tolist())), note["score"], keys, candidate.item.pose)

    def _vary(self, entries: list[Entry], items: dict[str, Item]) -> list[Entry]:
        """Variations of the photos of people who have only one."""
        import random

        count: dict[int, int] = {}
        for entry in entries:
            count[entry.identity] = count.get(entry.identity, 0) + 1
        alone = {entry.key: digest("augmented/1", entry.keys.face, entry.keys.vision, self.settings.augmented)
                 for entry in entries if count[entry.identity] == 1 and self.settings.augmented}
        todo = [entry for entry in entries if entry.key in alone and alone[entry.key] not in self.augmented]
        for part in self._shards("varying single photos", todo):
            faces, vision = {}, {}
            for entry in part:
                part.tick()
                pixels = self._seen(entry, items[entry.key].read().pixels)
                shift = entry.part[:2] if self.settings.framing == "portrait" else (0, 0)
                points = self.faces.rows([entry.keys.face], "keypoints")[0].numpy() - np.float32(shift)
                rng = random.Random(alone[entry.key])
                made = [vary(pixels, points, rng) for _ in range(self.settings.augmented)]
                embedded = [self.finder.embed(np.ascontiguousarray(v.pixels[..., ::-1]), v.keypoints) for v in made]
                if any(embedding is None for embedding in embedded):
                    continue
                faces[alone[entry.key]] = torch.from_numpy(np.stack(embedded))
                if entry.keys.vision:
                    vision[alone[entry.key]] = to_half(self.encoders.vision([v.pixels for v in made]))
            tensors = {"embedding": _stacked(faces)} if faces else {}
            if vision:
                tensors["states"] = _stacked(vision)
            notes = {alone[entry.key]: {"problem": "could not be embedded"} for entry in part
                     if alone[entry.key] not in faces}
            self.augmented.add(list(faces), tensors, notes)
        return [replace(entry, keys=replace(entry.keys, augmented=alone[entry.key]))
                if alone.get(entry.key) in self.augmented.places else entry for entry in entries]

    def _text_key(self, caption: str) -> str:
        return digest("text", caption, self.encoders.fingerprints.text)

    def _texts(self, captions: list[str]) -> str:
        """Each caption once, and the empty one, whose key is given back."""
        captions = list(dict.fromkeys(["", *captions]))
        todo = [caption for caption in captions if self._text_key(caption) not in self.text]
        for part in self._shards("encoding captions", todo):
            groups: dict[tuple, dict[str, dict[str, Tensor]]] = {}
            for start in range(0, len(part), BATCH):
                part.tick(start)
                texts = part[start : start + BATCH]
                for caption, prompt in zip(texts, self.encoders.text(texts)):
                    row = {"states": prompt.states[0]} | ({} if prompt.pooled is None else {"pooled": prompt.pooled[0]})
                    groups.setdefault(prompt.states.shape, {})[self._text_key(caption)] = row
            for rows in groups.values():
                names = next(iter(rows.values()))
                self.text.add(list(rows), {name: to_half(torch.stack([row[name].cpu() for row in rows.values()]))
                                           for name in names})
        return self._text_key("")

    def _prune(self, entries: list[Entry], empty: str) -> None:
        for store, name in zip(self._stores, ("face", "latents", "text", "vision", "augmented")):
            store.prune({getattr(entry.keys, name) for entry in entries} | {empty})

    def _face(self, candidate: Candidate, name: str) -> np.ndarray:
        return self.faces.rows([candidate.face_key], name)[0].numpy()

    def _each(self, stage: str, items: Sequence) -> Iterator:
        for number, item in enumerate(items):
            if number % 16 == 0:
                self.progress(stage, number, len(items))
            yield item
        self.progress(stage, len(items), len(items))

    def _shards(self, stage: str, items: list, group: Callable = lambda item: None) -> Iterator["_Part"]:
        """Runs of at most SHARD items of one group; the items come sorted by group."""
        done = 0
        while done < len(items):
            part = [item for item in items[done : done + SHARD] if group(item) == group(items[done])]
            yield _Part(part, lambda count, before=done: self.progress(stage, before + count, len(items)))
            done += len(part)
        if items:
            self.progress(stage, len(items), len(items))


class _Part(list):
    """The items of one shard; `tick` tells the progress."""

    def __init__(self, items: list, progress: Callable[[int], None]):
        super().__init__(items)
        self._progress, self._done = progress, 0

    def tick(self, done: int | None = None) -> None:
        """`done` of its items are done; without a number, one more than last time is begun."""
        self._progress(self._done if done is None else done)
        self._done += 1


def cut(pixels: np.ndarray, part: tuple[int, int, int, int], bucket: tuple[int, int]) -> np.ndarray:
    """The part of a picture in the bucket's size, uint8 [height, width, 3]."""
    from PIL import Image

    x0, y0, x1, y1 = part
    piece = Image.fromarray(np.ascontiguousarray(pixels[y0:y1, x0:x1]))
    return np.asarray(piece.resize((bucket[1], bucket[0]), Image.Resampling.LANCZOS))


def _stacked(rows: dict[str, Tensor]) -> Tensor:
    """A float32 row among float16 ones makes the shard float32."""
    dtypes = {row.dtype for row in rows.values()}
    return torch.stack([row.to(torch.float32) if len(dtypes) > 1 else row for row in rows.values()])

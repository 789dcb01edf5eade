"""Screening of pictures: read, find faces, assign to people, frame. Rejected pictures are kept with the reason."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from .buckets import Frame, bucket_sizes, frame
from .disk import DiskDict, DiskList
from .faces import DetectedFace, Finder
from .identities import cluster
from .settings import Settings
from .sources import Item, Unreadable
from .store import Store, digest
from .work import Progress, shards


@dataclass(frozen=True, eq=False)
class Dropped:
    """A rejected picture and the reason."""

    name: str
    reason: str
    item: Item


@dataclass(frozen=True, eq=False)
class Candidate:
    """A picture that has not been rejected.

    number     number of its item in the source
    name       its name in the source
    key        sha256 of its bytes
    face_key   key of its record in the face store
    caption    None: none was given
    identity   the person's name in the source; None: unknown
    pose       yaw, pitch, roll in degrees; None: unknown
    person     name of the person
    frame      the part that is trained on
    """

    number: int
    name: str
    key: str
    face_key: str
    caption: str | None
    identity: str | None
    pose: tuple[float, float, float] | None
    person: str = ""
    frame: Frame | None = None


class Screening:
    """Turns items into candidates with a person, a caption and a frame.

    dropped    the rejected pictures
    hashed     all pictures that were read, including pictures without a face
    """

    def __init__(self, faces: Store, finder: Finder, settings: Settings, progress: Progress):
        self.faces, self.finder, self.settings, self.progress = faces, finder, settings, progress
        self.dropped: list[Dropped] = []
        self.hashed: Sequence[Candidate] = ()
        self._items: Sequence[Item] = ()
        self._numbers = DiskDict()  # of the items, by key

    def screen(self, items: Sequence[Item]) -> Sequence[Candidate]:
        self._items = items
        self.hashed = DiskList(self._hash(items))
        self._find_faces(self.hashed)
        return DiskList(self._frame(self._assign_people(DiskList(self._filter(self.hashed)))))

    def item(self, key: str) -> Item:
        """The item of the picture with these bytes."""
        return self._items[self._numbers[key]]

    def face(self, candidate: Candidate, name: str) -> np.ndarray:
        """A tensor of the face record: embedding, keypoints, box or landmarks, in pixels of the picture as read."""
        return self.faces.rows([candidate.face_key], name)[0].numpy()

    def _drop(self, item: Item, reason: str) -> None:
        self.dropped.append(Dropped(item.name, reason, item))

    def _hash(self, items: Sequence[Item]) -> Iterator[Candidate]:
        """Read every picture's bytes once; the second of two equal files is dropped."""
        for number, item in enumerate(items):
            if number % 16 == 0:
                self.progress("reading", number, len(items))
            try:
                key = item.digest()
            except Unreadable as error:
                self._drop(item, str(error))
                continue
            if key in self._numbers:
                self._drop(item, f"the same picture as {self.item(key).name}")
                continue
            self._numbers.put([(key, number)])
            face_key = digest("face", key, self.finder.fingerprint)
            yield Candidate(number, item.name, key, face_key, item.caption, item.identity, item.pose)
        self.progress("reading", len(items), len(items))

    def _find_faces(self, candidates: Sequence[Candidate]) -> None:
        todo = DiskList(candidate for candidate in candidates if candidate.face_key not in self.faces)
        for part in shards("finding faces", todo, self.progress):
            found: dict[str, DetectedFace] = {}
            notes: dict[str, dict] = {}
            for candidate in part:
                part.tick()
                try:
                    face = self.finder.find(self._items[candidate.number])
                except Unreadable as error:
                    face = str(error)
                if isinstance(face, str):
                    notes[candidate.face_key] = {"problem": face}
                    continue
                found[candidate.face_key] = face
                notes[candidate.face_key] = {
                    "score": face.score,
                    "size": face.size,
                    "original": face.original,
                    "others": face.others,
                }
            names = ("embedding", "keypoints", "box", "landmarks")
            tensors = (
                {name: torch.from_numpy(np.stack([getattr(face, name) for face in found.values()])) for name in names}
                if found
                else {}
            )
            self.faces.add(list(found), tensors, notes)

    def _filter(self, candidates: Sequence[Candidate]) -> Iterator[Candidate]:
        """Drop pictures that the settings reject. Their records stay in the store, for other settings."""
        for candidate in candidates:
            note, item = self.faces.note(candidate.face_key), self._items[candidate.number]
            if "problem" in note:
                self._drop(item, note["problem"])
            elif note["others"] and self.settings.several == "drop":
                self._drop(item, f"{note['others'] + 1} faces")
            elif candidate.caption is None and self.settings.no_caption == "drop":
                self._drop(item, "no caption")
            else:
                yield candidate

    def _assign_people(self, candidates: Sequence[Candidate]) -> Iterator[Candidate]:
        settings = self.settings
        if settings.identities == "one person":
            yield from (replace(candidate, person="person") for candidate in candidates)
            return
        named = settings.identities == "auto"
        unknown = [c for c in candidates if not (named and c.identity is not None)]
        names: dict[str, str] = {}
        if unknown:
            self.progress("clustering faces", 0, len(unknown))
            embeddings = np.stack([row.numpy() for row in self.faces.rows([c.face_key for c in unknown], "embedding")])
            numbers = cluster(embeddings, settings.same_person)
            names = {c.key: f"person {number + 1:04d}" for c, number in zip(unknown, numbers)}
            self.progress("clustering faces", len(unknown), len(unknown))
        yield from (replace(c, person=names.get(c.key) or str(c.identity)) for c in candidates)

    def _frame(self, candidates: Iterator[Candidate]) -> Iterator[Candidate]:
        settings = self.settings
        sizes = bucket_sizes(settings.resolution, settings.step, settings.aspect)
        for candidate in candidates:
            note, item = self.faces.note(candidate.face_key), self._items[candidate.number]
            box = self.face(candidate, "box")
            cut = frame(tuple(note["size"]), box, sizes, settings.framing == "portrait")
            width = (box[2] - box[0]) * cut.scale
            if cut.scale * settings.min_picture > 1:
                self._drop(
                    item,
                    f"too small: {note['size'][1]} × {note['size'][0]} pixels for a bucket of "
                    f"{cut.bucket[1]} × {cut.bucket[0]}",
                )
            elif width < settings.min_face * min(cut.bucket):
                self._drop(item, f"the face is too small: {width:.0f} pixels wide in the bucket")
            else:
                yield replace(candidate, frame=cut)

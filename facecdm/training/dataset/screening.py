"""Screening of pictures: read, find faces, assign to people, frame. Rejected pictures are kept with the reason."""

from dataclasses import dataclass, replace

import numpy as np
import torch

from .buckets import Frame, bucket_sizes, frame
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

    item       the picture
    key        sha256 of its bytes
    face_key   key of its record in the face store
    person     name of the person
    caption    "" without one
    frame      the part that is trained on
    """

    item: Item
    key: str
    face_key: str
    person: str = ""
    caption: str = ""
    frame: Frame | None = None


class Screening:
    """Turns items into candidates with a person, a caption and a frame.

    dropped    the rejected pictures
    searched   keys of the face records of all pictures, including pictures without a face
    """

    def __init__(self, faces: Store, finder: Finder, settings: Settings, progress: Progress):
        self.faces, self.finder, self.settings, self.progress = faces, finder, settings, progress
        self.dropped: list[Dropped] = []
        self.searched: set[str] = set()

    def screen(self, items: list[Item]) -> list[Candidate]:
        candidates = self._hash(items)
        self.searched = {candidate.face_key for candidate in candidates}
        self._find_faces(candidates)
        return self._frame(self._assign_people(self._filter(candidates)))

    def face(self, candidate: Candidate, name: str) -> np.ndarray:
        """A tensor of the face record: embedding, keypoints, box or landmarks, in pixels of the picture as read."""
        return self.faces.rows([candidate.face_key], name)[0].numpy()

    def _drop(self, item: Item, reason: str) -> None:
        self.dropped.append(Dropped(item.name, reason, item))

    def _hash(self, items: list[Item]) -> list[Candidate]:
        """Read every picture's bytes once; the second of two equal files is dropped."""
        first: dict[str, str] = {}
        out = []
        for number, item in enumerate(items):
            if number % 16 == 0:
                self.progress("reading", number, len(items))
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
        self.progress("reading", len(items), len(items))
        return out

    def _find_faces(self, candidates: list[Candidate]) -> None:
        todo = [candidate for candidate in candidates if candidate.face_key not in self.faces]
        for part in shards("finding faces", todo, self.progress):
            found: dict[str, DetectedFace] = {}
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

    def _filter(self, candidates: list[Candidate]) -> list[Candidate]:
        """Drop pictures that the settings reject. Their records stay in the store, for other settings."""
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

    def _assign_people(self, candidates: list[Candidate]) -> list[Candidate]:
        settings = self.settings
        if settings.identities == "one person":
            return [replace(candidate, person="person") for candidate in candidates]
        named = settings.identities == "auto"
        unknown = [c for c in candidates if not (named and c.item.identity is not None)]
        names: dict[str, str] = {}
        if unknown:
            self.progress("clustering faces", 0, len(unknown))
            embeddings = np.stack([row.numpy() for row in self.faces.rows([c.face_key for c in unknown], "embedding")])
            numbers = cluster(embeddings, settings.same_person)
            names = {c.key: f"person {number + 1:04d}" for c, number in zip(unknown, numbers)}
            self.progress("clustering faces", len(unknown), len(unknown))
        return [replace(c, person=names.get(c.key) or str(c.item.identity)) for c in candidates]

    def _frame(self, candidates: list[Candidate]) -> list[Candidate]:
        settings = self.settings
        sizes = bucket_sizes(settings.resolution, settings.step, settings.aspect)
        out = []
        for candidate in candidates:
            note = self.faces.notes[candidate.face_key]
            box = self.face(candidate, "box")
            cut = frame(tuple(note["size"]), box, sizes, settings.framing == "portrait")
            width = (box[2] - box[0]) * cut.scale
            if cut.scale * settings.min_picture > 1:
                self._drop(
                    candidate.item,
                    f"too small: {note['size'][1]} × {note['size'][0]} pixels for a bucket of "
                    f"{cut.bucket[1]} × {cut.bucket[0]}",
                )
            elif width < settings.min_face * min(cut.bucket):
                self._drop(candidate.item, f"the face is too small: {width:.0f} pixels wide in the bucket")
            else:
                out.append(replace(candidate, frame=cut))
        return out

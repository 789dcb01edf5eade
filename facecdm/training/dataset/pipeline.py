"""From a source to a data set on disk, in stages whose results are kept and found again by content."""

from dataclasses import asdict
from pathlib import Path

from ...errors import FaceCDMError, NoFace
from .data_set import DataSet
from .encode import Encoding
from .encoders import Encoders
from .faces import Finder
from .identities import doubtful
from .manifest import Keys, Manifest, Record
from .report import write_report
from .screening import Candidate, Dropped, Screening
from .settings import Settings
from .sources import Source
from .store import Store, digest
from .work import Progress


def prepare(
    source: Source,
    folder: Path,
    encoders: Encoders,
    finder: Finder,
    settings: Settings | None = None,
    progress: Progress | None = None,
    prune: bool = False,
) -> DataSet:
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
        source, prune
    )


class _Preparation:
    def __init__(self, folder: Path, encoders: Encoders, finder: Finder, settings: Settings, progress: Progress):
        self.folder, self.encoders, self.finder, self.settings = folder, encoders, finder, settings
        self.faces = Store(folder / "faces")
        self.sieve = Screening(self.faces, finder, settings, progress)
        self.encoding = Encoding(folder, encoders, settings, progress)

    def run(self, source: Source, prune: bool) -> DataSet:
        for store in self._stores.values():
            store.sweep()
        items = source.items()
        kept = self.sieve.sift(items)
        entries = self._entries(kept)
        by_key = {candidate.key: candidate.item for candidate in kept}
        spoilt = self.encoding.pictures(entries, by_key)
        entries = [entry for entry in entries if entry.key not in spoilt]
        dropped = [
            *self.sieve.dropped,
            *(Dropped(by_key[key].name, "cannot be read any more", by_key[key]) for key in sorted(spoilt)),
        ]
        entries = self.encoding.variations(entries, by_key, self.faces, self.finder)
        if not entries:
            write_report(self.folder, source.describe(), [], dropped, {}, len(items), [])
            raise NoFace(
                f"none of {len(items)} pictures can be used: see {self.folder / 'report.md'}. "
                + "; ".join(sorted({drop.reason for drop in dropped})[:4])
            )
        empty = self.encoding.captions([entry.caption for entry in entries])
        Manifest(
            source.describe(),
            self.finder.describe(),
            self.finder.recogniser,
            asdict(self.encoders.fingerprints),
            asdict(self.settings),
            self.encoders.large,
            empty,
            tuple(entries),
        ).write(self.folder)
        if prune:
            self._prune(entries, empty)
        data = DataSet(self.folder)
        strangers = [entries[index].name for index in doubtful(data, self.settings.same_person / 2)]
        write_report(
            self.folder,
            source.describe(),
            entries,
            dropped,
            {item.name: item for item in by_key.values()},
            len(items),
            strangers,
        )
        return data

    @property
    def _stores(self) -> dict[str, Store]:
        """By the field of Keys that names their records."""
        return {
            "face": self.faces,
            "latents": self.encoding.latents,
            "text": self.encoding.text,
            "vision": self.encoding.vision,
            "augmented": self.encoding.augmented,
        }

    def _entries(self, candidates: list[Candidate]) -> list[Record]:
        people = {name: number for number, name in enumerate(sorted({c.person for c in candidates}))}
        return [self._entry(candidate, people[candidate.person]) for candidate in candidates]

    def _entry(self, candidate: Candidate, identity: int) -> Record:
        note, frame, prints = self.faces.notes[candidate.face_key], candidate.frame, self.encoders.fingerprints
        box = frame.places(self.sieve.face(candidate, "box").reshape(2, 2)).reshape(-1)
        points = frame.places(self.sieve.face(candidate, "keypoints"))
        view = frame.part if self.settings.framing == "portrait" else None
        keys = Keys(
            candidate.face_key,
            digest("latents", candidate.key, frame.part, frame.bucket, prints.latents),
            self.encoding.text_key(candidate.caption),
            digest("vision", candidate.key, view, prints.vision) if prints.vision else "",
        )
        return Record(
            candidate.key,
            candidate.item.name,
            identity,
            candidate.person,
            candidate.caption,
            frame.bucket,
            frame.part,
            tuple(note["size"]),
            tuple(note["original"]),
            tuple(box.tolist()),
            tuple(map(tuple, points.tolist())),
            note["score"],
            keys,
            candidate.item.pose,
        )

    def _prune(self, entries: list[Record], empty: str) -> None:
        """Pictures without a face are remembered, lest they are searched again."""
        wanted = {empty, *self.sieve.searched}
        for name, store in self._stores.items():
            store.prune(wanted | {getattr(entry.keys, name) for entry in entries})

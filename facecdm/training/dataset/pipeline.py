"""Preparation of a data set on disk from a source, in stages; each result is stored under a hash of its inputs."""

import sqlite3
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from itertools import chain
from pathlib import Path

from ...errors import FaceCDMError, NoFace
from ...invocation import command_line
from .data_set import DataSet
from .disk import DiskDict, DiskList
from .encode import Encoding
from .encoders import Encoders
from .faces import Finder
from .identities import find_outliers
from .manifest import NAME as MANIFEST
from .manifest import PICTURES, Keys, Manifest, Record, located
from .report import NAMES as REPORTS
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
    overwrite: bool = False,
) -> DataSet:
    """Make, finish or update the data set in `folder`, and open it.

    A record's key is the hash of its inputs: the picture's bytes or the caption, the settings that affect it, and the
    model's weights. So only new or changed records are made, and a killed run continues where it stopped. Also writes
    report.json, report.md and contact.jpg beside the manifest.

    prune       delete records that the data set no longer uses
    overwrite   replace files of these names in a folder that holds no data set

    Raises FaceCDMError, and NoFace if no picture is left.
    """
    settings = settings or Settings(encoders.resolution, encoders.step)
    if settings.step % encoders.step:
        raise FaceCDMError(f"step is {settings.step}, and this base model needs multiples of {encoders.step}")
    folder = Path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        making = _Preparation(folder, encoders, finder, settings, progress or (lambda stage, done, total: None))
        if not overwrite:
            making.check_folder()
        return making.run(source, prune)
    except (OSError, sqlite3.Error) as error:
        raise FaceCDMError(
            f"the data set in {folder} could not be written: {error}. Check the folder's permissions and the free "
            "space; what is done is kept, and the same command continues"
        ) from error


class _Preparation:
    def __init__(self, folder: Path, encoders: Encoders, finder: Finder, settings: Settings, progress: Progress):
        self.folder, self.encoders, self.finder, self.settings = folder, encoders, finder, settings
        self.faces = Store(folder / "faces")
        self.screening = Screening(self.faces, finder, settings, progress)
        self.encoding = Encoding(folder, encoders, settings, progress, self.screening.item)

    def check_folder(self) -> None:
        """Raise FaceCDMError if files of other programs would be replaced."""
        taken = [name for name in (MANIFEST, PICTURES, *REPORTS) if (self.folder / name).exists()]
        if taken and not any(self._stores):
            raise FaceCDMError(
                f"{self.folder} holds no data set, but {', '.join(taken)}, which would be replaced: choose another "
                f"folder (or `{command_line('dataset … --overwrite')}`)"
            )

    def run(self, source: Source, prune: bool) -> DataSet:
        for store in self._stores:
            store.sweep()
        items = source.items()
        notes = getattr(items, "notes", ())
        kept = self.screening.screen(items)
        records, lost = self._encode(DiskList(self._records(kept)))
        dropped = [*self.screening.dropped, *lost]
        if not records:
            write_report(self.folder, source.describe(), [], dropped, self.screening.item, len(items), [], notes)
            raise NoFace(
                f"none of {len(items)} pictures can be used: see {self.folder / 'report.md'}. "
                + "; ".join(sorted({drop.reason for drop in dropped})[:4])
            )
        empty = self.encoding.captions(record.caption for record in records)
        self._manifest(source, records, empty).write(self.folder)
        if prune:
            self._prune(records, empty)
        data = DataSet(self.folder)
        outliers = [records[index].name for index in find_outliers(data, self.settings.same_person / 2)]
        write_report(self.folder, source.describe(), records, dropped, self.screening.item, len(items), outliers, notes)
        return data

    def _encode(self, records: Sequence[Record]) -> tuple[Sequence[Record], list[Dropped]]:
        """Encode; returns (encoded records, pictures that have become unreadable)."""
        unreadable = self.encoding.pictures(records)
        if unreadable:
            records = DiskList(record for record in records if record.key not in unreadable)
        items = [self.screening.item(key) for key in sorted(unreadable)]
        lost = [Dropped(item.name, "cannot be read any more", item) for item in items]
        return DiskList(self.encoding.variations(records, self.faces, self.finder)), lost

    def _manifest(self, source: Source, records: Sequence[Record], empty: str) -> Manifest:
        return Manifest(
            source.describe(),
            self.finder.describe(),
            self.finder.recogniser,
            asdict(self.encoders.fingerprints),
            asdict(self.settings),
            self.encoders.large,
            empty,
            DiskList(located(records, self._stores)),
            self.encoding.text.location(empty),
            self.encoders.dit,
            self.encoders.pooled,
        )

    @property
    def _stores(self) -> tuple[Store, ...]:
        """The stores, in the order of STAGES."""
        encoding = self.encoding
        return self.faces, encoding.latents, encoding.text, encoding.vision, encoding.augmented

    def _records(self, candidates: Sequence[Candidate]) -> Iterator[Record]:
        people, numbers = DiskDict(), DiskDict()
        people.put((candidate.person, None) for candidate in candidates)
        numbers.put((name, number) for number, name in enumerate(people))
        return (self._record(candidate, numbers[candidate.person]) for candidate in candidates)

    def _record(self, candidate: Candidate, identity: int) -> Record:
        note, frame, prints = self.faces.note(candidate.face_key), candidate.frame, self.encoders.fingerprints
        box = frame.relative(self.screening.face(candidate, "box").reshape(2, 2)).reshape(-1)
        points = frame.relative(self.screening.face(candidate, "keypoints"))
        view = frame.part if self.settings.framing == "portrait" else None
        caption = candidate.caption or ""
        keys = Keys(
            candidate.face_key,
            digest("latents", candidate.key, frame.part, frame.bucket, prints.latents),
            self.encoding.text_key(caption),
            digest("vision", candidate.key, view, prints.vision) if prints.vision else "",
        )
        return Record(
            candidate.key,
            candidate.name,
            identity,
            candidate.person,
            caption,
            frame.bucket,
            frame.part,
            tuple(note["size"]),
            tuple(note["original"]),
            tuple(box.tolist()),
            tuple(map(tuple, points.tolist())),
            note["score"],
            keys,
            candidate.pose,
        )

    def _prune(self, records: Sequence[Record], empty: str) -> None:
        """Delete unused records. Keep the notes on pictures without a face, so that these are not searched again."""
        for number, store in enumerate(self._stores):
            searched = (candidate.face_key for candidate in self.screening.hashed)
            store.prune(chain([empty], searched, (record.keys.all()[number] for record in records)))

"""Preparation of a data set on disk from a source, in stages; each result is stored under a hash of its inputs."""

from dataclasses import asdict
from pathlib import Path

from ...errors import FaceCDMError, NoFace
from .data_set import DataSet
from .encode import Encoding
from .encoders import Encoders
from .faces import Finder
from .identities import find_outliers
from .manifest import NAME as MANIFEST
from .manifest import Keys, Manifest, Record
from .report import NAMES as REPORTS
from .report import write_report
from .screening import Candidate, Dropped, Screening
from .settings import Settings
from .sources import Item, Source
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
    except OSError as error:
        raise FaceCDMError(
            f"the data set in {folder} could not be written: {error}. Check the folder's permissions and the free "
            "space; what is done is kept, and the same command continues"
        ) from error


class _Preparation:
    def __init__(self, folder: Path, encoders: Encoders, finder: Finder, settings: Settings, progress: Progress):
        self.folder, self.encoders, self.finder, self.settings = folder, encoders, finder, settings
        self.faces = Store(folder / "faces")
        self.screening = Screening(self.faces, finder, settings, progress)
        self.encoding = Encoding(folder, encoders, settings, progress)

    def check_folder(self) -> None:
        """Raise FaceCDMError if files of other programs would be replaced."""
        taken = [name for name in (MANIFEST, *REPORTS) if (self.folder / name).exists()]
        if taken and not any(self._stores.values()):
            raise FaceCDMError(
                f"{self.folder} holds no data set, but {', '.join(taken)}, which would be replaced: choose another "
                "folder (or python -m facecdm dataset … --overwrite)"
            )

    def run(self, source: Source, prune: bool) -> DataSet:
        for store in self._stores.values():
            store.sweep()
        items = source.items()
        kept = self.screening.screen(items)
        by_key = {candidate.key: candidate.item for candidate in kept}
        records, lost = self._encode(self._records(kept), by_key)
        dropped = [*self.screening.dropped, *lost]
        if not records:
            write_report(self.folder, source.describe(), [], dropped, {}, len(items), [])
            raise NoFace(
                f"none of {len(items)} pictures can be used: see {self.folder / 'report.md'}. "
                + "; ".join(sorted({drop.reason for drop in dropped})[:4])
            )
        empty = self.encoding.captions([record.caption for record in records])
        self._manifest(source, records, empty).write(self.folder)
        if prune:
            self._prune(records, empty)
        data = DataSet(self.folder)
        outliers = [records[index].name for index in find_outliers(data, self.settings.same_person / 2)]
        shown = {item.name: item for item in by_key.values()}
        write_report(self.folder, source.describe(), records, dropped, shown, len(items), outliers)
        return data

    def _encode(self, records: list[Record], items: dict[str, Item]) -> tuple[list[Record], list[Dropped]]:
        """Encode; returns (encoded records, pictures that have become unreadable). `items` has the records' keys."""
        unreadable = self.encoding.pictures(records, items)
        records = [record for record in records if record.key not in unreadable]
        lost = [Dropped(items[key].name, "cannot be read any more", items[key]) for key in sorted(unreadable)]
        return self.encoding.variations(records, items, self.faces, self.finder), lost

    def _manifest(self, source: Source, records: list[Record], empty: str) -> Manifest:
        return Manifest(
            source.describe(),
            self.finder.describe(),
            self.finder.recogniser,
            asdict(self.encoders.fingerprints),
            asdict(self.settings),
            self.encoders.large,
            empty,
            tuple(records),
        )

    @property
    def _stores(self) -> dict[str, Store]:
        """The stores, by the field of Keys that names their records."""
        return {
            "face": self.faces,
            "latents": self.encoding.latents,
            "text": self.encoding.text,
            "vision": self.encoding.vision,
            "augmented": self.encoding.augmented,
        }

    def _records(self, candidates: list[Candidate]) -> list[Record]:
        people = {name: number for number, name in enumerate(sorted({c.person for c in candidates}))}
        return [self._record(candidate, people[candidate.person]) for candidate in candidates]

    def _record(self, candidate: Candidate, identity: int) -> Record:
        note, frame, prints = self.faces.notes[candidate.face_key], candidate.frame, self.encoders.fingerprints
        box = frame.relative(self.screening.face(candidate, "box").reshape(2, 2)).reshape(-1)
        points = frame.relative(self.screening.face(candidate, "keypoints"))
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

    def _prune(self, records: list[Record], empty: str) -> None:
        """Delete unused records. Keep the notes on pictures without a face, so that these are not searched again."""
        wanted = {empty, *self.screening.searched}
        for name, store in self._stores.items():
            store.prune(wanted | {getattr(record.keys, name) for record in records})

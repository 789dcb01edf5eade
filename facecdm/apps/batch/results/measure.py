"""Identity similarity and face detection of every image, with one face pack. Without a pack nothing is measured."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ....errors import FaceCDMError
from ....pictures import open_picture, upright_rgb
from ..plan.jobs import Batch
from ..plan.rows import Upload

if TYPE_CHECKING:
    from ...similarity import SimilarityMeter


@dataclass(frozen=True)
class Measurement:
    """
    identity   identity similarity of the largest face to the reference, -1 … 1
    faces      number of faces
    detection  score of the largest face, 0 … 1
    """

    identity: float | None = None
    faces: int = 0
    detection: float | None = None


class Measure:
    """
    notes     reasons why identity similarity is not measured, one per line
    settings  what it is measured with: the face pack and the short name of the references
    """

    def __init__(self, batch: Batch, meter: "SimilarityMeter"):
        self.notes: list[str] = []
        self.settings = f"{meter.pack}, {batch.person_name}"
        self._meter = meter
        self._people: dict[Path, str | None] = {}
        for job in batch.jobs:
            person = batch.person(job)
            if isinstance(person, Upload) and person.path not in self._people:
                self._people[person.path] = self._add(person.path)
        if not self._people:
            self.notes.append("identity is not measured: name the short name of the references under `person`")

    @property
    def has_people(self) -> bool:
        """Whether there is a reference to compare with."""
        return any(self._people.values())

    def _add(self, path: Path) -> str | None:
        from ...references import reference

        try:
            self._meter.add_reference(str(path), reference(path.name, path.read_bytes()).picture)
            return str(path)
        except (FaceCDMError, OSError) as error:
            self.notes.append(f"identity is not measured for {path.name}: {error}")
            return None

    def measure(self, path: Path, person: object) -> Measurement | None:
        """Measure an image; None if the file is not a readable image."""
        from PIL import Image

        name = self._people.get(person.path) if isinstance(person, Upload) else None
        try:
            with open_picture(path) as picture:
                return Measurement(*self._meter.measure(name, upright_rgb(picture)))
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):
            return None


def open_measure(batch: Batch) -> tuple[Measure | None, str]:
    """Return (Measure, ""), or (None, reason) if faces cannot be measured."""
    from ...similarity import SimilarityMeter

    if batch.plan.base is None:
        return None, "faces are not measured: name the folder with models/insightface by --base"
    try:
        return Measure(batch, SimilarityMeter(batch.plan.at(batch.plan.base) / "models", batch.plan.pack)), ""
    except FaceCDMError as error:
        return None, f"faces are not measured: {error}"

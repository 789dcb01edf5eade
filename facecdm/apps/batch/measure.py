"""Identity and detection of every picture, by the same face pack; where it cannot be had, a batch goes on without."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ...errors import FaceCDMError, NoFace
from .jobs import Batch
from .rows import Upload

if TYPE_CHECKING:
    from ..likeness import Likeness


@dataclass(frozen=True)
class Measurement:
    """`identity`: cosine to the person's reference; `faces`: how many; `detection`: score of the largest."""

    identity: float | None = None
    faces: int = 0
    detection: float | None = None


class Measure:
    def __init__(self, batch: Batch, likeness: "Likeness"):
        """Refers to every person's reference; those without a face are in `notes`, and their identity stays empty."""
        self.notes: list[str] = []
        self._likeness = likeness
        self._people: dict[Path, str | None] = {}
        for job in batch.jobs:
            person = batch.person(job)
            if isinstance(person, Upload) and person.path not in self._people:
                self._people[person.path] = self._refer(person.path)
        if not self._people:
            self.notes.append("identity is not measured: say by `person` which name of the plan has their pictures")

    @property
    def people(self) -> bool:
        return any(self._people.values())

    def _refer(self, path: Path) -> str | None:
        from ..references import reference

        try:
            self._likeness.refer(str(path), reference(path.name, path.read_bytes()).picture)
            return str(path)
        except (NoFace, FaceCDMError) as error:
            self.notes.append(f"identity is not measured for {path.name}: {error}")
            return None

    def look(self, path: Path, person: object) -> Measurement | None:
        """None where the file is no picture that can be read."""
        from PIL import Image

        name = self._people.get(person.path) if isinstance(person, Upload) else None
        try:
            with Image.open(path) as picture:
                return Measurement(*self._likeness.look(name, picture.convert("RGB")))
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):
            return None


def open_measure(batch: Batch) -> tuple[Measure | None, str]:
    """(what measures, or None; why not)."""
    from ..likeness import Likeness

    if batch.plan.base is None:
        return None, "faces are not measured: name the folder with models/insightface by --base"
    try:
        return Measure(batch, Likeness(batch.plan.at(batch.plan.base) / "models", batch.plan.pack)), ""
    except FaceCDMError as error:
        return None, f"faces are not measured: {error}"

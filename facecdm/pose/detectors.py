"""The detectors of Extract Pose. Of the body detectors the last one opened stays open."""

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from . import dwpose, openpose
from .extract import Detector


@dataclass(frozen=True)
class BodyDetector:
    """A pose back end with weight files.

    folder    of its weights, below models/
    files     finds them in a list of folders; raises MissingModel
    open      opens them: (folders, **settings); raises MissingPackage, MissingModel, BadFile
    settings  the names of the settings of `open_detector` that it takes
    """

    folder: str
    files: Callable[[list[Path]], Sequence[Path]]
    open: Callable[..., Detector]
    settings: tuple[str, ...]


FACE, OPENPOSE, DWPOSE = "face key points", "OpenPose", "DWPose"
BODY_DETECTORS = {
    OPENPOSE: BodyDetector(
        openpose.FOLDER, openpose.find_files, openpose.OpenPoseDetector.open, ("device", "hands", "face")
    ),
    DWPOSE: BodyDetector(dwpose.FOLDER, dwpose.find_files, dwpose.DWPoseDetector.open, ("min_score",)),
}
DETECTORS = (FACE, *BODY_DETECTORS)

_lock = threading.Lock()
_last: dict[tuple, Detector] = {}


def open_detector(
    name: str, folders: list[Path], device: str = "cpu", hands: bool = True, face: bool = True, min_score: float = 0.5
) -> Detector:
    """Open a body detector with weights from `folders`, or return the open one if files and settings are the same.

    Raises MissingPackage, MissingModel, BadFile.
    """
    back_end = BODY_DETECTORS[name]
    given = {"device": device, "hands": hands, "face": face, "min_score": min_score}
    settings = {setting: given[setting] for setting in back_end.settings}
    files = ((str(path), path.stat().st_mtime_ns) for path in back_end.files(folders))
    key = (name, *settings.values(), *files)
    with _lock:
        if key not in _last:
            _last.clear()  # one at a time: OpenPose alone is half a gigabyte
            _last[key] = back_end.open(folders, **settings)
        return _last[key]

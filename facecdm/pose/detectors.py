"""Opening a body detector: which class, from which folders; the last one stays open."""

import threading
from pathlib import Path

from .dwpose import DWPoseDetector
from .dwpose import find_files as dwpose_files
from .extract import DWPOSE, Detector
from .openpose import FILES, OpenPoseDetector
from .openpose import find_file as openpose_file

_lock = threading.Lock()
_last: dict[tuple, Detector] = {}


def open_detector(
    name: str, folders: list[Path], device: str = "cpu", hands: bool = True, face: bool = True, min_score: float = 0.5
) -> Detector:
    """OpenPose or DWPose with weights from `folders`. Opened anew where a file, or what is asked for, has changed.

    Raises MissingPackage, MissingModel, BadFile.
    """
    if name == DWPOSE:
        files, asked = dwpose_files(folders), (min_score,)
    else:
        files, asked = [openpose_file(folders, file) for file in FILES.values()], (device, hands, face)
    key = (name, *asked, *((str(path), path.stat().st_mtime_ns) for path in files))
    with _lock:
        if key not in _last:
            _last.clear()  # one at a time: OpenPose alone is half a gigabyte
            _last[key] = (
                DWPoseDetector.open(folders, min_score=min_score)
                if name == DWPOSE
                else OpenPoseDetector.open(folders, device, hands, face)
            )
        return _last[key]


def close_detectors() -> None:
    """Frees the memory; the next use opens the detector again."""
    with _lock:
        _last.clear()

"""Body detectors: the last one opened stays open."""

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
    """Open OpenPose or DWPose with weights from `folders`, or return the open one if files and settings are the same.

    Raises MissingPackage, MissingModel, BadFile.
    """
    if name == DWPOSE:
        files, settings = dwpose_files(folders), (min_score,)
    else:
        files, settings = [openpose_file(folders, file) for file in FILES.values()], (device, hands, face)
    key = (name, *settings, *((str(path), path.stat().st_mtime_ns) for path in files))
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
    """Free the open detector's memory. The next use opens it again."""
    with _lock:
        _last.clear()

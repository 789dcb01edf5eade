"""Progress in the terminal: one line that renews itself, or a line per finished picture in a log."""

import shutil
import sys
from typing import TextIO

from ..comfy_api.client import Progress


class ProgressLine:
    """Of `total` jobs; `step` is a Client's on_progress."""

    def __init__(self, total: int, stream: TextIO | None = None):
        self.total, self.stream = total, stream or sys.stdout
        self.done = 0
        self.label = ""

    def begin(self, label: str) -> None:
        self.label = label
        self._draw(0.0, "")

    def step(self, progress: Progress) -> None:
        if progress.maximum > 1:
            self._draw(progress.value / progress.maximum, f"step {progress.value}/{progress.maximum}")

    def end(self, outcome: str) -> None:
        self.done += 1
        self.say(f"  {self.done}/{self.total}  {self.label}: {outcome}")

    def say(self, line: str) -> None:
        """A line that stays."""
        self.stream.write(("\r\033[K" if self.stream.isatty() else "") + line + "\n")
        self.stream.flush()

    def _draw(self, part: float, note: str) -> None:
        if not self.stream.isatty():
            return
        filled = round(24 * (self.done + part) / max(self.total, 1))
        line = f"  [{'#' * filled}{'.' * (24 - filled)}] {self.done + 1}/{self.total} {note:12} {self.label}"
        width = shutil.get_terminal_size().columns - 1
        self.stream.write("\r\033[K" + line[:width])
        self.stream.flush()

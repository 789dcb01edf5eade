"""Progress as one redrawn line in a terminal, or one line per finished image in a log."""

import shutil
import sys
from typing import TextIO

from ..comfy_api.client import Progress
from ..comfy_api.names import one_line


class ProgressLine:
    """Progress of `total` jobs that run one after the other."""

    def __init__(self, total: int, stream: TextIO | None = None):
        self.total, self.stream = total, stream or sys.stdout
        self.done = 0
        self.label = ""
        self._noted: set[str] = set()

    def begin(self, label: str) -> None:
        self.label = label
        self._draw(0.0, "")

    def step(self, progress: Progress) -> None:
        """Callback for a Client's `on_progress`."""
        if progress.maximum > 1:
            self._draw(progress.value / progress.maximum, f"step {progress.value}/{progress.maximum}")

    def end(self, outcome: str) -> None:
        self.done += 1
        line = one_line(f"  {self.done}/{self.total}  {self.label}: {outcome}")
        self.stream.write(("\r\033[K" if self.stream.isatty() else "") + line + "\n")
        self.stream.flush()

    def note(self, text: str) -> None:
        """Write a warning on a line of its own, once."""
        if text not in self._noted:
            self._noted.add(text)
            self.stream.write(("\r\033[K" if self.stream.isatty() else "") + one_line(f"  warning: {text}") + "\n")
            self.stream.flush()

    def _draw(self, fraction: float, note: str) -> None:
        if not self.stream.isatty():
            return
        filled = round(24 * (self.done + fraction) / max(self.total, 1))
        line = f"  [{'#' * filled}{'.' * (24 - filled)}] {self.done + 1}/{self.total} {note:12} {self.label}"
        self.stream.write("\r\033[K" + one_line(line)[: shutil.get_terminal_size().columns - 1])
        self.stream.flush()

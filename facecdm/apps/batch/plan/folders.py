"""Which files a plan may read: those below its own folder, and below folders that the command names.

A plan from elsewhere could otherwise send any file of this machine to a server.
"""

import glob
from os.path import expanduser  # leaves the ~ of an unknown user, where Path raises
from pathlib import Path


class Folders:
    """
    home     the plan's folder; relative paths start there
    allowed  more folders
    """

    def __init__(self, home: Path, allowed: list[Path] | None = None):
        self.home, self.allowed = home, list(allowed or [])

    def at(self, path: str | Path) -> Path:
        """A path of the plan, relative to the current folder."""
        return self.home / Path(expanduser(path))

    def matches(self, pattern: str) -> list[Path]:
        """The file of that name, else those that match the pattern, sorted by name."""
        path = self.at(pattern)
        if path.is_file():
            return [path]
        names = sorted(glob.glob(str(Path(expanduser(pattern))), root_dir=self.home, recursive=True))
        return [self.home / name for name in names if (self.home / name).is_file()]

    def readable(self, path: Path) -> Path:
        """The path, if its file, links resolved, lies in one of the folders. Raises ValueError."""
        resolved = path.resolve()
        if not any(resolved.is_relative_to(folder.resolve()) for folder in (self.home, *self.allowed)):
            raise ValueError(f"{path} lies outside the plan's folder: allow its folder with --files-from")
        return path

"""Files that a plan may read: those below its own folder and below folders given on the command line.

Without this limit, a plan from a stranger could send any file of this machine to a server.
"""

import glob
from os.path import expanduser  # keeps the ~ of an unknown user; Path would raise
from pathlib import Path


class Folders:
    """
    home     the plan's folder; relative paths start there
    allowed  more folders
    """

    def __init__(self, home: Path, allowed: list[Path] | None = None):
        self.home, self.allowed = home, list(allowed or [])

    def at(self, path: str | Path) -> Path:
        """Resolve a path in the plan against the plan's folder."""
        return self.home / Path(expanduser(path))

    def matches(self, pattern: str) -> list[Path]:
        """The file with that name, else the files that match the pattern, sorted by name."""
        path = self.at(pattern)
        if path.is_file():
            return [path]
        names = sorted(glob.glob(str(Path(expanduser(pattern))), root_dir=self.home, recursive=True))
        return [self.home / name for name in names if (self.home / name).is_file()]

    def readable(self, path: Path) -> Path:
        """The path. Raises ValueError if it resolves to a file outside the folders."""
        resolved = path.resolve()
        if not any(resolved.is_relative_to(folder.resolve()) for folder in (self.home, *self.allowed)):
            raise ValueError(f"{path} lies outside the plan's folder: allow its folder with --files-from")
        return path

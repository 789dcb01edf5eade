"""`python -m facecdm …`, and `python facecdm …`: ComfyUI's portable Python ignores the current folder, and so finds no
module in it."""

import sys
from pathlib import Path

if not __package__:  # started as a folder: the modules in it belong to the package
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

from facecdm.cli import main  # noqa: E402

sys.exit(main(sys.argv[1:]))

"""How a user starts one of FaceCDM's commands, for messages."""

import sys

from .files import REPOSITORY


def typed(command: str) -> str:
    """`python -m facecdm COMMAND`, to be typed in the pack's folder. A Python that finds no modules there, as that of
    ComfyUI's portable build, gets a line that works in every folder.
    """
    if sys.flags.isolated:
        return f'"{sys.executable}" "{REPOSITORY / "facecdm"}" {command}'
    return f"python -m facecdm {command}"

"""How a user starts one of FaceCDM's commands, for messages."""

import sys

from .files import REPOSITORY


def command_line(command: str = "") -> str:
    """`python -m facecdm COMMAND`, for a shell in the pack's folder.

    For a Python that finds no modules there, as that of ComfyUI's portable build, a line that works in every folder.
    """
    if sys.flags.isolated:
        return f'"{sys.executable}" "{REPOSITORY / "facecdm"}" {command}'.rstrip()
    return f"python -m facecdm {command}".rstrip()

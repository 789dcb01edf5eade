"""Find the ComfyUI that contains FaceCDM, and its base directory."""

import os
from pathlib import Path

from .files import REPOSITORY

QUICKSTART = REPOSITORY / ".quickstart"


def _around() -> list[Path]:
    """Folders that may have custom_nodes with FaceCDM, including unresolved paths: FaceCDM may be a link there."""
    return [REPOSITORY.parent.parent, Path.cwd().parent.parent, Path.cwd()]


def find_comfyui() -> Path | None:
    """FACECDM_COMFYUI, else the ComfyUI whose custom_nodes contains FaceCDM, else the quick start's, else None."""
    named = os.environ.get("FACECDM_COMFYUI")
    around = [Path(named)] if named else _around()
    for folder in (*around, QUICKSTART / "ComfyUI"):
        if (folder / "main.py").is_file() and (folder / "comfy").is_dir():
            return folder
    return None


def find_base(comfyui: Path | None) -> Path | None:
    """The folder with models, input and output: FACECDM_BASE, else the base directory whose custom_nodes contains this
    pack, else the quick start's (if `comfyui` is the quick start's), else the ComfyUI folder.
    """
    if named := os.environ.get("FACECDM_BASE"):
        return Path(named)
    if comfyui == QUICKSTART / "ComfyUI" and not _is_installed():
        return QUICKSTART / "base"
    return next((folder for folder in _around() if _is_base(folder)), comfyui)


def _is_installed() -> bool:
    return any(_is_base(folder) for folder in _around())


def _is_base(folder: Path) -> bool:
    return (folder / "custom_nodes").is_dir() and (folder / "models").is_dir()

"""Find the ComfyUI that contains FaceCDM, and its base directory."""

import argparse
import os
from pathlib import Path

from .errors import FaceCDMError
from .files import REPOSITORY

QUICKSTART = REPOSITORY / ".quickstart"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--comfyui", type=Path, metavar="DIR", help="the ComfyUI folder (default: the one around this pack)")
    add("--base", type=Path, metavar="DIR", help="its base directory, where that is another folder")
    add(
        "--extra-model-paths-config",
        type=Path,
        nargs="+",
        action="extend",
        default=[],
        metavar="FILE",
        help="files as given to ComfyUI's option of this name; its extra_model_paths.yaml is always read",
    )


def find_folders(comfyui: Path | None = None, base: Path | None = None) -> tuple[Path | None, Path | None]:
    """ComfyUI's folder and its base directory, from the options --comfyui and --base, else searched for.

    A ComfyUI that is named is its own base, unless this pack is in a base directory without a ComfyUI of its own.
    Raises FaceCDMError if a named folder is no ComfyUI.
    """
    if comfyui is None:
        comfyui = find_comfyui()
        return comfyui, base or find_base(comfyui)
    check_comfyui(comfyui, "--comfyui")
    apart = (folder for folder in _around() if _is_base(folder) and not is_comfyui(folder))
    return comfyui, base or next(apart, comfyui)


def is_comfyui(folder: Path) -> bool:
    return (folder / "main.py").is_file() and (folder / "comfy").is_dir()


def check_comfyui(folder: Path, name: str = "") -> None:
    """Raises FaceCDMError, with the name of the option if one is given, if the folder is no ComfyUI."""
    if not is_comfyui(folder):
        raise FaceCDMError(f"{name} {folder} is no ComfyUI folder: it has no main.py beside a folder comfy".lstrip())


def find_comfyui() -> Path | None:
    """FACECDM_COMFYUI, else the ComfyUI whose custom_nodes contains FaceCDM, else the quick start's, else None.

    Raises FaceCDMError if FACECDM_COMFYUI names another folder.
    """
    if named := os.environ.get("FACECDM_COMFYUI"):
        check_comfyui(Path(named), "FACECDM_COMFYUI")
        return Path(named)
    return next((folder for folder in (*_around(), QUICKSTART / "ComfyUI") if is_comfyui(folder)), None)


def find_base(comfyui: Path | None) -> Path | None:
    """The folder with models, input and output: FACECDM_BASE, else the base directory whose custom_nodes contains this
    pack, else the quick start's (if `comfyui` is the quick start's), else the ComfyUI folder.
    """
    if named := os.environ.get("FACECDM_BASE"):
        return Path(named)
    if comfyui == QUICKSTART / "ComfyUI" and not _is_installed():
        return QUICKSTART / "base"
    return next((folder for folder in _around() if _is_base(folder)), comfyui)


def _around() -> list[Path]:
    """Folders that may have custom_nodes with FaceCDM. The pack may be a link there, and the shell's PWD is the path
    that the user entered.
    """
    here = Path(os.environ.get("PWD") or ".")
    if not (here.is_dir() and here.samefile(".")):
        here = Path.cwd()
    return [REPOSITORY.parent.parent, here.parent.parent, here]


def _is_installed() -> bool:
    return any(_is_base(folder) for folder in _around())


def _is_base(folder: Path) -> bool:
    return (folder / "custom_nodes").is_dir() and (folder / "models").is_dir()

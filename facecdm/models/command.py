"""`python -m facecdm get`: download the files of a workflow, family or face pack into ComfyUI's models folders."""

import argparse
import sys
from collections.abc import Iterable

from .. import comfyui_folders
from ..errors import FaceCDMError
from . import catalogue
from .download import download
from .folders import ModelFolders
from .model_file import ModelFile
from .needs import family_names, needs_of, workflow_names


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("names", nargs="*", metavar="NAME", help="workflows, families, face packs or files")
    add(
        "--for",
        dest="base_model",
        metavar="BASE",
        choices=("SD1.5", "SDXL"),
        help="of a family, only the files for this base model",
    )
    comfyui_folders.add_arguments(parser)
    add("--list", action="store_true", help="show every file of the table, and stop")
    add("--dry-run", action="store_true", help="show what would be fetched, and stop")
    add("--yes", action="store_true", help="fetch without asking")


def main(options: argparse.Namespace) -> int:
    """Exit code: 0 if all files exist at the end."""
    if options.list:
        print(table(catalogue.ALL))
        print(f"workflows: {', '.join(workflow_names())}")
        print(f"families: {', '.join(family_names())}")
        return 0
    if not options.names:
        raise FaceCDMError(f"name what to get, such as {workflow_names()[-1]}; --list shows all")
    needs = [needs_of(name, options.base_model) for name in options.names]
    for name in dict.fromkeys(name for need in needs for name in need.unknown):
        print(f"not in the table, get it yourself: {name}")
    files = tuple(dict.fromkeys(file for need in needs for file in need.files))
    folders = model_folders(options)
    lacking = []
    for file in files:
        if found := folders.find(file):
            print(f"there already: {found}")
        else:
            lacking.append(file)
    if lacking:
        print(table(lacking, folders))
        print(f"{sum(file.megabytes for file in lacking) / 1000:.2f} GB into {folders.models}")
    if warning := torch_warning(files):
        print(warning)
    if not lacking or options.dry_run:
        return 0
    if not options.yes and not confirmed():
        return 1
    for number, file in enumerate(lacking, 1):
        print(f"[{number}/{len(lacking)}] {file.name}", flush=True)
        print(f"  {download(file, folders.models, Meter())}")
    return 0


def torch_warning(files: Iterable[ModelFile]) -> str:
    """Name the files that FaceCDM does not read with the installed torch. Empty if there are none, or no torch."""
    pickled = [file.name for file in files if file.name.lower().endswith((".bin", ".pt", ".pth"))]
    if not pickled:
        return ""
    try:
        import torch

        from .. import tensor_file
    except ImportError:  # the doctor reports it
        return ""
    if tensor_file.pickles_are_safe():
        return ""
    safe, names = ".".join(map(str, tensor_file.SAFE_TORCH)), ", ".join(pickled)
    return f"warning: FaceCDM reads these files only with torch {safe} or newer (here {torch.__version__}): {names}"


def model_folders(options: argparse.Namespace) -> ModelFolders:
    """ComfyUI's folders of models. Raises FaceCDMError if there is no ComfyUI."""
    comfyui, base = comfyui_folders.find_folders(options.comfyui, options.base)
    if base is None:
        raise FaceCDMError(
            "no ComfyUI around this pack: name its folder with --comfyui DIR, or its base with --base DIR"
        )
    if not base.is_dir():
        raise FaceCDMError(f"{base} is not a folder: name ComfyUI's base directory with --base DIR")
    return ModelFolders(base / "models", comfyui, options.extra_model_paths_config)


def table(files, folders: ModelFolders | None = None) -> str:
    """One row per file: size, licence, folder, purpose, link."""
    rows = []
    for file in files:
        where = f"models/{file.folder}/{file.name}" if folders is None else str(folders.target(file))
        rows += [f"{file.purpose} ({file.size}, {file.licence})", f"  from {file.url}", f"  into {where}"]
    return "\n".join(rows)


def markdown() -> str:
    """The table in docs/models.md, grouped by folder."""
    folders: dict[str, list[str]] = {}
    for file in catalogue.ALL:
        requires = f"; requires {', '.join(f'`{name}`' for name in file.requires)}" if file.requires else ""
        folders.setdefault(file.folder, []).append(f"- {file.purpose}: {file.note}{requires}")
    return "\n\n".join(f"## models/{folder}\n\n" + "\n".join(lines) for folder, lines in folders.items())


def confirmed() -> bool:
    if not sys.stdin.isatty():
        raise FaceCDMError("nothing was fetched, because there is no terminal to ask in: add --yes")
    try:
        return input("Fetch these, and accept their licences? [y/N] ").strip().lower() in ("y", "yes")
    except EOFError:  # Ctrl-D
        print()
        return False


class Meter:
    """Progress of a download as one line on a terminal."""

    def __call__(self, done: int, total: int) -> None:
        if sys.stderr.isatty():
            share = f" of {total / 1e6:,.0f} MB ({done / total:.0%})" if total else " MB"
            print(f"\r  {done / 1e6:,.0f}{share}", end="\n" if done == total else "", file=sys.stderr, flush=True)

"""Checks of model files: files that exist, and advice for missing ones (source and folder)."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ..demo.paths import default_path
from ..invocation import command_line
from ..models.catalogue import VIT_H
from ..models.folders import ModelFolders
from ..models.model_file import ModelFile
from ..models.needs import needs_of
from .finding import MISSING, NOTE, OK, WARNING, Finding

ENDINGS = (".safetensors", ".ckpt", ".bin", ".pt", ".pth")


@dataclass(frozen=True)
class ModelKind:
    """A kind of optional model file.

    folders  folders below ComfyUI's models
    advice   file to get if there is none; {models} stands for the models folder
    """

    topic: str
    label: str
    folders: tuple[str, ...]
    advice: str


OPTIONAL_MODELS = (
    ModelKind(
        "checkpoint",
        "SD1.5 or SDXL checkpoint",
        ("checkpoints",),
        "any SD1.5 or SDXL checkpoint into {models}/checkpoints, such as "
        f"`{command_line('get sd_xl_base_1.0.safetensors')}`",
    ),
    ModelKind(
        "clip_vision",
        "CLIP Vision model (image stream)",
        ("clip_vision",),
        f"`{command_line(f'get {VIT_H}')}`, into {{models}}/clip_vision",
    ),
    ModelKind(
        "adapter",
        "adapter",
        ("facecdm", "ipadapter", "instantid", "pulid"),
        "Save FaceCDM Adapter writes to {models}/facecdm; "
        f"`{command_line('get faceid-plusv2')}` fetches a published one into {{models}}/ipadapter (docs/formats.md "
        "lists all)",
    ),
)


def check_models(folders: ModelFolders | None) -> Iterator[Finding]:
    """Check the demo model, then face packs and files for SD1.5 and SDXL."""
    yield from check_demo()
    if folders is None:
        yield Finding(NOTE, "models", "no ComfyUI, so models were not checked", "name it with --comfyui DIR")
        return
    if not folders.models.is_dir():
        yield Finding(
            MISSING, "models", f"{folders.models} is not a folder", "name ComfyUI's base directory with --base"
        )
        return
    yield from check_packs(folders.of("insightface"))
    for kind in OPTIONAL_MODELS:
        yield check_kind(kind, folders)


def check_workflow(name: str, folders: ModelFolders | None) -> Iterator[Finding]:
    """Check every model file that a workflow needs. Raises FaceCDMError for an unknown name."""
    if folders is None:
        yield Finding(NOTE, "workflow", "no ComfyUI, so models were not checked", "name it with --comfyui DIR")
        return
    needs = needs_of(name)
    lacking = False
    for file in needs.files:
        found = folders.find(file)
        lacking |= found is None
        yield Finding(OK, "workflow", f"{name}: {found}") if found else _missing(name, file)
    for other in needs.unknown:
        yield Finding(NOTE, "workflow", f"{name} also names {other}, which is not in the table of models")
    if lacking:
        yield Finding(NOTE, "workflow", f"{name} lacks the files above", command_line(f"get {name}"))


def _missing(name: str, file: ModelFile) -> Finding:
    text = f"{name}: no {file.name} in models/{file.folder} ({file.size}, {file.licence})"
    return Finding(MISSING, "workflow", text, f"download {file.url}")


def check_demo() -> Iterator[Finding]:
    path = default_path()
    size = path.stat().st_size if path.is_file() else 0
    if not size:
        yield Finding(NOTE, "demo model", f"no demo model at {path}", f"`{command_line('demo train')}` makes one")
    elif size < 1_000_000:  # a Git LFS pointer or a truncated copy
        yield Finding(WARNING, "demo model", f"{path} has only {size:,} bytes", "clone the pack again")
    else:
        yield Finding(OK, "demo model", f"demo model ({size / 2**20:.0f} MiB, comes with the pack)")


def check_packs(folders: list[Path]) -> Iterator[Finding]:
    """List every face pack, complete or broken. One complete pack is needed."""
    from ..errors import FaceCDMError
    from ..faces.packs import ADVICE, find_packs, sort_pack

    complete = 0
    for name, pack_folder in find_packs(folders).items():
        try:
            files = sort_pack(name, pack_folder)
        except FaceCDMError as error:
            yield Finding(WARNING, "face pack", str(error))
            continue
        complete += 1
        yield Finding(OK, "face pack", f"face pack {name}: {files.detector.name}, {files.recogniser.name}")
    if not complete:
        where = " or ".join(map(str, folders))
        yield Finding(MISSING, "face pack", f"no complete face pack below {where}", ADVICE)


def check_kind(kind: ModelKind, folders: ModelFolders) -> Finding:
    found = sorted(path.name for name in kind.folders for path in folders.files(name) if path.suffix in ENDINGS)
    if found:
        more = f" and {len(found) - 3} more" if len(found) > 3 else ""
        return Finding(OK, kind.topic, f"{kind.label}: {', '.join(found[:3])}{more}")
    where = ", ".join(str(folder) for name in kind.folders for folder in folders.of(name))
    return Finding(NOTE, kind.topic, f"no {kind.label} in {where}", kind.advice.format(models=folders.models))

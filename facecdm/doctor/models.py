"""Checks of model files: files that exist, and advice for missing ones (source and folder)."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ..demo.paths import default_path
from ..invocation import typed
from ..models.catalogue import VIT_H
from ..models.model_file import ModelFile
from ..models.needs import needs_of
from ..models.places import Places
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
        f"`{typed('get sd_xl_base_1.0.safetensors')}`",
    ),
    ModelKind(
        "clip_vision",
        "CLIP Vision model (image stream)",
        ("clip_vision",),
        f"`{typed(f'get {VIT_H}')}`, into {{models}}/clip_vision",
    ),
    ModelKind(
        "adapter",
        "adapter",
        ("facecdm", "ipadapter", "instantid", "pulid"),
        "Save FaceCDM Adapter writes to {models}/facecdm; "
        f"`{typed('get faceid-plusv2')}` fetches a published one into {{models}}/ipadapter (docs/formats.md lists all)",
    ),
)


def check_models(base: Path | None, *configs: Path) -> Iterator[Finding]:
    """Check the demo model, then face packs and files for SD1.5 and SDXL below `base`/models, and in the
    folders that `configs` add (like extra_model_paths.yaml).
    """
    yield from check_demo()
    if base is None:
        yield Finding(NOTE, "models", "no ComfyUI, so models were not checked", "name it with --comfyui DIR")
        return
    models = base / "models"
    if not models.is_dir():
        yield Finding(MISSING, "models", f"{models} is no folder", "name ComfyUI's base directory with --base")
        return
    places = Places(models, *configs)
    yield from check_packs(places.of("insightface"))
    for kind in OPTIONAL_MODELS:
        yield check_kind(kind, places)


def check_workflow(name: str, base: Path | None, *configs: Path) -> Iterator[Finding]:
    """Check every model file that a workflow needs. Raises FaceCDMError for an unknown name."""
    if base is None:
        yield Finding(NOTE, "workflow", "no ComfyUI, so models were not checked", "name it with --comfyui DIR")
        return
    needs, places = needs_of(name), Places(base / "models", *configs)
    lacking = False
    for file in needs.files:
        found = places.find(file)
        lacking |= found is None
        yield Finding(OK, "workflow", f"{name}: {found}") if found else _missing(name, file)
    for other in needs.unknown:
        yield Finding(NOTE, "workflow", f"{name} also names {other}, which is not in the table of models")
    if lacking:
        yield Finding(NOTE, "workflow", f"{name} lacks the files above", typed(f"get {name}"))


def _missing(name: str, file: ModelFile) -> Finding:
    text = f"{name}: no {file.name} in models/{file.folder} ({file.size}, {file.licence})"
    return Finding(MISSING, "workflow", text, f"download {file.url}")


def check_demo() -> Iterator[Finding]:
    path = default_path()
    size = path.stat().st_size if path.is_file() else 0
    if not size:
        yield Finding(NOTE, "demo model", f"no demo model at {path}", f"`{typed('demo train')}` makes one")
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


def check_kind(kind: ModelKind, places: Places) -> Finding:
    found = sorted(path.name for folder in kind.folders for path in places.files(folder) if path.suffix in ENDINGS)
    if found:
        more = f" and {len(found) - 3} more" if len(found) > 3 else ""
        return Finding(OK, kind.topic, f"{kind.label}: {', '.join(found[:3])}{more}")
    where = ", ".join(str(place) for folder in kind.folders for place in places.of(folder))
    return Finding(NOTE, kind.topic, f"no {kind.label} in {where}", kind.advice.format(models=places.models))

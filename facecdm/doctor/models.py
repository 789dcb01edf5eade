"""The doctor's look at models: which are there, and what to get, from where, into which folder."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from .finding import MISSING, NOTE, OK, WARNING, Finding

DEMO_WEIGHTS = Path(__file__).parent / "demo" / "weights" / "demo.safetensors"
ENDINGS = (".safetensors", ".ckpt", ".bin", ".pt", ".pth")


@dataclass(frozen=True)
class Kind:
    """Model files that a person may want, by the folders of ComfyUI's models that hold them."""

    topic: str
    label: str
    folders: tuple[str, ...]
    advice: str


OPTIONAL_MODELS = (
    Kind(
        "checkpoint",
        "SD1.5 or SDXL checkpoint",
        ("checkpoints",),
        "any SD1.5 or SDXL checkpoint, such as sd_xl_base_1.0.safetensors of "
        "stabilityai/stable-diffusion-xl-base-1.0 on Hugging Face, into {models}/checkpoints",
    ),
    Kind(
        "clip_vision",
        "CLIP Vision model (image stream)",
        ("clip_vision",),
        "models/image_encoder/model.safetensors of h94/IP-Adapter on Hugging Face (ViT-H/14), into "
        "{models}/clip_vision as CLIP-ViT-H-14.safetensors",
    ),
    Kind(
        "adapter",
        "FaceCDM adapter",
        ("facecdm",),
        "Save Adapter writes them to {models}/facecdm; New Adapter needs none",
    ),
)


def check_models(base: Path | None) -> Iterator[Finding]:
    """Face packs, the demo model, and what larger base models want, below `base`/models."""
    yield from check_demo()
    if base is None:
        yield Finding(NOTE, "models", "no ComfyUI, so no models were looked for", "name it with --comfyui DIR")
        return
    models = base / "models"
    if not models.is_dir():
        yield Finding(MISSING, "models", f"{models} is no folder", "name ComfyUI's base directory with --base")
        return
    yield from check_packs(models / "insightface")
    for kind in OPTIONAL_MODELS:
        yield check_kind(kind, models)


def check_demo() -> Iterator[Finding]:
    if DEMO_WEIGHTS.is_file():
        size = DEMO_WEIGHTS.stat().st_size
        if size < 1_000_000:  # a pointer of Git's large file storage, or a cut-off copy
            yield Finding(WARNING, "demo model", f"{DEMO_WEIGHTS} has only {size:,} bytes", "clone the pack anew")
        else:
            yield Finding(OK, "demo model", f"demo model ({size / 2**20:.0f} MiB, comes with the pack)")
    else:
        yield Finding(
            NOTE, "demo model", f"no demo model at {DEMO_WEIGHTS}", "`python -m facecdm demo train` makes one"
        )


def check_packs(folder: Path) -> Iterator[Finding]:
    """Every face pack: complete or broken; one that is whole is needed."""
    from ..errors import FaceCDMError
    from ..faces.packs import ADVICE, find_packs, sort_pack

    whole = 0
    for name, place in find_packs([folder]).items():
        try:
            files = sort_pack(name, place)
        except FaceCDMError as error:
            yield Finding(WARNING, "face pack", str(error))
            continue
        whole += 1
        yield Finding(OK, "face pack", f"face pack {name}: {files.detector.name}, {files.recogniser.name}")
    if not whole:
        yield Finding(MISSING, "face pack", f"no whole face pack below {folder}", ADVICE)


def check_kind(kind: Kind, models: Path) -> Finding:
    found = sorted(
        path.name for folder in kind.folders for path in (models / folder).rglob("*") if path.suffix in ENDINGS
    )
    if found:
        more = f" and {len(found) - 3} more" if len(found) > 3 else ""
        return Finding(OK, kind.topic, f"{kind.label}: {', '.join(found[:3])}{more}")
    where = ", ".join(str(models / folder) for folder in kind.folders)
    return Finding(NOTE, kind.topic, f"no {kind.label} in {where}", kind.advice.format(models=models))

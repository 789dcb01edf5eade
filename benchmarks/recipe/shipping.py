"""Shipping: the weights go into the package, and sizes, texts, workflows and pictures are made to agree with them."""

import shutil
from pathlib import Path

from shared import ROOT

from facecdm.demo import paths

from .commands import gallery, portraits, workflows
from .plan import Plan
from .stages import Stage, execute

# Texts with the pictures' size as "128 × 128".
SIZED = (
    "README.md",
    "README_zh.md",
    "web/docs/FaceCDMLoadDemoModel.md",
    "web/docs/FaceCDMLoadDemoModel/zh.md",
    "locales/zh/nodeDefs.json",
)
QUALITY = 88  # of a JPEG
BY_HAND = """
Shipped; the pictures in docs, the thumbnails, workflows and subgraphs are made anew. RUN/logs/ship.log has the output.
Write the numbers by hand, from RUN/bars and RUN/logs:
    docs/demo-model.md    conclusions, design, commands, both tables; show docs/demo-beside-real.jpg
    docs/pose.md          the table of the ControlNet, its training
    docs/results          demo_model.csv (RUN/bars/curve.json), demo_adapter.csv
    docs/training.md      the page "my photos": likeness before and after, minutes (RUN/logs/one-person.log)
    docs/method.md        the location head's errors (benchmarks/location_head.py error) and its results
    README.md, README_zh.md, web/docs/FaceCDMLoadDemoAdapter*, web/docs/FaceCDMLoadDemoModel*: likeness, hours, words
Then: python -m pytest
"""


def ship(plan: Plan) -> None:
    """Put the weights into the package and make everything that depends on them anew. May be repeated."""
    from facecdm.demo.weights import read_sizes

    new, old = read_sizes(plan.weights / paths.MODEL.name), read_sizes(paths.MODEL)
    # Sizes first: after an interruption, the old weights still tell the old size.
    set_size(ROOT, (old.image_size, old.downscale), (new.image_size, new.downscale))
    for packaged in (paths.MODEL, paths.ADAPTER, paths.ADAPTER_LORA, paths.POSE_CONTROLNET):
        shutil.copyfile(plan.weights / packaged.name, packaged)
    made = plan.run / "shipped"
    shutil.rmtree(made, ignore_errors=True)  # portrait replaces no earlier run
    for command in (workflows(plan), gallery(plan), portraits(plan, made)):
        execute(plan, Stage("ship", ()), command)
    show(made / "contact-sheet.png", ROOT / "docs/portraits.jpg")
    show(plan.run / "bars/demo-beside-real.png", ROOT / "docs/demo-beside-real.jpg")
    print(BY_HAND)


def set_size(root: Path, old: tuple[int, int], new: tuple[int, int]) -> None:
    """Set picture size and step of the demo's base model, and the size in the texts."""
    _replace(root / "facecdm/bases/demo.py", *("resolution={},\n    step={},".format(*size) for size in (old, new)))
    for name in SIZED:
        _replace(root / name, *(f"{side} × {side}" for side, _ in (old, new)))


def show(picture: Path, docs: Path) -> None:
    """Save a picture for the documentation as a JPEG, not scaled."""
    from PIL import Image

    with Image.open(picture) as opened:
        opened.convert("RGB").save(docs, quality=QUALITY, optimize=True)


def _replace(path: Path, old: str, new: str) -> None:
    """Replace a text that may be replaced already. Raises SystemExit if neither is there."""
    text = path.read_text(encoding="utf-8")
    if old not in text and new not in text:
        raise SystemExit(f"{path} does not contain {old!r}")
    path.write_text(text.replace(old, new), encoding="utf-8")

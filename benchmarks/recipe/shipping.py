"""Shipping: the weights go into the package, and their picture size into the base model and the texts."""

import shutil
from pathlib import Path

from shared import ROOT

from facecdm.demo import paths

from .plan import Plan

TEXTS = (
    "README.md",
    "README_zh.md",
    "web/docs/FaceCDMLoadDemoModel.md",
    "web/docs/FaceCDMLoadDemoModel/zh.md",
    "locales/zh/nodeDefs.json",
)
AGAIN = """
Make anew, with COMFYUI and BASE of .quickstart:
    python -m workflows.source.make --comfyui COMFYUI --base BASE        # workflows, API JSON, thumbnails
    python -m workflows.source.blueprints 127.0.0.1:8188                  # subgraphs, while a ComfyUI runs there
    python -m facecdm gallery --comfyui COMFYUI --base BASE               # docs/gallery.jpg, gallery.md
    python -m facecdm portrait --comfyui COMFYUI --base BASE --output output/portraits   # docs/portraits.jpg: its sheet
    python -m pytest tests/demo tests/hosts/comfy/demo tests/nodes tests/browser tests/server
Write by hand: docs/demo-model.md (design, commands, both tables, the sheet RUN/bars/demo-beside-real.png),
docs/pose.md, docs/results/demo_model.csv and demo_adapter.csv, README (likeness, sentence on real photos), the help
pages of Load FaceCDM Demo Model (channels of the VAE) and Load FaceCDM Demo Adapter, DEMO_MODEL_ADAPTER in
workflows/source/demo.py (a face location is no longer needed), the page "my photos" of docs/training.md.
"""


def ship(plan: Plan) -> None:
    """Put the weights into the package, and their picture size into the base model and the texts."""
    from facecdm.demo.weights import read_sizes

    new, old = read_sizes(plan.weights / paths.MODEL.name), read_sizes(paths.MODEL)
    for packaged in (paths.MODEL, paths.ADAPTER, paths.ADAPTER_LORA, paths.POSE_CONTROLNET):
        shutil.copyfile(plan.weights / packaged.name, packaged)
    set_size(ROOT, (old.image_size, old.downscale), (new.image_size, new.downscale))
    print(AGAIN)


def set_size(root: Path, old: tuple[int, int], new: tuple[int, int]) -> None:
    """Set picture size and step of the demo's base model, and the size in the texts."""
    _replace(root / "facecdm/bases/demo.py", *("resolution={},\n    step={},".format(*size) for size in (old, new)))
    for name in TEXTS:
        _replace(root / name, *(f"{side} × {side}" for side, _ in (old, new)))


def _replace(path: Path, old: str, new: str) -> None:
    text = path.read_text(encoding="utf-8")
    if old not in text:
        raise SystemExit(f"{path} does not contain {old!r}")
    path.write_text(text.replace(old, new), encoding="utf-8")

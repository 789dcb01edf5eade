"""The files in facecdm/demo/weights. Imports no torch, so the command line can use it."""

import os
from pathlib import Path

FOLDER = Path(__file__).parent / "weights"
MODEL = FOLDER / "demo.safetensors"
ADAPTER = FOLDER / "adapter.safetensors"
ADAPTER_LORA = FOLDER / "adapter_lora.safetensors"
POSE_CONTROLNET = FOLDER / "pose.safetensors"
VARIABLE = "FACECDM_DEMO_WEIGHTS"  # names another file of the demo model, or a folder with files of the names above


def default_path() -> Path:
    """Path of the demo model's file: the one that FACECDM_DEMO_WEIGHTS names, else the package's."""
    named = Path(os.environ.get(VARIABLE) or FOLDER)
    return named / MODEL.name if named.is_dir() else named


def in_use(packaged: Path) -> Path:
    """Path of one of the package's files, or of its namesake if FACECDM_DEMO_WEIGHTS names a folder."""
    named = Path(os.environ.get(VARIABLE) or FOLDER)
    return named / packaged.name if named.is_dir() else packaged

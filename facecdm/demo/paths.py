"""The files in facecdm/demo/weights. Imports no torch, so the command line can use it."""

import os
from pathlib import Path

FOLDER = Path(__file__).parent / "weights"
MODEL = FOLDER / "demo.safetensors"
ADAPTER = FOLDER / "adapter.safetensors"
ADAPTER_LORA = FOLDER / "adapter_lora.safetensors"
POSE_CONTROLNET = FOLDER / "pose.safetensors"
VARIABLE = "FACECDM_DEMO_WEIGHTS"


def default_path() -> Path:
    """Path of the demo model's file: FACECDM_DEMO_WEIGHTS if set, else the package's."""
    return Path(os.environ.get(VARIABLE) or MODEL)

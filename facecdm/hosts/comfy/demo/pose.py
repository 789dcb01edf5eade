"""The demo model's pose ControlNet as a CONTROL_NET, made by ComfyUI's own loader."""

from pathlib import Path

import comfy.controlnet
import torch

from ....demo.paths import POSE_CONTROLNET
from ....demo.pose_net import FORMAT, MARK
from ....errors import BadFile, MissingModel

ADVICE = "make it with `python -m facecdm demo train-pose`"


def load(path: Path = POSE_CONTROLNET) -> comfy.controlnet.ControlLora:
    """Raises MissingModel where the file is missing, BadFile where it is cut off or of another kind."""
    from safetensors import SafetensorError, safe_open

    if not path.is_file():
        raise MissingModel(f"the demo model's pose ControlNet is not at {path}; {ADVICE}")
    try:
        with safe_open(path, framework="pt") as file:
            kind = (file.metadata() or {}).get("format")
            tensors = {name: file.get_tensor(name) for name in file.keys()}
    except (SafetensorError, OSError, ValueError) as error:
        raise BadFile(f"{path} is cut off or not a safetensors file ({error}); {ADVICE}") from error
    if kind != FORMAT or MARK not in tensors or not all(torch.isfinite(tensor).all() for tensor in tensors.values()):
        raise BadFile(f"{path} is not a complete pose ControlNet of format {FORMAT} (its format is {kind!r}); {ADVICE}")
    return comfy.controlnet.load_controlnet_state_dict(tensors)

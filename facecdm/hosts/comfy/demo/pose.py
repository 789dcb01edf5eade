"""The demo model's pose ControlNet as a CONTROL_NET, made by ComfyUI's own loader."""

from pathlib import Path

import comfy.controlnet
import torch

from ....demo.paths import POSE_CONTROLNET, in_use
from ....demo.pose_net import FORMAT, MARK
from ....errors import BadFile, MissingModel
from ....tensor_file import check_weights, read_tensors

ADVICE = "make it with `python -m facecdm demo train-pose`"


def load(path: Path | None = None) -> comfy.controlnet.ControlLora:
    """Load the file, by default the one in use (demo/paths.py).

    Raises MissingModel if the file is missing, BadFile if it is truncated or of another kind.
    """
    path = path or in_use(POSE_CONTROLNET)
    if not path.is_file():
        raise MissingModel(f"the demo model's pose ControlNet is not at {path}; {ADVICE}")
    tensors, metadata = read_tensors(path)
    kind = metadata.get("format")
    if kind != FORMAT or MARK not in tensors:
        raise BadFile(f"{path} is not a complete pose ControlNet of format {FORMAT} (its format is {kind!r}); {ADVICE}")
    for name, tensor in tensors.items():
        if name != MARK:
            check_weights(name, tensor, path, f"{ADVICE[0].upper()}{ADVICE[1:]}.")
    return DemoControl(tensors)


class DemoControl(comfy.controlnet.ControlLora):
    """Core's control-LoRA, which also accepts latents at twice the U-Net's resolution (see model.ShuffledUNet)."""

    channels, shuffle = 0, 1

    def pre_run(self, model, percent_to_timestep_function):
        super().pre_run(model, percent_to_timestep_function)
        self.channels = model.model_config.unet_config["in_channels"]
        self.shuffle = vars(model.model_config).get("shuffle", 1)

    def get_control(self, x_noisy, *arguments, **options):
        if x_noisy.shape[1] != self.channels:  # else a control that is applied later has done it
            x_noisy = torch.nn.functional.pixel_unshuffle(x_noisy, self.shuffle)
        return super().get_control(x_noisy, *arguments, **options)

    def copy(self):
        again = DemoControl(self.control_weights, global_average_pooling=self.global_average_pooling)
        self.copy_to(again)
        return again

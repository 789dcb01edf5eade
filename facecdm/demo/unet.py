"""Build the demo model's U-Net and ControlNet, which are diffusers' classes."""

from torch import nn

from ..errors import MissingPackage


def build_unet(config: dict) -> nn.Module:
    """A `UNet2DConditionModel` with random weights, from its configuration."""
    try:
        from diffusers import UNet2DConditionModel
    except ImportError as error:
        raise MissingPackage("training needs diffusers: pip install diffusers") from error
    return UNet2DConditionModel(**config)


def controlnet_of(unet: nn.Module) -> nn.Module:
    """A `ControlNetModel` initialised with a copy of the U-Net's encoder, on its device."""
    try:
        from diffusers import ControlNetModel
    except ImportError as error:
        raise MissingPackage("training needs diffusers: pip install diffusers") from error
    return ControlNetModel.from_unet(unet).to(next(unet.parameters()).device)

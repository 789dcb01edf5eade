"""Build the demo model's U-Net and ControlNet, which are diffusers' classes."""

from types import ModuleType

from torch import nn

from ..errors import MissingPackage


def build_unet(config: dict) -> nn.Module:
    """A `UNet2DConditionModel` with random weights, from its configuration."""
    return _diffusers().UNet2DConditionModel(**config)


def use_plain_attention(unet: nn.Module) -> None:
    """Compute attention as matrix products and a softmax instead of by the fused kernel, for training on a CPU."""
    from diffusers.models.attention_processor import AttnProcessor

    unet.set_attn_processor(AttnProcessor())


def controlnet_of(unet: nn.Module) -> nn.Module:
    """A `ControlNetModel` initialised with a copy of the U-Net's encoder, on its device."""
    return _diffusers().ControlNetModel.from_unet(unet).to(next(unet.parameters()).device)


def _diffusers() -> ModuleType:
    try:
        import diffusers
    except ImportError as error:
        raise MissingPackage("the demo model's U-Net needs diffusers: pip install diffusers") from error
    return diffusers

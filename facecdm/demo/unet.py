"""Build the demo model's U-Net and ControlNet, which are diffusers' classes."""

from types import ModuleType

from torch import Tensor, nn

from ..errors import MissingPackage


def build_unet(config: dict) -> nn.Module:
    """A `UNet2DConditionModel` with random weights, from its configuration."""
    return _diffusers().UNet2DConditionModel(**config)


class PlainAttention:
    """Attention as two matrix products and a softmax, for diffusers' `set_attn_processor`.

    On a CPU it trains faster than the fused kernel at the demo model's few positions.
    """

    def __call__(
        self, attention: nn.Module, hidden_states: Tensor, encoder_hidden_states: Tensor | None = None, **_
    ) -> Tensor:
        source = hidden_states if encoder_hidden_states is None else encoder_hidden_states

        def heads(projected: Tensor) -> Tensor:
            return projected.unflatten(-1, (attention.heads, -1)).transpose(1, 2)

        query, key, value = (
            heads(attention.to_q(hidden_states)),
            heads(attention.to_k(source)),
            heads(attention.to_v(source)),
        )
        share = (query * attention.scale @ key.transpose(-1, -2)).softmax(-1)
        return attention.to_out[0]((share @ value).transpose(1, 2).flatten(2))


def controlnet_of(unet: nn.Module) -> nn.Module:
    """A `ControlNetModel` initialised with a copy of the U-Net's encoder, on its device."""
    return _diffusers().ControlNetModel.from_unet(unet).to(next(unet.parameters()).device)


def _diffusers() -> ModuleType:
    try:
        import diffusers
    except ImportError as error:
        raise MissingPackage("the demo model's U-Net needs diffusers: pip install diffusers") from error
    return diffusers

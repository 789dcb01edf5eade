"""People in a diffusers `FluxTransformer2DModel`: residual cells after its blocks, by the code of both hosts."""

from functools import partial

from torch import Tensor, nn

from ...adapter.attention import attend
from ...adapter.cells import add_residuals
from ...adapter.stream_module import AFTER_BLOCK
from ...bases.flux import FLUX
from ...bases.grid import token_grid
from ...bases.layers import Layer, LayerMap
from ...errors import UnsupportedModel
from .sampling import Host, Session

_BLOCKS = {"double": "transformer_blocks", "single": "single_transformer_blocks"}


class DiffusersDit(Host):
    """A diffusers `FluxTransformer2DModel` with people's cells after its blocks.

    The constructor adds forward hooks to the blocks. The cells of the applied adapters are moved to the transformer's
    device and dtype, and stay there. The picture's tokens come first in the sequence; reference latents follow. A call
    raises UnsupportedModel for an adapter that reads the blocks' queries (adapter/decoupled.py).
    """

    def __init__(self, transformer: nn.Module):
        super().__init__(transformer, layer_map(transformer), Session(FLUX.patch))
        for index, block in enumerate(_blocks(transformer)):
            block.register_forward_hook(partial(self._after_block, index))

    def _after_block(self, index: int, block: nn.Module, args: tuple, output: tuple[Tensor, Tensor]):
        """Forward hook: the block's (text, picture) with the cells' residuals added to the picture's tokens."""
        if isinstance(output, Tensor):
            raise UnsupportedModel(
                "the blocks of this diffusers version return text and picture as one tensor: update diffusers"
            )
        text, hidden = output
        rows, columns = token_grid(*self._session.size, FLUX.patch)
        streams = self._session.streams(index, rows * columns)
        if not streams:
            return None
        if any(stream.place != AFTER_BLOCK for stream in streams):
            raise UnsupportedModel(
                "this adapter reads the base model's own queries (the IP-Adapters of XLabs and InstantX), which "
                "FaceCDM does in ComfyUI alone; diffusers' load_ip_adapter reads the files of XLabs"
            )
        for stream in streams:
            stream.part.to(hidden.device, hidden.dtype)
        return text, add_residuals(hidden, 0, rows * columns, streams, self.layer_map.layers[index].heads, attend)


def layer_map(transformer: nn.Module) -> LayerMap:
    """The blocks of a `FluxTransformer2DModel`. Raises UnsupportedModel for a model of another kind."""
    if not all(hasattr(transformer, attribute) for attribute in _BLOCKS.values()):
        raise UnsupportedModel(
            f"{type(transformer).__name__} has no double and single blocks; FaceCDM needs a FluxTransformer2DModel"
        )
    config = transformer.config
    width = config.num_attention_heads * config.attention_head_dim
    layers = (
        Layer(part, width, config.num_attention_heads)
        for part, attribute in _BLOCKS.items()
        for _ in getattr(transformer, attribute)
    )
    return LayerMap(tuple(layers), config.joint_attention_dim)


def _blocks(transformer: nn.Module) -> list[nn.Module]:
    return [block for attribute in _BLOCKS.values() for block in getattr(transformer, attribute)]

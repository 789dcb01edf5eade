"""People in a diffusers DiT (Flux.1, Chroma, SD3.5, Qwen-Image, Z-Image), by the code of both hosts."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import torch
from torch import Tensor, nn

from ...adapter.attention import LayerStream, attend, triplet_attention
from ...adapter.cells import add_residuals
from ...adapter.stream_module import AFTER_BLOCK, BESIDE_BLOCK, IN_ATTENTION
from ...bases.flux import FLUX
from ...bases.grid import token_grid
from ...bases.layers import Layer, LayerMap
from ...errors import UnsupportedModel
from .sampling import Host, Session

_PLACES = (AFTER_BLOCK, IN_ATTENTION, BESIDE_BLOCK)
_BLOCKS = {"transformer_blocks": "double", "single_transformer_blocks": "single", "layers": "single"}


class DiffusersDit(Host):
    """A diffusers DiT with people in and after its blocks.

    Blocks have forward hooks while people are applied. The cells of the applied adapters are moved to the transformer's
    device and dtype, and stay there.
    """

    places = _PLACES

    def __init__(self, transformer: nn.Module):
        super().__init__(transformer, layer_map(transformer), Session(FLUX.patch))

    @contextmanager
    def people(self, *args, **kwargs) -> Iterator[nn.Module]:
        with super().people(*args, **kwargs) as transformer, ExitStack() as hooks:
            rows, columns = token_grid(*self._session.size, FLUX.patch)
            text = [0]  # number of text tokens, known after the first block
            for index, (block, layer) in enumerate(zip(_blocks(transformer), self.layer_map.layers)):
                streams = self._session.streams(index, rows * columns)
                if streams or index == 0:
                    people = _Block(layer, rows * columns, streams, text)
                    for handle in people.hook(block):
                        hooks.callback(handle.remove)
            yield transformer


class _Block:
    """The people in one block. The picture's tokens come first in its sequence, and reference latents follow; a single
    block's attention has the text before them.

    layer    the block's entry in the layer map
    count    number of the picture's tokens
    streams  the streams that act in or after it
    text     the number of text tokens, shared by all blocks
    """

    def __init__(self, layer: Layer, count: int, streams: list[LayerStream], text: list[int]):
        self.heads, self.single, self.count, self.text = layer.heads, layer.part == "single", count, text
        self.streams = {place: [s for s in streams if s.place == place] for place in _PLACES}
        self.queries: Tensor | None = None  # [B, count, C], of the call that runs

    def hook(self, block: nn.Module) -> Iterator:
        """Add the hooks that the streams need, and yield their handles."""
        yield block.register_forward_hook(self._after_block)
        if self.streams[IN_ATTENTION] or self.streams[BESIDE_BLOCK]:
            yield block.attn.norm_q.register_forward_hook(self._keep_queries)
        if self.streams[IN_ATTENTION] and self.single:
            yield block.attn.register_forward_hook(lambda module, args, output: self._in_attention(output))
        elif self.streams[IN_ATTENTION]:
            yield block.attn.to_out[0].register_forward_pre_hook(lambda module, args: (self._in_attention(args[0]),))

    @property
    def _start(self) -> int:
        return self.text[0] if self.single else 0

    def _keep_queries(self, norm: nn.Module, args: tuple, output: Tensor) -> None:
        """Forward hook of the queries' norm: [B, n, heads, C/heads], before their rotation."""
        self.queries = output.narrow(1, self._start, self.count).flatten(2)

    def _in_attention(self, attention: Tensor) -> Tensor:
        return self._with_streams(attention, self._start, IN_ATTENTION)

    def _after_block(self, block: nn.Module, args: tuple, output):
        """Forward hook: the block's (text, picture) with the streams that act after it.

        Chroma's single blocks give one tensor, the text before the picture, and Z-Image's blocks one tensor, the
        picture before the text; SD3's last block gives no text.
        """
        joined, kind = isinstance(output, Tensor), type(block).__name__
        if joined and not kind.startswith(("Chroma", "ZImage")):
            raise UnsupportedModel(
                "the blocks of this diffusers version return text and picture as one tensor: update diffusers"
            )
        text, hidden = (None, output) if joined else output
        if text is not None:
            self.text[0] = text.shape[1]
        start = self.text[0] if joined and kind.startswith("Chroma") else 0
        if self.streams[BESIDE_BLOCK]:
            hidden = self._with_streams(hidden, start, BESIDE_BLOCK)
        cells = self.streams[AFTER_BLOCK]
        for stream in cells:
            stream.part.to(hidden.device, hidden.dtype)
        if cells:
            hidden = add_residuals(hidden, start, self.count, cells, self.heads, attend)
        self.queries = None  # those of all blocks would take gigabytes
        return hidden if joined else (text, hidden)

    def _with_streams(self, x: Tensor, start: int, place: str) -> Tensor:
        """x [B, n, C] with the attention of streams added to the picture's tokens, which begin at `start`."""
        rows = x.narrow(1, start, self.count)
        out = triplet_attention(self.queries, rows, self.streams[place], self.heads, attend)
        return x if out is rows else torch.cat([x[:, :start], out, x[:, start + self.count :]], 1)


def layer_map(transformer: nn.Module) -> LayerMap:
    """The blocks of a transformer of Flux.1, Chroma, SD3, Qwen-Image or Z-Image. Raises UnsupportedModel for others."""
    config = getattr(transformer, "config", {})
    if hasattr(transformer, "layers") and "cap_feat_dim" in config:
        width, heads, context = config.dim, config.n_heads, config.cap_feat_dim
    elif hasattr(transformer, "transformer_blocks") and "joint_attention_dim" in config:
        heads, context = config.num_attention_heads, config.joint_attention_dim
        width = heads * config.attention_head_dim
    else:
        raise UnsupportedModel(
            f"{type(transformer).__name__} has no double and single blocks; FaceCDM needs the transformer of Flux.1, "
            "Chroma, SD3.5, Qwen-Image or Z-Image"
        )
    layers = (
        Layer(part, width, heads) for attribute, part in _BLOCKS.items() for _ in getattr(transformer, attribute, ())
    )
    return LayerMap(tuple(layers), context)


def _blocks(transformer: nn.Module) -> list[nn.Module]:
    return [block for attribute in _BLOCKS for block in getattr(transformer, attribute, ())]

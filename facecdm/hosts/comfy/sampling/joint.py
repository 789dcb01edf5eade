"""Streams in the joint attention of Stable Diffusion 3's blocks, through ComfyUI's block replacement.

The blocks have no patch for their queries. While a block runs, its options therefore name a function that computes its
attention (`optimized_attention_override`, which every supported ComfyUI has) and adds the streams.
"""

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor, nn

from ....adapter.attention import LayerStream, triplet_attention
from ....adapter.joint import beside_picture
from ....adapter.stream_module import IN_JOINT_ATTENTION
from ....bases.layers import LayerMap
from ..dit import block_keys
from .attend import attend_with

OVERRIDE = "optimized_attention_override"


def add_joint(blocks: dict, streams: list[list[LayerStream]], layer_map: LayerMap, count: int, dit: nn.Module) -> None:
    """Put the streams that act in joint attention into a call's replacements of blocks.

    streams  the streams of each block, in the layer map's order
    count    number of the picture's tokens
    """
    for index, (key, some) in enumerate(zip(block_keys(layer_map), streams)):
        own = [stream for stream in some if stream.place == IN_JOINT_ATTENTION]
        if own:
            attention = dit.joint_blocks[index].x_block.attn
            blocks[key] = JointBlock(own, layer_map.layers[index].heads, count, attention, blocks.get(key))


@dataclass(frozen=True, eq=False)
class JointBlock:
    """A replacement of one block: the block, or an earlier replacement of it, with streams in its attention.

    streams    the streams of this block
    heads      attention heads
    count      number of the picture's tokens, which follow the text
    attention  the block's attention of the picture, whose norms' weights are read
    previous   the earlier replacement, if any
    """

    streams: list[LayerStream]
    heads: int
    count: int
    attention: nn.Module
    previous: Callable | None

    def __call__(self, args: dict, extra_options: dict) -> dict:
        options, text = args["transformer_options"], args["txt"].shape[1]

        def attend(function: Callable, q: Tensor, k: Tensor, v: Tensor, *more, **others) -> Tensor:
            earlier = options.get(OVERRIDE)
            out = earlier(function, q, k, v, *more, **others) if earlier else function(q, k, v, *more, **others)
            if q.shape[1] != text + self.count:
                return out  # the second attention of SD3.5 Medium's blocks, of the picture alone
            out = out.clone() if earlier else out  # another pack may keep the tensor that its code returned
            self._add(out[:, text:], *(x[:, text:].flatten(2) for x in (q, k, v)), options)  # v has its heads apart
            return out

        args = {**args, "transformer_options": {**options, OVERRIDE: attend}}
        return self.previous(args, extra_options) if self.previous else extra_options["original_block"](args)

    def _add(self, out: Tensor, q: Tensor, k: Tensor, v: Tensor, options: dict) -> None:
        """Add the streams to the attention [B, count, C] of the picture's tokens, in place."""
        norms = [norm.weight.to(q) for norm in (self.attention.ln_q, self.attention.ln_k)]
        streams = [beside_picture(stream, k, v, *norms) for stream in self.streams]
        result = triplet_attention(q, out, streams, self.heads, attend_with(options))
        if result is not out:
            out.copy_(result)

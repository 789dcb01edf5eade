"""The blocks of ComfyUI's DiTs for training, in the layer map's order."""

from torch import Tensor, nn

from ....training.blocks import Block, Pick, TokenCounts
from ..dit import is_qwen_image, is_sd3, is_z_image


def blocks_of(network: nn.Module) -> list[Block]:
    """The blocks of a DiT that `hosts.comfy.dit` knows."""
    if is_sd3(network):
        return _sd3_blocks(network)
    if is_qwen_image(network):
        return _qwen_image_blocks(network)
    return _z_image_blocks(network) if is_z_image(network) else _flux_blocks(network)


def _flux_blocks(network: nn.Module) -> list[Block]:
    """The blocks of Flux.1 and Chroma."""

    def own(part: int):
        return lambda output, counts: _heads_first(output[part], counts)

    found = [
        Block(block, block.num_heads, 0, (block.img_attn.norm, own(0)), (block.txt_attn.norm, own(1)))
        for block in network.double_blocks
    ]
    return found + [
        Block(
            block,
            block.num_heads,
            None,
            (block.norm, lambda output, counts: _heads_first(output[0][:, :, counts.start :], counts)),
            (block.norm, lambda output, counts: _heads_first(output[1][:, :, : counts.text], counts)),
        )
        for block in network.single_blocks
    ]


def _sd3_blocks(network: nn.Module) -> list[Block]:
    return [
        _text_first(block, network.num_heads, block.x_block.attn.ln_q, block.context_block.attn.ln_k, _heads_last)
        for block in network.joint_blocks
    ]


def _qwen_image_blocks(network: nn.Module) -> list[Block]:
    return [
        _text_first(block, block.num_attention_heads, block.attn.norm_q, block.attn.norm_added_k, _heads_first)
        for block in network.transformer_blocks
    ]


def _text_first(block: nn.Module, heads: int, queries: nn.Module, keys: nn.Module, pick: Pick) -> Block:
    """A block whose result is (text, picture)."""
    return Block(block, heads, 1, (queries, pick), (keys, pick))


def _z_image_blocks(network: nn.Module) -> list[Block]:
    return [
        Block(
            block,
            network.n_heads,
            None,
            (
                block.attention.q_norm,
                lambda output, counts: _heads_last(output.narrow(1, counts.start, counts.picture), counts),
            ),
            (block.attention.k_norm, lambda output, counts: _heads_last(output[:, : counts.text], counts)),
        )
        for block in network.layers
    ]


def _heads_first(output: Tensor, _counts: TokenCounts) -> Tensor:
    return output.transpose(1, 2).flatten(2)  # of [B, H, N, D]


def _heads_last(output: Tensor, _counts: TokenCounts) -> Tensor:
    return output.flatten(2)  # of [B, N, H, D]

"""The blocks of ComfyUI's DiTs for training, in the layer map's order."""

from torch import Tensor, nn

from ....training.blocks import Block


def blocks_of(network: nn.Module) -> list[Block]:
    """The blocks of a DiT that `hosts.comfy.dit` knows."""
    return _joint_blocks(network) if hasattr(network, "joint_blocks") else _flux_blocks(network)


def _flux_blocks(network: nn.Module) -> list[Block]:
    """The blocks of Flux.1 and Chroma."""

    def flat(heads: Tensor) -> Tensor:  # [B, H, N, D]
        return heads.transpose(1, 2).flatten(2)

    def own(part: int):
        return lambda output, text: flat(output[part])

    found = [
        Block(block, block.num_heads, 0, (block.img_attn.norm, own(0)), (block.txt_attn.norm, own(1)))
        for block in network.double_blocks
    ]
    return found + [
        Block(
            block,
            block.num_heads,
            None,
            (block.norm, lambda output, text: flat(output[0][:, :, text:])),
            (block.norm, lambda output, text: flat(output[1][:, :, :text])),
        )
        for block in network.single_blocks
    ]


def _joint_blocks(network: nn.Module) -> list[Block]:
    """The blocks of SD3."""

    def flat(output: Tensor, text: int) -> Tensor:  # [B, N, H, D]
        return output.flatten(2)

    return [
        Block(block, network.num_heads, 1, (block.x_block.attn.ln_q, flat), (block.context_block.attn.ln_k, flat))
        for block in network.joint_blocks
    ]

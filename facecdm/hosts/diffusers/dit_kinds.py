"""The DiTs of diffusers: how each is called in training, and where its blocks are."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ...bases.base import Base
from ...bases.flux import FLUX
from ...bases.qwen_image import QWEN_IMAGE
from ...bases.sd35 import SD35_LARGE
from ...bases.z_image import Z_IMAGE, padded
from ...errors import FaceCDMError
from ...training.blocks import Block, Pick, TokenCounts
from ...training.rows import Prompt


@dataclass(frozen=True, eq=False)
class Call:
    """The arguments of one call.

    latents   [B, C, h, w], h and w even
    level     [B] times of the flow
    text      [B, T, context]
    prompt    the prompts that `text` is of, for its other values
    guidance  the guidance scale that a distilled model reads
    """

    latents: Tensor
    level: Tensor
    text: Tensor
    prompt: Prompt
    guidance: float

    @property
    def grid(self) -> tuple[int, int]:
        """(rows, columns) of the picture's tokens."""
        return self.latents.shape[-2] // 2, self.latents.shape[-1] // 2

    @property
    def count(self) -> int:
        """Number of the picture's tokens."""
        return math.prod(self.grid)

    @property
    def packed(self) -> Tensor:
        """The latents as tokens [B, rows × columns, 4 C]."""
        return F.pixel_unshuffle(self.latents, 2).flatten(2).transpose(1, 2)

    def unpacked(self, tokens: Tensor) -> Tensor:
        return F.pixel_shuffle(tokens.transpose(1, 2).unflatten(2, self.grid), 2)

    @property
    def pooled(self) -> Tensor:
        if self.prompt.pooled is None:
            raise FaceCDMError(
                "the data set has no pooled states of the prompts: prepare it with the folder of this base model"
            )
        return self.prompt.pooled.expand(len(self.latents), -1).to(self.text.dtype)

    @property
    def text_mask(self) -> Tensor | None:
        """[B, T] bool: the tokens of each prompt; None if the prompts have one length."""
        mask = self.prompt.mask
        return None if mask is None else mask.expand(len(self.latents), -1).to(self.latents.device)

    @property
    def mask(self) -> Tensor | None:
        """`text_mask` and all of the picture's tokens after it, [B, T + count]."""
        mask = self.text_mask
        return None if mask is None else F.pad(mask, (0, self.count), value=True)


@dataclass(frozen=True)
class Kind:
    """One class of transformers.

    base       an entry of its family, whose pictures have the family's sizes
    velocity   the transformer and a Call → the predicted velocity [B, C, h, w]
    blocks     the transformer → its blocks, in the layer map's order
    counts     numbers of text tokens and of the picture's tokens → TokenCounts
    distilled  see `training.denoiser.Denoiser`
    lora       what precedes a layer's path in a LoRA file
    """

    base: Base
    velocity: Callable[[nn.Module, Call], Tensor]
    blocks: Callable[[nn.Module], list[Block]]
    counts: Callable[[int, int], TokenCounts] = lambda text, picture: TokenCounts(text, picture, text)
    distilled: bool = False
    lora: str = "transformer."


def _flux(network: nn.Module, call: Call) -> Tensor:
    more = {"pooled_projections": call.pooled}
    if network.config.guidance_embeds:
        more["guidance"] = torch.full((len(call.latents),), call.guidance, device=call.latents.device)
    if call.mask is not None:
        more["joint_attention_kwargs"] = {"attention_mask": call.mask[:, None, None]}
    return _with_positions(network, call, more)


def _chroma(network: nn.Module, call: Call) -> Tensor:
    return _with_positions(network, call, {} if call.mask is None else {"attention_mask": call.mask})


def _with_positions(network: nn.Module, call: Call, more: dict) -> Tensor:
    (rows, columns), device = call.grid, call.latents.device
    ids = torch.zeros(rows, columns, 3, device=device)
    ids[..., 1] = torch.arange(rows, device=device)[:, None]
    ids[..., 2] = torch.arange(columns, device=device)
    (out,) = network(
        call.packed,
        call.text,
        timestep=call.level,
        img_ids=ids.flatten(0, 1),
        txt_ids=torch.zeros(call.text.shape[1], 3, device=device),
        return_dict=False,
        **more,
    )
    return call.unpacked(out)


def _sd3(network: nn.Module, call: Call) -> Tensor:
    call.prompt.check_one_length("SD3.5")
    (out,) = network(call.latents, call.text, call.pooled, 1000 * call.level, return_dict=False)
    return out


def _qwen_image(network: nn.Module, call: Call) -> Tensor:
    (out,) = network(
        call.packed,
        call.text,
        call.text_mask,
        call.level,
        img_shapes=[[(1, *call.grid)]] * len(call.latents),
        return_dict=False,
    )
    return call.unpacked(out)


def _z_image(network: nn.Module, call: Call) -> Tensor:
    """It reads the time from noise to picture, and predicts the velocity in that direction."""
    lengths = [call.text.shape[1]] if call.prompt.lengths is None else call.prompt.lengths.tolist()
    lengths *= len(call.text) // len(lengths)
    texts = [states[:length] for states, length in zip(call.text, lengths)]
    (out,) = network(list(call.latents.unsqueeze(2)), 1 - call.level, texts, return_dict=False)
    return -torch.stack(list(out)).squeeze(2)


def _heads_joined(output: Tensor, _counts: TokenCounts) -> Tensor:
    return output.flatten(2)  # of [B, N, H, D]


def _sd3_blocks(transformer: nn.Module) -> list[Block]:
    """SD3 Medium does not normalise queries and keys, so these are read where they are made: [B, N, C]."""

    def own(output: Tensor, _counts: TokenCounts) -> Tensor:
        return output if output.ndim == 3 else output.transpose(1, 2).flatten(2)  # of [B, H, N, D]

    return _double_blocks(transformer, own)


def _double_blocks(transformer: nn.Module, pick: Pick = _heads_joined) -> list[Block]:
    return [
        Block(
            block,
            transformer.config.num_attention_heads,
            1,
            (block.attn.norm_q or block.attn.to_q, pick),
            (block.attn.norm_added_k or block.attn.add_k_proj, pick),
        )
        for block in transformer.transformer_blocks
    ]


def _all_blocks(picture: int | None) -> Callable[[nn.Module], list[Block]]:
    """Double and single blocks; `picture` is that of the single ones."""
    return lambda transformer: (
        _double_blocks(transformer)
        + [
            Block(
                block,
                transformer.config.num_attention_heads,
                picture,
                (block.attn.norm_q, lambda output, counts: _heads_joined(output[:, counts.start :], counts)),
                (block.attn.norm_k, lambda output, counts: _heads_joined(output[:, : counts.text], counts)),
            )
            for block in transformer.single_transformer_blocks
        ]
    )


def _z_image_blocks(transformer: nn.Module) -> list[Block]:
    """Its sequences begin with the picture."""

    def text(output: Tensor, counts: TokenCounts) -> Tensor:
        return _heads_joined(output.narrow(1, padded(counts.picture), counts.text), counts)

    return [
        Block(
            block,
            transformer.config.n_heads,
            None,
            (block.attention.norm_q, lambda output, counts: _heads_joined(output[:, : counts.picture], counts)),
            (block.attention.norm_k, text),
        )
        for block in transformer.layers
    ]


KINDS = {
    "FluxTransformer2DModel": Kind(FLUX, _flux, _all_blocks(1), distilled=True),
    "ChromaTransformer2DModel": Kind(FLUX, _chroma, _all_blocks(None)),
    "SD3Transformer2DModel": Kind(SD35_LARGE, _sd3, _sd3_blocks),
    "QwenImageTransformer2DModel": Kind(QWEN_IMAGE, _qwen_image, _double_blocks),
    "ZImageTransformer2DModel": Kind(
        Z_IMAGE,
        _z_image,
        _z_image_blocks,
        lambda text, picture: TokenCounts(text, picture, 0),
        lora="diffusion_model.",  # ComfyUI 0.3.75 reads no other
    ),
}

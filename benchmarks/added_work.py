"""What an adapter adds to a step on Flux.1, measured without the base model's blocks.

The blocks take most of a step, and their timings vary by more than an adapter takes. Here they compute nothing, so that
what is left is the adapter's own work, embeddings and the last layer.
"""

import contextlib
from collections.abc import Callable, Iterator
from statistics import median, quantiles

import torch
from shared import in_turns
from torch import nn
from work import Work

TABLE = """| adapter | seconds added, median | 25 % – 75 % | ratio | GFLOP | MB moved | linear layers | host syncs |
|---|---|---|---|---|---|---|---|"""


@contextlib.contextmanager
def without_blocks(dit: nn.Module, tokens: int) -> Iterator[None]:
    """Let the blocks of ComfyUI's Flux only call the patches of their attention, on random queries and attention.

    tokens  number of tokens of text and picture
    """
    like = dict(dtype=dit.dtype, device=next(dit.parameters()).device)
    queries = torch.randn(1, dit.num_heads, tokens, dit.hidden_size // dit.num_heads, **like)
    attention = torch.randn(1, tokens, dit.hidden_size, **like)

    def forward(x=None, *, img=None, txt=None, transformer_options=None, **others):
        options = dict(transformer_options or {})
        if x is None:
            options["img_slice"] = [txt.shape[1], tokens]
        patches = options.get("patches", {})
        for patch in patches.get("attn1_patch", []):
            patch(queries, queries, queries, pe=None, attn_mask=None, extra_options=options)
        for patch in patches.get("attn1_output_patch", []):
            patch(attention, options)
        return (img, txt) if x is None else x

    blocks = {*dit.double_blocks, *dit.single_blocks}
    for block in blocks:
        block.forward = forward
    try:
        yield
    finally:
        for block in blocks:
            del block.forward


def added_rows(variants: dict, measure: Callable, rounds: int, whole: float) -> list[str]:
    """Rows of TABLE for each variant but the first, which is the plain model.

    measure  (model, counter or None) → (seconds of its steps, peak bytes)
    whole    seconds of a step of the plain model with its blocks
    """
    seconds, _ = in_turns(variants, lambda model: measure(model, None), rounds)
    work = {name: Work() for name in variants}
    for name, model in variants.items():
        measure(model, work[name])
    plain, *others = variants
    return [_row(name, seconds[name], median(seconds[plain]), whole, work[name], work[plain]) for name in others]


def _row(name: str, seconds: list[float], plain: float, whole: float, work: Work, none: Work) -> str:
    low, middle, high = (value - plain for value in quantiles(seconds, n=4))
    return (
        f"| {name} | {middle:.3f} | {low:.3f} – {high:.3f} | {1 + middle / whole:.4f} "
        f"| {(work.flops - none.flops) / 1e9:.1f} | {(work.moved - none.moved) / 1e6:.0f} "
        f"| {work.linear - none.linear} | {work.syncs - none.syncs} |"
    )

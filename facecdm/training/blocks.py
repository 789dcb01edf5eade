"""The blocks of a DiT in training: hooks on a host's modules add the cells and read the base model's queries."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ..adapter.attention import LayerStream, attend
from ..adapter.cells import add_residuals
from .denoiser import Watch


@dataclass(frozen=True)
class TokenCounts:
    """The tokens of one call.

    text     number of text tokens
    picture  number of the picture's tokens
    start    index of the picture's first token in a sequence that holds text and picture
    """

    text: int
    picture: int
    start: int


Pick = Callable[[object, TokenCounts], Tensor]  # a module's result → [B, n, C]


@dataclass(frozen=True, eq=False)
class Block:
    """One block, as a host finds it.

    module   the block; its result holds the hidden states
    heads    its attention heads
    picture  index of the picture's hidden states in the result; None: the result is one sequence of text and picture
    queries  the module that normalises the queries, and how the picture's are picked from its result
    keys     the same for the keys of the text
    """

    module: nn.Module
    heads: int
    picture: int | None
    queries: tuple[nn.Module, Pick]
    keys: tuple[nn.Module, Pick]


@contextmanager
def hooked(
    blocks: list[Block],
    counts: TokenCounts,
    people: list[list[LayerStream]] | None,
    watch: Watch | None,
    repeat: bool,
) -> Iterator[None]:
    """Run people's cells after the blocks, and observe the blocks, within the `with` block.

    repeat  whether the backward pass computes the cells again instead of keeping their activations

    The hooks are gone when the backward pass repeats a block, so nothing is added or observed twice. Cells and `watch`
    get plain tensors, whatever a host computes with: a backward pass that begins at a subclass of Tensor repeats blocks
    without that subclass.
    """
    with ExitStack() as stack:
        for index, block in enumerate(blocks):
            streams = people[index] if people is not None else []
            if streams:
                hook = partial(_add_cells, block, counts, streams, repeat)
                stack.callback(block.module.register_forward_hook(hook).remove)
            if watch is not None:
                observer = _Observer(index, counts, watch)
                for part, (module, pick) in (("q", block.queries), ("k", block.keys)):
                    stack.callback(module.register_forward_hook(partial(observer.see, part, pick)).remove)
        yield


def _add_cells(block: Block, counts: TokenCounts, streams: list[LayerStream], repeat: bool, _module, _args, output):
    """Forward hook: the block's result with the cells' residuals."""
    found = output if block.picture is None else output[block.picture]
    hidden = found.as_subclass(Tensor)
    start = counts.start if block.picture is None else 0
    # An observed residual must not be observed twice.
    repeat = repeat and torch.is_grad_enabled() and all(stream.watch is None for stream in streams)
    arguments = (hidden, start, counts.picture, streams, block.heads, attend)
    if repeat:
        added = checkpoint(add_residuals, *arguments, use_reentrant=False, preserve_rng_state=False)
    else:
        added = add_residuals(*arguments)
    added = added.as_subclass(type(found))
    if block.picture is None:
        return added
    return (*output[: block.picture], added, *output[block.picture + 1 :])


class _Observer:
    """Calls `watch` when both the queries and the text's keys of a block are known."""

    def __init__(self, index: int, counts: TokenCounts, watch: Watch):
        self.index, self.counts, self.watch = index, counts, watch
        self._seen: dict[str, Tensor] = {}

    def see(self, part: str, pick: Pick, _module, _args, output) -> None:
        self._seen[part] = pick(output, self.counts).as_subclass(Tensor)
        if len(self._seen) == 2:
            self.watch(self.index, self._seen["q"], self._seen["k"])

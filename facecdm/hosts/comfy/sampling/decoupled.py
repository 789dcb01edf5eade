"""Decoupled attention in the blocks of a DiT, through ComfyUI's patches on a block's attention (0.29 or newer)."""

from collections.abc import Callable
from dataclasses import dataclass, field

from torch import Tensor, nn

from ....adapter.attention import LayerStream, triplet_attention
from ....adapter.stream_module import BESIDE_BLOCK, IN_ATTENTION
from ....bases.layers import LayerMap
from ....errors import UnsupportedModel
from ..dit import block_keys
from .attend import attend_with

PLACES = (IN_ATTENTION, BESIDE_BLOCK)
VERSION = (0, 29)  # the first ComfyUI with `attn1_patch` and `attn1_output_patch` in Flux' blocks

UNREAD = (
    "another pack replaces the base model's forward pass and leaves out the patches on its attention, so the "
    "IP-Adapter of XLabs or InstantX has no effect. Bypass that pack's node, or use PuLID-FLUX or WithAnyone."
)

BlockKey = tuple[str, int]  # as in `block_keys`


def check_version(adapter: nn.Module) -> None:
    """Raises UnsupportedModel if `adapter` needs a newer ComfyUI."""
    from comfyui_version import __version__

    if not any(stream.place in PLACES for stream in adapter.streams.values()):
        return
    if tuple(int(number) for number in __version__.split(".")[:2]) < VERSION:
        names = " and ".join(part.family.name for part in adapter.config.parts.values())
        raise UnsupportedModel(
            f"{names} needs ComfyUI {'.'.join(map(str, VERSION))} or newer, and this is {__version__}: update ComfyUI, "
            "or use PuLID-FLUX or WithAnyone."
        )


def with_decoupled(
    options: dict,
    streams: list[list[LayerStream]],
    layer_map: LayerMap,
    count: int,
    blocks: dict,
    warn: Callable[[str], None],
) -> dict:
    """The transformer_options of a call with the patches for its decoupled streams.

    streams  the streams of each block, in the layer map's order
    count    number of the picture's tokens
    blocks   the call's replacements of blocks; a block with streams after it gets a new one here, as does the first
    warn     takes the sentence about a forward pass without these patches
    """
    keys = block_keys(layer_map)
    own = {key: [stream for stream in some if stream.place in PLACES] for key, some in zip(keys, streams)}
    own = {key: some for key, some in own.items() if some}
    if not own:
        return options
    patches = options.get("patches", {})
    outputs = patches.get("attn1_output_patch", [])
    inside = {key: kept for key, some in own.items() if (kept := [s for s in some if s.place == IN_ATTENTION])}
    writable = not outputs and "optimized_attention_override" not in options
    call = DecoupledCall(set(own), inside, layer_map.layers[0].heads, count, writable, warn)
    for number, (key, some) in enumerate(own.items()):
        after = [stream for stream in some if stream.place == BESIDE_BLOCK]
        if after or number == 0:
            blocks[key] = DecoupledPatch(key, after, call, blocks.get(key))
    added = {"attn1_patch": [*patches.get("attn1_patch", []), call.keep_queries]}
    if inside:
        added["attn1_output_patch"] = [*outputs, call.add_inside]
    return {**options, "patches": {**patches, **added}}


@dataclass(eq=False)
class DecoupledCall:
    """One call of the model.

    read      the blocks whose queries are read
    inside    the streams that are added to a block's attention, by block
    heads     of the base model
    count     number of the picture's tokens; those of reference latents follow them
    writable  whether nobody else holds the attention's result
    warn      takes the sentence about a forward pass without these patches
    queries   [B, count, C] of one block, by the block
    """

    read: set[BlockKey]
    inside: dict[BlockKey, list[LayerStream]]
    heads: int
    count: int
    writable: bool
    warn: Callable[[str], None]
    queries: dict[BlockKey, Tensor] = field(default_factory=dict)

    def keep_queries(self, q: Tensor, k: Tensor, v: Tensor, extra_options: dict, **others) -> dict:
        """An `attn1_patch`: keep the queries q [B, heads, N, C/heads] of the picture's tokens."""
        key = _block_of(extra_options)
        if key in self.read:
            self.queries = {key: self._rows(q, 2, extra_options).transpose(1, 2).flatten(2)}
        return {}

    def add_inside(self, attention: Tensor, extra_options: dict) -> Tensor:
        """An `attn1_output_patch`: add the streams to the attention [B, N, C] of the picture's tokens."""
        key = _block_of(extra_options)
        if key in self.inside:
            attention = attention if self.writable else attention.clone()
            self.add(key, self._rows(attention, 1, extra_options), self.inside[key], extra_options)
        return attention

    def add(self, key: BlockKey, rows: Tensor, streams: list[LayerStream], options: dict) -> None:
        """Add streams to the rows [B, count, C] of the picture's tokens, in place."""
        result = triplet_attention(self.queries[key], rows, streams, self.heads, attend_with(options))
        if result is not rows:
            rows.copy_(result)

    def _rows(self, x: Tensor, axis: int, extra_options: dict) -> Tensor:
        return x.narrow(axis, extra_options["img_slice"][0], self.count)


@dataclass(frozen=True, eq=False)
class DecoupledPatch:
    """A replacement of a double block: the block, or an earlier replacement of it, then the streams after it.

    If the earlier replacement does not compute the block's attention, as one that reuses an earlier step's result, the
    streams are in that result.
    """

    key: BlockKey
    streams: list[LayerStream]
    call: DecoupledCall
    previous: Callable | None

    def __call__(self, args: dict, extra_options: dict) -> dict:
        out = self.previous(args, extra_options) if self.previous else extra_options["original_block"](args)
        if self.key not in self.call.queries:
            if self.previous is None:
                self.call.warn(UNREAD)
            return out
        if not self.streams:
            return out
        # Another pack may keep the tensor that its code returned.
        hidden = out["img"].clone() if self.previous else out["img"]
        self.call.add(self.key, hidden[:, : self.call.count], self.streams, args["transformer_options"])
        return {**out, "img": hidden}


def _block_of(extra_options: dict) -> BlockKey:
    return f"{extra_options['block_type']}_block", extra_options["block_index"]

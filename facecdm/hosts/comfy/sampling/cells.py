"""Residual cells after the blocks of a DiT, through ComfyUI's block replacement.

Z-Image has no block replacement. There, the cells are in a patch that ComfyUI calls after each block.
"""

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor, nn

from ....adapter.attention import LayerStream
from ....adapter.cells import add_residuals
from ....adapter.stream_module import AFTER_BLOCK
from ....bases.grid import token_grid
from ..dit import block_keys, is_z_image
from ..latents import without_frames
from .attend import attend_with
from .decoupled import with_decoupled
from .joint import add_joint
from .run import run_of
from .wrappers import options_of


def apply_with_cells(executor: Callable, x, t, c_concat=None, c_crossattn=None, control=None, *args, **kwargs):
    """APPLY_MODEL wrapper: put the cells that act in this call after their blocks.

    This is done when the call begins, so that the cells wrap the patches of other packs, whether these were added
    before or after Apply FaceCDM.
    """
    options, rest = options_of(args, kwargs)
    run = run_of(options)
    if run is not None:
        options = _with_cells(options, run, x, executor.class_obj.diffusion_model)
    return executor(x, t, c_concat, c_crossattn, control, options, *rest, **kwargs)


def _with_cells(options: dict, run, x: Tensor, dit: nn.Module) -> dict:
    x = without_frames(x)
    grid, layer_map = token_grid(*x.shape[-2:], dit.patch_size), run.layer_map
    streams = [run.streams(index, len(x), grid, x.device, options) for index in range(len(layer_map.layers))]
    if not any(streams):
        return options
    if is_z_image(dit):
        return _with_patch(options, ZImagePatch(streams, layer_map.layers[0].heads, grid[0] * grid[1]))
    replaced = options.get("patches_replace", {})
    blocks = dict(replaced.get("dit", {}))
    tokens = ImageTokens(grid[0] * grid[1])
    options = with_decoupled(options, streams, layer_map, tokens.count, blocks, run.warn)
    add_joint(blocks, streams, layer_map, tokens.count, dit)
    streams = [[stream for stream in own if stream.place == AFTER_BLOCK] for own in streams]
    text_is_needed = any(streams)
    for index, (key, layer) in enumerate(zip(block_keys(layer_map), layer_map.layers)):
        if streams[index] or text_is_needed and index == 0:  # the first block tells the length of the text
            blocks[key] = CellPatch(streams[index], layer.heads, layer.part == "single", tokens, blocks.get(key))
    return {**options, "patches_replace": {**replaced, "dit": blocks}}


def _with_patch(options: dict, patch: "ZImagePatch") -> dict:
    """The options with a patch that runs after those of other packs."""
    patches = options.get("patches", {})
    return {**options, "patches": {**patches, "double_block": [*patches.get("double_block", []), patch]}}


@dataclass(frozen=True, eq=False)
class ZImagePatch:
    """A `double_block` patch, which ComfyUI calls after each block of Z-Image: the cells.

    streams  the streams of each block
    heads    attention heads of the base model
    count    number of the picture's tokens; padding follows them
    """

    streams: list[list[LayerStream]]
    heads: int
    count: int

    def __call__(self, args: dict) -> dict:
        streams = self.streams[args["block_index"]]
        if not streams:
            return {}
        attend = attend_with(args["transformer_options"])
        return {"img": add_residuals(args["img"], 0, self.count, streams, self.heads, attend)}


@dataclass
class ImageTokens:
    """The picture's tokens in the sequence of one call. Tokens of reference latents, which follow them, are left out.

    count  number of the picture's tokens
    text   number of text tokens, which stand before them in single blocks; known after the first block
    """

    count: int
    text: int = 0


@dataclass(frozen=True, eq=False)
class CellPatch:
    """A replacement of one block: the block, or an earlier replacement of it, then the cells.

    streams     the streams of this block
    heads       attention heads of the base model
    after_text  whether the hidden states begin with the text
    tokens      shared by all blocks of the call
    previous    the earlier replacement, if any
    """

    streams: list[LayerStream]
    heads: int
    after_text: bool
    tokens: ImageTokens
    previous: Callable | None

    def __call__(self, args: dict, extra_options: dict) -> dict:
        # Packs that bring an older forward pass of their own, as TeaCache does, leave the options out.
        attend = attend_with(args.get("transformer_options", {}))
        if "txt" in args:
            self.tokens.text = args["txt"].shape[1]
        out = self.previous(args, extra_options) if self.previous else extra_options["original_block"](args)
        if self.streams:
            # Another pack may keep the tensor that its code returned.
            hidden = out["img"].clone() if self.previous else out["img"]
            start = self.tokens.text if self.after_text else 0
            out = {**out, "img": add_residuals(hidden, start, self.tokens.count, self.streams, self.heads, attend)}
        return out

"""The `attn2` replacement on one cross-attention layer of a ComfyUI MODEL."""

import copy
from collections.abc import Callable

from torch import Tensor

from ....adapter.attention import triplet_attention
from .run import run_of


class TripletPatch:
    """Add the streams of every person to the text's attention, or to an earlier patch's result for it.

    index     the layer's index in the layer map
    previous  the patch that was on this layer before, if any
    added     (callback, options) of other packs

    People and their settings are in the model's options; a patch holds none of their tensors. Other packs `add` to a
    patch, so every clone of a MODEL needs its own (`own_patches`): ComfyUI 0.3 copies it with the options, later
    versions share it.
    """

    def __init__(self, index: int, previous: Callable | None = None, added: tuple = ()):
        self.index, self.previous, self.added = index, previous, added

    def __deepcopy__(self, memo: dict) -> "TripletPatch":
        return TripletPatch(self.index, copy.deepcopy(self.previous, memo), self.added)

    def add(self, callback: Callable, **options) -> None:
        """Add `callback(out, q, k, v, extra_options, **options)` to the result, as IPAdapter_plus' patches do.

        If its options have `sigma_end` and `sigma_start`, it is called only while σ is between them.
        """
        self.added = (*self.added, (callback, options))

    def __call__(self, q: Tensor, k: Tensor, v: Tensor, extra_options: dict) -> Tensor:
        from comfy.ldm.modules.attention import optimized_attention

        def attend(q, k, v, heads):
            return optimized_attention(
                q, k, v, heads, attn_precision=extra_options.get("attn_precision"), transformer_options=extra_options
            )

        heads = extra_options["n_heads"]
        out = self.previous(q, k, v, extra_options) if self.previous else attend(q, k, v, heads)
        run = run_of(extra_options)
        size = tuple(extra_options["activations_shape"][-2:])
        streams = run.streams(self.index, len(q), size, q.device, extra_options) if run is not None else []
        if streams:
            # Another pack may keep the tensor that its code returned.
            own = self.previous is None and "optimized_attention_override" not in extra_options
            out = triplet_attention(q, out, streams, heads, attend, writable=own)
        for callback, options in self.added:
            if _within(extra_options, options):
                out = out + callback(out, q, k, v, extra_options, **options)
        return out


def own_patches(model, clone) -> None:
    """ON_CLONE callback of ComfyUI's ModelPatcher: give `clone` copies of the patches that it shares with `model`."""
    options = clone.model_options["transformer_options"] = dict(clone.model_options["transformer_options"])
    replace = options["patches_replace"] = dict(options["patches_replace"])
    copies: dict[int, TripletPatch] = {}  # a patch may be under two keys
    replace["attn2"] = {
        key: copies.setdefault(id(patch), copy.copy(patch)) if isinstance(patch, TripletPatch) else patch
        for key, patch in replace["attn2"].items()
    }


def _within(extra_options: dict, options: dict) -> bool:
    if "sigma_start" not in options:
        return True
    sigma = extra_options["sigmas"].max().item()
    return options.get("sigma_end", 0.0) <= sigma <= options["sigma_start"]

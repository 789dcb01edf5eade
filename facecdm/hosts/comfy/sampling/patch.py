"""What sits on one cross-attention layer of a ComfyUI model."""

import copy
from collections.abc import Callable

from torch import Tensor

from ....adapter.attention import triplet_attention
from .run import run_of


class TripletPatch:
    """An `attn2` replacement for layer `index`: the text's attention, or that of whoever sat here before, and ours.

    It holds no tensor: who is shown, and how, stands in the model's options. Other packs may `add` to it.
    """

    def __init__(self, index: int, previous: Callable | None = None, added: tuple = ()):
        self.index, self.previous, self.added = index, previous, added

    def __deepcopy__(self, memo: dict) -> "TripletPatch":
        return TripletPatch(
            self.index,
            copy.deepcopy(self.previous, memo),
            tuple((callback, dict(options)) for callback, options in self.added),
        )

    def add(self, callback: Callable, **options) -> None:
        """Sum `callback(out, q, k, v, extra_options, **options)` to the result, as IPAdapter_plus' patches do.

        It is called while σ is between the `sigma_end` and `sigma_start` of its options, where it has them.
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
        streams = run.streams(self.index, q, extra_options) if run is not None else []
        if streams:
            out = triplet_attention(q, out, streams, heads, attend)
        for callback, options in self.added:
            if _within(extra_options, options):
                out = out + callback(out, q, k, v, extra_options, **options)
        return out


def _within(extra_options: dict, options: dict) -> bool:
    if "sigma_start" not in options:
        return True
    sigma = extra_options["sigmas"].max().item()
    return options.get("sigma_end", 0.0) <= sigma <= options["sigma_start"]

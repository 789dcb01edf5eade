"""ComfyUI's attention for the streams of an adapter."""

from torch import Tensor

from ....adapter.attention import Attend


def attend_with(options: dict) -> Attend:
    """The attention of a call with these transformer_options, which may name a function of another pack."""
    from comfy.ldm.modules.attention import optimized_attention

    def attend(q: Tensor, k: Tensor, v: Tensor, heads: int) -> Tensor:
        return optimized_attention(q, k, v, heads, transformer_options=options)

    return attend

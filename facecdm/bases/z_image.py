"""Z-Image and Z-Image-Turbo.

diffusers, ZImageTransformer2DModel and the scheduler of Tongyi-MAI/Z-Image-Turbo. After two refining layers of its own
for the picture and for the text, all blocks act on both as one sequence, with heads of 128 features. The prompt is the
last layer but one of Qwen3 4B, at most 512 tokens, which the model pads to a multiple of 32. Latents are Flux.1's, of
16 channels. Times are shifted by a factor of 3, whatever the picture's size.
"""

import math

from .base import Base
from .layers import LayerMap
from .noise import Flow

PAD = 32  # the number of text tokens, and that of image tokens, is padded to a multiple of it

Z_IMAGE = Base(
    "Z-Image",
    LayerMap.of_runs(2560, ("single", 3840, 30, 30)),
    tuple((number, 1) for number in range(30)),
    resolution=1024,
    step=16,
    patch=2,
    noise=Flow(shifts=(math.log(3),) * 2),
)


def padded(tokens: int) -> int:
    """The number of tokens with those that the model appends to them."""
    return -(-tokens // PAD) * PAD

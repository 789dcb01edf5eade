"""Qwen-Image, and its editing and layered models, whose blocks have the same sizes.

diffusers, QwenImageTransformer2DModel and the scheduler of Qwen/Qwen-Image. All blocks are joint ones, with heads of
128 features. The prompt is the last layer of Qwen2.5-VL 7B, without the template's first 34 tokens and without padding,
at most 1,024 tokens. Latents have 16 channels, each with a mean and a deviation of its own, and an axis of frames,
whose length is 1 for a picture. ComfyUI shifts times by 1.15, whatever the picture's size. For an odd number of rows or
columns of tokens, ComfyUI and diffusers give them different positions, so pictures have even ones.
"""

from .base import Base
from .layers import LayerMap
from .noise import Flow

QWEN_IMAGE = Base(
    "Qwen-Image",
    LayerMap.of_runs(3584, ("double", 3072, 24, 60)),
    tuple((number, 1) for number in range(60)),
    resolution=1328,
    step=32,
    patch=2,
    noise=Flow(tokens=(256, 8192), shifts=(0.5, 0.9)),
)

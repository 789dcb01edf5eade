"""What a CLIP_VISION of ComfyUI sees: pictures, and no picture at all."""

from dataclasses import dataclass

import torch
from torch import Tensor

from ...errors import FaceCDMError

AT_ONCE = 16  # pictures, so that a video does not fill the memory


@dataclass(frozen=True, eq=False)
class VisionOutput:
    """Pooled embeddings [R, C] and penultimate hidden states [R, N, W], float32 on the CPU."""

    pooled: Tensor
    states: Tensor

    @classmethod
    def of(cls, output) -> "VisionOutput":
        """From a CLIP_VISION_OUTPUT. Raises FaceCDMError where it holds NaN."""
        parts = [getattr(output, name, None) for name in ("image_embeds", "penultimate_hidden_states")]
        parts = [torch.zeros(1, 0) if part is None else part.float().cpu() for part in parts]
        if not all(torch.isfinite(part).all() for part in parts):
            raise FaceCDMError("the encoded image holds NaN: load the CLIP vision model in another precision")
        return cls(*parts)


def look(clip_vision, pictures: Tensor) -> VisionOutput:
    """IMAGE [B, H, W, 3] as the tower sees it: scaled and cut to its square."""
    seen = [VisionOutput.of(clip_vision.encode_image(some)) for some in pictures.split(AT_ONCE)]
    return VisionOutput(torch.cat([one.pooled for one in seen]), torch.cat([one.states for one in seen]))


def encode_empty_image(clip_vision) -> VisionOutput:
    """One picture whose *normalised* pixels are zero, a mean grey: what the published adapters were trained to take
    for no picture (tencent-ailab/IP-Adapter; diffusers' `encode_image`).
    """
    import comfy.model_management

    comfy.model_management.load_model_gpu(clip_vision.patcher)
    side = clip_vision.image_size
    with torch.no_grad():
        out = clip_vision.model(
            pixel_values=torch.zeros(1, 3, side, side, device=clip_vision.load_device), intermediate_output=-2
        )
    return VisionOutput(out[2].float().cpu(), out[1].float().cpu())

"""ComfyUI's CLIP vision models as vision towers."""

from dataclasses import dataclass

import torch
from torch import Tensor

from ...errors import FaceCDMError
from ...formats.vision import FaceTower, VisionOutput

BATCH = 16  # pictures encoded at once; a whole video could fill the memory


@dataclass(frozen=True, eq=False)
class ComfyVision:
    """A VisionTower (formats.vision) around a CLIP_VISION."""

    clip_vision: object

    def encode(self, pictures: Tensor) -> VisionOutput:
        """Encode pictures as the towers' image processors in transformers prepare them: for CLIP the largest square in
        the middle of a picture, for SigLIP the whole picture resized to a square.

        Raises FaceCDMError for pictures that are not [B, H, W, 1, 3 or 4].
        """
        if pictures.ndim != 4 or pictures.shape[-1] not in (1, 3, 4):
            size = " × ".join(map(str, pictures.shape))
            raise FaceCDMError(f"a picture for clip_vision has the size {size}, not batch × height × width × 3")
        encode, crop = self.clip_vision.encode_image, not _is_siglip(self.clip_vision)
        return VisionOutput.joined([vision_output(encode(some, crop=crop)) for some in pictures.float().split(BATCH)])

    def encode_empty(self) -> VisionOutput:
        """As tencent-ailab/IP-Adapter and diffusers' `encode_image` do it."""
        import comfy.model_management

        clip_vision = self.clip_vision
        comfy.model_management.load_model_gpu(clip_vision.patcher)
        pixels = torch.zeros(1, 3, clip_vision.image_size, clip_vision.image_size, device=clip_vision.load_device)
        with torch.no_grad():
            out = clip_vision.model(pixel_values=pixels, intermediate_output=-2)
        return VisionOutput(out[2].float().cpu(), out[1].float().cpu())


def _is_siglip(clip_vision) -> bool:
    """Whether a tower is SigLIP: of those in ComfyUI with a `vision_model`, the only one without a class token."""
    embeddings = getattr(getattr(getattr(clip_vision, "model", None), "vision_model", None), "embeddings", None)
    return embeddings is not None and getattr(embeddings, "class_embedding", None) is None


class ComfyFaceStates(ComfyVision):
    """A FaceStatesTower (formats.vision) around a CLIP_VISION with CurricularFace (hosts/comfy/curricular_face.py)."""

    def face_states(self, crops: Tensor) -> tuple[Tensor, Tensor]:
        return self.clip_vision.face_states(crops)


def tower_of(clip_vision) -> ComfyVision | FaceTower | None:
    """The tower for the value of a clip_vision input."""
    if clip_vision is None or isinstance(clip_vision, FaceTower):
        return clip_vision
    return ComfyFaceStates(clip_vision) if hasattr(clip_vision, "face_states") else ComfyVision(clip_vision)


def vision_output(output) -> VisionOutput | None:
    """The VisionOutput of a CLIP_VISION_OUTPUT; None for None. Raises FaceCDMError for NaN."""
    if output is None:
        return None
    names = ("image_embeds", "penultimate_hidden_states", "last_hidden_state")
    parts = [getattr(output, name, None) for name in names]
    parts = [torch.zeros(1, 0) if part is None else part.float().cpu() for part in parts]
    if not all(torch.isfinite(part).all() for part in parts):
        raise FaceCDMError("the encoded image holds NaN: load the CLIP vision model in another precision")
    return VisionOutput(*parts)

"""A loader for a SigLIP tower that core's Load CLIP Vision does not recognise, and the pooling that core leaves out.

google/siglip-base-patch16-256-i18n: 12 layers of 768 features for pictures of 256 × 256.
"""

from pathlib import Path

from torch import Tensor

from ...formats.siglip import PoolingHead

_CONFIG = Path(__file__).with_name("siglip_base_256.json")
_POSITIONS = "vision_model.embeddings.position_embedding.weight"


def load_siglip(state: dict[str, Tensor]):
    """A CLIP_VISION from a file's tensors, which may include the text tower's; None for another model."""
    from comfy.clip_vision import ClipVisionModel

    if _POSITIONS not in state or state[_POSITIONS].shape != (256, 768):
        return None
    tower = ClipVisionModel(str(_CONFIG))
    tower.load_sd(state)
    return tower


class PooledSiglip:
    """A CLIP_VISION whose `image_embeds` are the pooled embeddings [R, W]; core's are the last states."""

    def __init__(self, clip_vision, head: PoolingHead):
        self._clip_vision, self._head = clip_vision, head

    def encode_image(self, image: Tensor, crop: bool = True):
        output = self._clip_vision.encode_image(image, crop)
        output["image_embeds"] = self._head(output.last_hidden_state.float().cpu())
        return output

    def __getattr__(self, name: str):
        return getattr(self._clip_vision, name)

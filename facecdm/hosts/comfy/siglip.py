"""SigLIP towers as CLIP_VISION: one that core does not recognise, and the pooling that core leaves out."""

from pathlib import Path

from torch import Tensor

from ...formats.encoders import SIGLIP_SO400M, Encoder
from ...formats.siglip import PoolingHead, is_tower

# google/siglip-base-patch16-256-i18n: 12 layers of 768 features for pictures of 256 × 256.
_CONFIG = Path(__file__).with_name("siglip_base_256.json")


def load_siglip(state: dict[str, Tensor], encoder: Encoder):
    """A CLIP_VISION from a file's tensors, which may include the text tower's; None for another model.

    Raises KeyError, RuntimeError if SigLIP so400m's pooling is missing or does not fit.
    """
    from comfy.clip_vision import ClipVisionModel, load_clipvision_from_sd

    tower = load_clipvision_from_sd(dict(state))  # core removes tensors from its argument
    if tower is None and is_tower(state, encoder):
        tower = ClipVisionModel(str(_CONFIG))
        tower.load_sd(state)
    return PooledSiglip(tower, PoolingHead.of(state)) if tower and encoder == SIGLIP_SO400M else tower


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

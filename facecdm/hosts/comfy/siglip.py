"""SigLIP towers that core's Load CLIP Vision does not recognise, in core's own class.

google/siglip-base-patch16-256-i18n: 12 layers of 768 features for pictures of 256 × 256.
"""

from pathlib import Path

from torch import Tensor

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

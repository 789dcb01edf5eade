"""A CLIP_VISION with CurricularFace beside it, whose weights ComfyUI loads and offloads."""

import comfy.model_management as management
import torch
from comfy.model_patcher import ModelPatcher
from torch import Tensor

from ...errors import FaceCDMError
from ...faces.curricular_face import CurricularFace, face_states
from .vision import BATCH


class VisionWithFaceStates:
    """UniPortrait's towers: the attributes of `clip_vision`, and `face_states`."""

    def __init__(self, clip_vision, network: CurricularFace):
        self._clip_vision = clip_vision
        self._device = management.text_encoder_device()
        self._patcher = ModelPatcher(network, self._device, management.text_encoder_offload_device())

    def face_states(self, crops: Tensor) -> tuple[Tensor, Tensor]:
        """As formats.vision.FaceStatesTower. Raises FaceCDMError for NaN."""
        management.load_model_gpu(self._patcher)
        with torch.no_grad():
            found = [face_states(self._patcher.model, some.float().to(self._device)) for some in crops.split(BATCH)]
        identity, structure = (torch.cat([part.float().cpu() for part in parts]) for parts in zip(*found))
        if not torch.isfinite(identity).all():
            raise FaceCDMError("CurricularFace gave NaN: its file is damaged. Get it again.")
        return identity, structure

    def __getattr__(self, name: str):
        return getattr(self._clip_vision, name)

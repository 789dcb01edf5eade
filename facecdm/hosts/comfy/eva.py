"""PuLID's vision tower as a CLIP_VISION whose weights ComfyUI loads and offloads."""

import comfy.model_management as management
import torch
from comfy.model_patcher import ModelPatcher
from torch import Tensor

from ...errors import FaceCDMError
from ...faces.value import Faces
from ...formats.bisenet import BiSeNet
from ...formats.eva import EvaTower
from ...formats.pulid_face import oval, parsed, prepared, upright_faces
from .vision import BATCH


class EvaVision:
    """The output of Load EVA CLIP, a FaceTower (formats.vision).

    `parser` finds the background of a face; without one, all but an oval around the face is background.
    """

    def __init__(self, tower: EvaTower, parser: BiSeNet | None = None):
        self.load_device = management.text_encoder_device()
        self.dtype = management.text_encoder_dtype(self.load_device)
        self.model = tower.to(self.dtype)
        self.patcher = ModelPatcher(self.model, self.load_device, management.text_encoder_offload_device())
        self.image_size = tower.sizes.image
        self._background = parsed(parser) if parser else oval

    def encode_faces(self, faces: Faces, pictures: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        crops = prepared(upright_faces(faces, pictures), self._background, self.image_size)
        management.load_model_gpu(self.patcher)
        with torch.no_grad():
            outputs = [self.model(some.to(self.load_device, self.dtype)) for some in crops.split(BATCH)]
        embedding = torch.cat([output[0].float().cpu() for output in outputs])
        if not torch.isfinite(embedding).all():
            raise FaceCDMError(
                "EVA-CLIP gave NaN. Its file is damaged (get it again), or this precision is too low for it: start "
                "ComfyUI with --fp32-text-enc."
            )
        states = zip(*(output[1] for output in outputs))
        return embedding, tuple(torch.cat([state.float().cpu() for state in depth]) for depth in states)

    def encode_image(self, image: Tensor, crop: bool = True):
        raise FaceCDMError(
            "This is PuLID's vision tower. Connect it to clip_vision of Apply FaceCDM with a PuLID adapter; for "
            "everything else use core's Load CLIP Vision."
        )

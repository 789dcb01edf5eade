"""PuLID's image tower in ComfyUI: a CLIP_VISION whose weights ComfyUI keeps where they are wanted."""

import comfy.model_management as management
import torch
from comfy.model_patcher import ModelPatcher
from torch import Tensor

from ...errors import FaceCDMError
from ...faces.value import Faces
from ...formats.bisenet import BiSeNet
from ...formats.eva import EvaTower
from ...formats.pulid_face import oval, parsed, prepared, upright_faces
from .vision import AT_ONCE


class EvaVision:
    """What Load EVA CLIP gives. `parser` finds a face's background; without one, an oval around the face stands in."""

    def __init__(self, tower: EvaTower, parser: BiSeNet | None = None):
        self.load_device = management.text_encoder_device()
        self.dtype = management.text_encoder_dtype(self.load_device)
        self.model = tower.to(self.dtype)
        self.patcher = ModelPatcher(self.model, self.load_device, management.text_encoder_offload_device())
        self.image_size = tower.sizes.image
        self._background = parsed(parser) if parser else oval

    def look_at(self, faces: Faces, pictures: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Embeddings [faces, 768] and five states [faces, 577, 1024] of the faces in `pictures` [B, H, W, 3], float32
        on the CPU. Raises FaceCDMError where these are not the pictures that the faces were found in.
        """
        seen = prepared(upright_faces(faces, pictures), self._background, self.image_size)
        management.load_model_gpu(self.patcher)
        with torch.no_grad():
            looks = [self.model(some.to(self.load_device, self.dtype)) for some in seen.split(AT_ONCE)]
        embedding = torch.cat([look[0].float().cpu() for look in looks])
        if not torch.isfinite(embedding).all():
            raise FaceCDMError(
                "EVA-CLIP gave NaN. Its file is damaged (get it again), or it computes in a precision "
                "that it does not stand: start ComfyUI with --fp32-text-enc."
            )
        return embedding, tuple(
            torch.cat([state.float().cpu() for state in depth]) for depth in zip(*(look[1] for look in looks))
        )

    def encode_image(self, image: Tensor, crop: bool = True):
        raise FaceCDMError(
            "This is the tower that PuLID looks at faces with. Connect it to clip_vision of Apply "
            "FaceCDM with a PuLID adapter; for everything else take core's Load CLIP Vision."
        )

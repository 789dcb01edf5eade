"""ComfyUI's CLIP and CLIP_VISION as the two towers of one CLIP (evaluation/clip_score.py)."""

import numpy as np
import torch
from torch import Tensor

from ...errors import Mismatch


class ComfyTowers:
    """A text tower and a vision tower that were trained together. Raises Mismatch for others, as far as it shows."""

    def __init__(self, clip, clip_vision):
        self._clip, self._vision = clip, clip_vision
        text, picture = self.text("a portrait"), self.picture(np.zeros((8, 8, 3), np.uint8))
        if text.shape != picture.shape:
            raise Mismatch(
                f"clip embeds texts in {len(text)} features and clip_vision pictures in {len(picture)}: connect towers "
                "that were trained together, such as SDXL's CLIP and CLIP-ViT-bigG"
            )
        if not (text.isfinite().all() and text.any()):
            raise Mismatch(
                "clip has no text projection, as the CLIP of an SD1.5 checkpoint: load the whole text encoder with "
                "Load CLIP"
            )

    @torch.inference_mode()
    def picture(self, picture: np.ndarray) -> Tensor:
        pixels = torch.from_numpy(np.array(picture))[None].float() / 255
        return self._vision.encode_image(pixels).image_embeds[0].float().cpu()

    @torch.inference_mode()
    def text(self, text: str) -> Tensor:
        tokens = self._clip.tokenize(text.replace("(", "\\(").replace(")", "\\)"))  # parentheses are not weights
        _, pooled = self._clip.encode_from_tokens(tokens, return_pooled=True)
        if pooled is None:
            raise Mismatch(
                "clip is a text encoder without CLIP, such as T5 or a language model, whose texts cannot be compared "
                "with pictures: connect the CLIP that belongs to clip_vision"
            )
        return pooled[0].float().cpu()

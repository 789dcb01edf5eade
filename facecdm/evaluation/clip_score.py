"""Prompt adherence: CLIP's cosine of picture and prompt (Hessel et al. 2021, unscaled)."""

from pathlib import Path

import numpy as np
import torch

from ..errors import MissingPackage
from ..saved_folder import open_model, open_part


class ClipScore:
    """A CLIPModel with its processor, from a folder as transformers saves them. Nothing is downloaded."""

    def __init__(self, folder: Path, device: str = "cpu"):
        try:
            from transformers import CLIPModel, CLIPProcessor
        except ImportError as error:
            raise MissingPackage("CLIP scores need transformers: pip install transformers") from error
        self._model = open_model(CLIPModel, folder).to(device)
        self._processor = open_part(CLIPProcessor, folder)

    @torch.inference_mode()
    def __call__(self, picture: np.ndarray, prompt: str) -> float:
        inputs = self._processor(text=[prompt], images=[picture], return_tensors="pt", padding=True, truncation=True)
        out = self._model(**inputs.to(self._model.device))
        return float(torch.nn.functional.cosine_similarity(out.image_embeds, out.text_embeds)[0])

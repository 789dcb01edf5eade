"""Prompt adherence: CLIP's cosine of picture and prompt (Hessel et al. 2021, unscaled)."""

from pathlib import Path

import numpy as np
import torch

from ..errors import MissingModel, MissingPackage


class ClipScore:
    """A CLIPModel with its processor, from a folder as transformers saves them. Nothing is downloaded."""

    def __init__(self, folder: Path, device: str = "cpu"):
        try:
            from transformers import CLIPModel, CLIPProcessor
        except ImportError as error:
            raise MissingPackage("CLIP scores need transformers: pip install transformers") from error
        try:
            model = CLIPModel.from_pretrained(folder, local_files_only=True, use_safetensors=True)
            self._model = model.eval().to(device)
            self._processor = CLIPProcessor.from_pretrained(folder, local_files_only=True)
        except (OSError, ValueError) as error:
            raise MissingModel(
                f"{folder} is no folder of a CLIP model ({error}); it needs config.json, model.safetensors, and the "
                "files of tokenizer and image processor"
            ) from error

    @torch.inference_mode()
    def __call__(self, picture: np.ndarray, prompt: str) -> float:
        inputs = self._processor(text=[prompt], images=[picture], return_tensors="pt", padding=True, truncation=True)
        out = self._model(**inputs.to(self._model.device))
        return float(torch.nn.functional.cosine_similarity(out.image_embeds, out.text_embeds)[0])

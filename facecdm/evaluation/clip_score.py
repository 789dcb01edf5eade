"""Prompt adherence by the two towers of a CLIP: cosines of picture and text (Hessel et al. 2021, unscaled)."""

from functools import cache
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from ..errors import FaceCDMError, MissingPackage
from ..saved_folder import open_model, open_part


class Towers(Protocol):
    """A picture tower and a text tower that embed into the same space."""

    def picture(self, picture: np.ndarray) -> Tensor:
        """RGB uint8 [H, W, 3] → embedding [D]."""

    def text(self, text: str) -> Tensor:
        """Text → embedding [D]."""


class ClipFolder:
    """A CLIPModel with its processor, from a folder as transformers saves them. Nothing is downloaded."""

    def __init__(self, folder: Path, device: str = "cpu"):
        try:
            from transformers import CLIPModel, CLIPProcessor
        except ImportError as error:
            raise MissingPackage("CLIP scores need transformers: pip install transformers") from error
        self._model = open_model(CLIPModel, folder).to(device)
        self._processor = open_part(CLIPProcessor, folder)

    @torch.inference_mode()
    def picture(self, picture: np.ndarray) -> Tensor:
        pixels = self._processor(images=[picture], return_tensors="pt")["pixel_values"].to(self._model.device)
        return self._model.visual_projection(self._model.vision_model(pixel_values=pixels).pooler_output)[0]

    @torch.inference_mode()
    def text(self, text: str) -> Tensor:
        tokens = self._processor(text=[text], return_tensors="pt", truncation=True).to(self._model.device)
        return self._model.text_projection(self._model.text_model(**tokens).pooler_output)[0]


class EachOnce:
    """Towers that embed a text once, and a picture once while no other is asked for."""

    def __init__(self, towers: Towers):
        self._towers, self.text = towers, cache(towers.text)
        self._last: tuple[np.ndarray | None, Tensor | None] = (None, None)

    def picture(self, picture: np.ndarray) -> Tensor:
        if self._last[0] is not picture:
            self._last = (picture, self._towers.picture(picture))
        return self._last[1]


class ClipScore:
    """The cosine of a picture and its prompt."""

    def __init__(self, towers: Towers):
        self._towers = towers

    def __call__(self, picture: np.ndarray, prompt: str) -> float:
        return _cosine(self._towers.picture(picture), self._towers.text(prompt))


class ClipAttributes:
    """An AttributeJudge by zero-shot classification: the value whose text is nearest to the picture.

    values  each attribute's possible values; those of one attribute should exclude each other
    """

    def __init__(self, towers: Towers, values: dict[str, list[str]]):
        alone = [name for name, known in values.items() if len(known) < 2]
        if alone:
            raise FaceCDMError(
                f"attributes: CLIP chooses between the values of an attribute, and {alone[0]!r} has only "
                f"{values[alone[0]][0]!r}: add the reference's value after a slash"
            )
        self._towers = towers
        self._texts = {
            name: {value: towers.text(f"a portrait with {value} {name}") for value in known}
            for name, known in values.items()
        }

    def read(self, picture: np.ndarray, keypoints: np.ndarray | None) -> dict[str, str]:
        shown = self._towers.picture(picture)
        return {name: max(texts, key=lambda value: _cosine(shown, texts[value])) for name, texts in self._texts.items()}


def clip_measures(towers: Towers, values: dict[str, list[str]]) -> tuple[ClipScore, ClipAttributes | None]:
    """(similarity to the prompt, judge of the attributes if there are `values`); they share what the towers embed."""
    towers = EachOnce(towers)
    return ClipScore(towers), ClipAttributes(towers, values) if values else None


def _cosine(a: Tensor, b: Tensor) -> float:
    return float(torch.nn.functional.cosine_similarity(a.float(), b.float(), dim=0))

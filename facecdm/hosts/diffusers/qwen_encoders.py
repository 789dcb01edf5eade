"""The encoders of a diffusers folder of Qwen-Image or Z-Image for a data set."""

from pathlib import Path

import torch

from ...bases.base import Base
from ...bases.qwen_image import QWEN_IMAGE
from ...bases.z_image import Z_IMAGE
from ...saved_folder import open_part
from ...training.rows import Prompt
from .encoders import DiffusersEncoders, open_encoder


class QwenEncoders(DiffusersEncoders):
    """The encoders of a folder whose text encoder is a language model; a subclass says which.

    folder  vae/, tokenizer/, text_encoder/
    before  the template's text before the caption
    after   the template's text after it
    most    tokens of a caption with its template
    layer   the hidden states that the base model reads, among those of all layers
    drop    whether the states of `before` are left out
    """

    dit = True
    base: Base
    before: str
    after = "<|im_end|>\n<|im_start|>assistant\n"
    most: int
    layer: int
    drop: bool

    def _open_texts(self, folder: Path, dtype: torch.dtype) -> None:
        from transformers import AutoTokenizer

        tokenizer = open_part(AutoTokenizer, folder / "tokenizer")
        model = open_encoder(self._text_model(), folder / "text_encoder", self._device, dtype)
        self._texts = [(tokenizer, model)]
        self._start = len(tokenizer(self.before).input_ids) if self.drop else 0
        self.resolution, self.step = self.base.resolution, self.base.step

    def _text_model(self) -> type:
        raise NotImplementedError

    @torch.no_grad()
    def text(self, captions: list[str]) -> list[Prompt]:
        ((tokenizer, model),) = self._texts
        prompts = []
        for caption in captions:
            ids = tokenizer(self.before + caption + self.after, truncation=True, max_length=self._start + self.most)
            ids = torch.tensor([ids.input_ids], device=self._device)
            states = getattr(model, "model", model)(input_ids=ids, output_hidden_states=True).hidden_states
            prompts.append(Prompt(states[self.layer][:, self._start :].float()))
        return prompts


class QwenImageEncoders(QwenEncoders):
    base, most, layer, drop = QWEN_IMAGE, 1024, -1, True
    before = (
        "<|im_start|>system\nDescribe the image by detailing the color, shape, size, texture, quantity, text, spatial "
        "relationships of the objects and background:<|im_end|>\n<|im_start|>user\n"
    )

    def _text_model(self) -> type:
        from transformers import Qwen2_5_VLForConditionalGeneration

        return Qwen2_5_VLForConditionalGeneration


class ZImageEncoders(QwenEncoders):
    base, most, layer, drop = Z_IMAGE, 512, -2, False
    before = "<|im_start|>user\n"

    def _text_model(self) -> type:
        from transformers import Qwen3Model

        return Qwen3Model

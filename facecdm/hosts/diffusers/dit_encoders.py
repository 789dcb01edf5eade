"""The encoders of a diffusers folder of a DiT for a data set."""

from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from ...bases import FLUX, SD35_LARGE
from ...saved_folder import class_name, open_part
from ...training.rows import Prompt
from .encoders import DiffusersEncoders, open_encoder
from .qwen_encoders import QwenImageEncoders, ZImageEncoders

LEAST, MOST = 256, 512  # tokens of a caption that Flux.1 reads: as ComfyUI pads it; as diffusers cuts it
LEAST_SD3 = 77  # tokens of T5 that SD3.5 reads, as ComfyUI pads them
# (base model, least tokens of a caption) by the number of text encoders. Chroma has one, and Flux.1's entry.
BY_TEXT_ENCODERS = {1: (FLUX, 0), 2: (FLUX, LEAST), 3: (SD35_LARGE, LEAST_SD3)}


class DitEncoders(DiffusersEncoders):
    """The encoders of a folder of Flux.1, Chroma or SD3.5; see DiffusersEncoders.

    folder  vae/ and, for Flux.1, tokenizer/ and text_encoder/ (CLIP-L) and tokenizer_2/ and text_encoder_2/ (T5); for
            Chroma, tokenizer/ and text_encoder/ (T5); for SD3.5, the two CLIPs and, as the third, T5

    A caption has at most 512 tokens. Flux.1's are padded to 256 and SD3.5's to 77, which they read as text; Chroma's
    have no padding. SD3.5 reads the CLIPs' 77 tokens before T5's.
    """

    dit = True

    def _open_texts(self, folder: Path, dtype: torch.dtype) -> None:
        from transformers import AutoTokenizer, CLIPTextModel, CLIPTextModelWithProjection, T5EncoderModel

        count = 1 + sum((folder / f"text_encoder_{number}").is_dir() for number in (2, 3))
        clip = CLIPTextModelWithProjection if count == 3 else CLIPTextModel
        kinds = [*([clip] * (count - 1)), T5EncoderModel]
        names = [f"_{number}" if number > 1 else "" for number in range(1, count + 1)]
        texts = [
            (
                open_part(AutoTokenizer, folder / f"tokenizer{name}"),
                open_encoder(kind, folder / f"text_encoder{name}", self._device, dtype),
            )
            for name, kind in zip(names, kinds)
        ]
        self._clips, self._t5, self._texts = texts[:-1], texts[-1], texts
        base, self._least = BY_TEXT_ENCODERS[count]
        self.pooled, self.resolution, self.step = count > 1, base.resolution, base.step

    @torch.no_grad()
    def text(self, captions: list[str]) -> list[Prompt]:
        return [self._prompt(caption) for caption in captions]

    def _prompt(self, caption: str) -> Prompt:
        states, clips = self._states(caption), [self._clip(caption, *clip) for clip in self._clips]
        if not clips:
            return Prompt(states)
        if len(clips) == 1:
            return Prompt(states, clips[0].pooler_output.float())
        both = torch.cat([clip.hidden_states[-2] for clip in clips], -1).float()
        both = F.pad(both, (0, states.shape[-1] - both.shape[-1]))
        pooled = torch.cat([clip.text_embeds for clip in clips], -1).float()
        return Prompt(torch.cat([both, states], 1), pooled)

    def _states(self, caption: str) -> Tensor:
        """T5's states [1, T, C] of a caption at its own length."""
        tokenizer, model = self._t5
        ids = tokenizer(caption, truncation=True, max_length=MOST).input_ids
        ids += [tokenizer.pad_token_id] * (self._least - len(ids))
        return model(torch.tensor([ids], device=self._device)).last_hidden_state.float()

    def _clip(self, caption: str, tokenizer, model):
        length = min(tokenizer.model_max_length, model.config.max_position_embeddings)
        ids = tokenizer(caption, padding="max_length", max_length=length, truncation=True).input_ids
        return model(torch.tensor([ids], device=self._device), output_hidden_states=True)


_WITH_LANGUAGE_MODEL = {"QwenImageTransformer2DModel": QwenImageEncoders, "ZImageTransformer2DModel": ZImageEncoders}


def open_encoders(
    folder: Path, vision_folder: Path | None = None, device: str = "cpu", dtype: torch.dtype = torch.float32
) -> DiffusersEncoders:
    """The encoders of a folder of a U-Net or a DiT. Raises as DiffusersEncoders."""
    transformer = folder / "transformer"
    kind = DiffusersEncoders
    if transformer.is_dir():
        kind = _WITH_LANGUAGE_MODEL.get(class_name(transformer), DitEncoders)
    return kind(folder, vision_folder, device, dtype)

"""The encoders of a diffusers model folder (SD1.5, SDXL and their fine-tunes) for a data set."""

import math
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from ...bases import base_for_text
from ...documents import parse_json
from ...errors import BadFile, MissingPackage
from ...saved_folder import open_model, open_part
from ...training.dataset.demo import clip_pixels
from ...training.dataset.encoders import Fingerprints, weights_fingerprint
from ...training.rows import Prompt
from .vae import open_vae


class DiffusersEncoders:
    """The encoders of a folder.

    folder         vae/, tokenizer/, text_encoder/ and, for SDXL, tokenizer_2/ and text_encoder_2/, which
                   `save_pretrained` wrote
    vision_folder  folder of a CLIPVisionModelWithProjection; None: no vision encoder

    Weights are read from safetensors only. Captions are truncated to 75 tokens.
    """

    large = dit = pooled = False

    def __init__(
        self, folder: Path, vision_folder: Path | None = None, device: str = "cpu", dtype: torch.dtype = torch.float32
    ):
        """Raises MissingPackage, MissingModel, BadFile."""
        try:
            import diffusers  # noqa: F401
            import transformers  # noqa: F401
        except ImportError as error:
            raise MissingPackage(
                f"a diffusers folder needs diffusers and transformers ({error}): pip install diffusers transformers"
            ) from error
        self._device = device
        self._vae = open_vae(folder / "vae", device, dtype)
        # SDXL's autoencoder overflows in float16; its configuration says so.
        if getattr(self._vae.vae.config, "force_upcast", False) and dtype == torch.float16:
            self._vae.float()
        self._open_texts(folder, dtype)
        self._vision = None
        if vision_folder is not None:
            from transformers import CLIPVisionModelWithProjection

            self._vision = open_encoder(CLIPVisionModelWithProjection, vision_folder, device, dtype)
            self._normal = _normal(vision_folder)
        weights = [
            (f"{number}.{name}", value)
            for number, (_, model) in enumerate(self._texts)
            for name, value in sorted(model.state_dict().items())
        ]
        self.fingerprints = Fingerprints(
            weights_fingerprint(sorted(self._vae.vae.state_dict().items()), self._vae.scaling),
            weights_fingerprint(weights, "diffusers", self.large),
            weights_fingerprint(sorted(self._vision.state_dict().items()), self._normal) if self._vision else "",
        )

    def _open_texts(self, folder: Path, dtype: torch.dtype) -> None:
        """Open tokenizers and text encoders, and set the base model's facts."""
        from transformers import CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

        self.large = (folder / "text_encoder_2").is_dir()
        kinds = [("", CLIPTextModel)] + ([("_2", CLIPTextModelWithProjection)] if self.large else [])
        self._texts = [
            (
                open_part(CLIPTokenizer, folder / f"tokenizer{suffix}"),
                open_encoder(kind, folder / f"text_encoder{suffix}", self._device, dtype),
            )
            for suffix, kind in kinds
        ]
        width = sum(model.config.hidden_size for _, model in self._texts)
        base = base_for_text(width, self.large)
        self.resolution, self.step = base.resolution, base.step

    @torch.no_grad()
    def latents(self, pixels: Tensor) -> Tensor:
        return self._vae.encode(pixels.movedim(-1, 1).to(self._device, self._vae.vae.dtype) * 2 - 1)

    @torch.no_grad()
    def text(self, captions: list[str]) -> list[Prompt]:
        states, pooled = [], None
        for tokenizer, model in self._texts:
            length = min(tokenizer.model_max_length, model.config.max_position_embeddings)
            ids = tokenizer(
                captions, padding="max_length", max_length=length, truncation=True, return_tensors="pt"
            ).input_ids.to(self._device)
            out = model(ids, output_hidden_states=True)
            states.append((out.hidden_states[-2] if self.large else out.last_hidden_state).float())
            pooled = out.text_embeds.float() if self.large and hasattr(out, "text_embeds") else pooled
        both = torch.cat(states, -1)
        return [
            Prompt(both[row : row + 1], None if pooled is None else pooled[row : row + 1])
            for row in range(len(captions))
        ]

    @torch.no_grad()
    def vision(self, pictures: list[np.ndarray]) -> Tensor:
        size = self._vision.config.image_size
        pixels = torch.stack([clip_pixels(picture, size, *self._normal) for picture in pictures])
        pixels = pixels.to(self._device, self._vision.dtype)
        return self._vision(pixel_values=pixels, output_hidden_states=True).hidden_states[-2].float()


def open_encoder(kind: type, folder: Path, device: str, dtype: torch.dtype) -> nn.Module:
    return open_model(kind, folder, dtype).to(device)


def _normal(folder: Path) -> tuple[tuple, ...]:
    """Mean and standard deviation of the pixels, from the folder's preprocessor, else CLIP's."""
    from ...demo.clip import PIXEL_MEAN, PIXEL_STD

    path = folder / "preprocessor_config.json"
    try:
        settings = parse_json(path.read_bytes()) if path.is_file() else {}
        normal = [
            tuple(map(float, settings.get(name, usual)))
            for name, usual in (("image_mean", PIXEL_MEAN), ("image_std", PIXEL_STD))
        ]
    except (ValueError, TypeError, AttributeError) as error:
        raise BadFile(f"{path} is not a preprocessor's configuration ({error}): get it again") from error
    if not all(len(values) == 3 and all(map(math.isfinite, values)) for values in normal) or not all(normal[1]):
        raise BadFile(f"{path} has no three finite values each for image_mean and image_std: get it again")
    return tuple(normal)

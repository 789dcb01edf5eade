"""The demo model's encoders, without ComfyUI."""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from ...demo.autoencoder import build_autoencoder
from ...demo.clip import PIXEL_MEAN, PIXEL_STD, TEXT_LENGTH, TinyClip, open_tokenizer
from ...demo.weights import DemoWeights, read
from ..rows import Prompt
from .encoders import Fingerprints, weights_fingerprint


class DemoEncoders:
    """The autoencoder and CLIP towers of a demo weights file; `tokenizer` is CLIP's tokenizer folder, as in ComfyUI."""

    large = dit = pooled = False

    def __init__(self, tokenizer: Path, weights: DemoWeights | None = None, device: str = "cpu"):
        """Read the packaged file unless weights are given. Raises MissingModel, MissingPackage, BadFile."""
        weights = weights or read()
        self.resolution, self.step = weights.sizes.image_size, weights.sizes.downscale
        self._device = device
        self._tokens = open_tokenizer(tokenizer)
        self._vocabulary = weights.vocabulary
        self._autoencoder = build_autoencoder(weights.sizes)
        self._autoencoder.load_state_dict({name: value.float() for name, value in weights.vae.items()})
        self._clip = TinyClip(weights.sizes.clip, len(weights.vocabulary))
        self._clip.text_tower.load_state_dict({name: value.float() for name, value in weights.text.items()})
        self._clip.vision_tower.load_state_dict({name: value.float() for name, value in weights.vision.items()})
        self._size = weights.sizes.clip.image_size
        for model in (self._autoencoder, self._clip):
            model.to(device).eval().requires_grad_(False)
        sizes = weights.sizes.to_json()
        encoder = [(name, value) for name, value in weights.vae.items() if name.startswith("encoder.")]
        self.fingerprints = Fingerprints(
            weights_fingerprint(encoder, "demo latents"),
            weights_fingerprint(sorted(weights.text.items()), sizes, weights.vocabulary.token_ids),
            weights_fingerprint(sorted(weights.vision.items()), sizes),
        )

    @torch.no_grad()
    def latents(self, pixels: Tensor) -> Tensor:
        return self._autoencoder.encode(pixels.movedim(-1, 1).to(self._device) * 2 - 1)

    @torch.no_grad()
    def text(self, captions: list[str]) -> list[Prompt]:
        ids = self._tokens(captions, padding="max_length", max_length=TEXT_LENGTH, truncation=True)["input_ids"]
        states = self._clip.text(self._vocabulary.rows[torch.tensor(ids)].to(self._device))[0]
        return [Prompt(row[None]) for row in states]

    @torch.no_grad()
    def vision(self, pictures: list[np.ndarray]) -> Tensor:
        pixels = torch.stack([clip_pixels(picture, self._size) for picture in pictures]).to(self._device)
        return self._clip.vision_tower(pixel_values=pixels, output_hidden_states=True).hidden_states[-2]


def clip_pixels(picture: np.ndarray, size: int, mean: tuple = PIXEL_MEAN, std: tuple = PIXEL_STD) -> Tensor:
    """uint8 [H, W, 3] → [3, size, size]: the central square, prepared as by ComfyUI's CLIPVisionEncode."""
    image = torch.from_numpy(np.array(picture)).movedim(-1, 0)[None].float() / 255
    if image.shape[-2:] != (size, size):
        scale = size / min(image.shape[-2:])
        whole = [round(side * scale) for side in image.shape[-2:]]
        image = F.interpolate(image, whole, mode="bicubic", antialias=True)
        top, left = ((side - size) // 2 for side in whole)
        image = image[..., top : top + size, left : left + size]
    image = (image * 255).clamp(0, 255).round() / 255
    return ((image - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(std).view(3, 1, 1))[0]

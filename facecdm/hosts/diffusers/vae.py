"""The autoencoders of diffusers folders, for latents as their base models take them."""

from pathlib import Path

import torch
from torch import Tensor, nn

from ...saved_folder import class_name, open_model


class PictureVae(nn.Module):
    """AutoencoderKL, whose latents are scaled as a whole."""

    def __init__(self, vae: nn.Module):
        super().__init__()
        self.vae = vae

    @property
    def scaling(self) -> object:
        """What the latents depend on beside the weights, for a fingerprint."""
        return self.vae.config.scaling_factor

    def encode(self, pictures: Tensor) -> Tensor:
        """[B, 3, H, W] in −1…1 → [B, C, h, w], one picture at a time, since the autoencoder needs the most memory."""
        made = torch.cat([self.vae.encode(picture[None]).latent_dist.mode() for picture in pictures]).float()
        return (made - self._shift) * self.vae.config.scaling_factor

    def forward(self, latents: Tensor) -> Tensor:
        """[B, C, h, w] → [B, 3, H, W] in −1…1."""
        scaled = latents / self.vae.config.scaling_factor + self._shift
        return self.vae.decode(scaled.to(self.vae.dtype)).sample

    @property
    def _shift(self) -> float:
        return self.vae.config.get("shift_factor") or 0.0


class FrameVae(PictureVae):
    """AutoencoderKLQwenImage, which takes pictures as videos of one frame and scales each channel of its latents."""

    @property
    def scaling(self) -> object:
        return list(self.vae.config.latents_mean), list(self.vae.config.latents_std)

    def encode(self, pictures: Tensor) -> Tensor:
        made = torch.cat([self.vae.encode(picture[None, :, None]).latent_dist.mode() for picture in pictures])
        mean, deviation = self._channels(made)
        return ((made.float() - mean) / deviation).squeeze(2)

    def forward(self, latents: Tensor) -> Tensor:
        mean, deviation = self._channels(latents)
        return self.vae.decode((latents.unsqueeze(2) * deviation + mean).to(self.vae.dtype)).sample.squeeze(2)

    def _channels(self, like: Tensor) -> list[Tensor]:
        """Mean and deviation of each channel, [C, 1, 1, 1]."""
        return [torch.tensor(values, device=like.device).view(-1, 1, 1, 1) for values in self.scaling]


def open_vae(folder: Path, device: str, dtype: torch.dtype) -> PictureVae:
    """The autoencoder in a folder. Raises MissingModel, BadFile."""
    import diffusers

    frames = "AutoencoderKLQwenImage"
    if (folder / "config.json").is_file() and class_name(folder) == frames:
        return FrameVae(open_model(getattr(diffusers, frames), folder, dtype).to(device))
    return PictureVae(open_model(diffusers.AutoencoderKL, folder, dtype).to(device))

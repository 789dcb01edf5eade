"""The demo model's autoencoder: principal components of 8×8 patches, and a small refiner against block edges."""

from collections.abc import Iterable

import torch
from torch import Tensor, nn

PATCH = 8


class PatchAutoencoder(nn.Module):
    """f8 autoencoder. Encoding is linear; decoding is its transpose plus a residual of a few convolutions.

    The components are scaled towards equal variance by `whitening` (0: as they are, 1: equal), so that the
    fine ones, which carry the face, are not lost in a sampler's first noise.
    """

    def __init__(self, channels: int = 48, width: int = 128):
        super().__init__()
        pixels = 3 * PATCH * PATCH
        self.encoder = nn.Conv2d(3, channels, PATCH, PATCH)
        self.decoder = nn.Conv2d(channels, pixels, 1)
        self.refiner = nn.Sequential(
            nn.Conv2d(channels, width, 3, padding=1),
            nn.GELU(),
            nn.Conv2d(width, width, 3, padding=1),
            nn.GELU(),
            nn.Conv2d(width, width, 3, padding=1),
            nn.GELU(),
            nn.Conv2d(width, pixels, 1),
        )
        self.unpatch = nn.PixelShuffle(PATCH)
        nn.init.zeros_(self.refiner[-1].weight)
        nn.init.zeros_(self.refiner[-1].bias)

    def encode(self, pixels: Tensor) -> Tensor:
        """[B, 3, 8h, 8w] in −1…1 → latents [B, C, h, w] of about unit variance."""
        return self.encoder(pixels)

    def decode(self, latents: Tensor) -> Tensor:
        """latents [B, C, h, w] → [B, 3, 8h, 8w], about −1…1 (not clamped)."""
        return self.unpatch(self.decoder(latents) + self.refiner(latents))

    @torch.no_grad()
    def fit(self, batches: Iterable[Tensor], whitening: float = 0.5) -> Tensor:
        """Set encoder and decoder from the patches of the pictures [B, 3, H, W] in −1…1; returns the eigenvalues."""
        size = self.encoder.weight[0].numel()
        total, outer, count = torch.zeros(size).double(), torch.zeros(size, size).double(), 0
        for batch in batches:
            patches = nn.functional.pixel_unshuffle(batch, PATCH).movedim(1, -1).reshape(-1, size).double()
            total += patches.sum(0)
            outer += patches.T @ patches
            count += len(patches)
        mean = total / count
        variance, vectors = torch.linalg.eigh(outer / count - torch.outer(mean, mean))
        channels = self.encoder.out_channels
        variance, basis = variance.flip(0)[:channels], vectors.flip(1)[:, :channels]
        scale = variance ** (-whitening / 2)
        scale = scale / (variance * scale**2).mean().sqrt()  # unit variance on average
        encode = (basis * scale).T
        self.encoder.weight.copy_(encode.reshape(channels, 3, PATCH, PATCH))
        self.encoder.bias.copy_(-encode @ mean)
        self.decoder.weight.copy_((basis / scale)[:, :, None, None])
        self.decoder.bias.copy_(mean)
        return variance

"""The demo model's autoencoders: principal components of 8×8 patches, and learned decoders that remove block edges."""

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from .sizes import DemoSizes

PATCH = 8


def build_autoencoder(sizes: DemoSizes) -> nn.Module:
    """Build the autoencoder that fits `sizes`, with random weights. It has `encode`, `decode` and `encoder`."""
    if sizes.decoder:
        return SharpAutoencoder(sizes.latent_channels, sizes.decoder)
    return PatchAutoencoder(sizes.latent_channels, sizes.refiner_width)


class PatchAutoencoder(nn.Module):
    """f8 autoencoder. Encoding is linear; decoding is its transpose plus a residual of a few convolutions.

    `whitening` scales the components towards equal variance (0: unchanged, 1: equal). Otherwise a sampler's
    first noise would hide the fine components, which carry the face.
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


class SharpAutoencoder(nn.Module):
    """f16 autoencoder: `PatchAutoencoder`'s encoder on the picture at half its size, and a `SharpDecoder`.

    Its latents equal those of a `PatchAutoencoder` at half the resolution, so both can share a U-Net.
    """

    def __init__(self, channels: int = 48, widths: tuple[int, int, int] = (128, 96, 48)):
        super().__init__()
        self.encoder = nn.Conv2d(3, channels, PATCH, PATCH)
        self.decoder = SharpDecoder(channels, widths)

    def encode(self, pixels: Tensor) -> Tensor:
        """[B, 3, 16h, 16w] in -1 … 1 -> latents [B, C, h, w] of about unit variance."""
        return self.encoder(halved(pixels))

    def decode(self, latents: Tensor) -> Tensor:
        """latents [B, C, h, w] -> [B, 3, 16h, 16w], about -1 … 1 (not clamped)."""
        return self.decoder(latents)

    @torch.no_grad()
    def begin(self, trained: "PatchAutoencoder") -> None:
        """Copy the encoder and the linear decoding, which are not trained further."""
        self.encoder.load_state_dict(trained.encoder.state_dict())
        self.decoder.linear.load_state_dict(trained.decoder.state_dict())


def halved(pixels: Tensor) -> Tensor:
    """Halve the resolution: [B, 3, 2h, 2w] -> [B, 3, h, w]."""
    half = nn.functional.interpolate(pixels.float(), scale_factor=0.5, mode="bicubic", antialias=True)
    return half.to(pixels.dtype)


class SharpDecoder(nn.Module):
    """Decoder of `PatchAutoencoder`'s latents to pictures of twice the size: [B, C, h, w] -> [B, 3, 16h, 16w].

    The output is the enlarged linear decoding plus a residual computed at 1, 2 and 4 times the latents' resolution.
    Training uses a discriminator. It includes latents predicted by the U-Net, so that the decoder sharpens the
    U-Net's soft details.
    """

    def __init__(self, channels: int = 48, widths: tuple[int, int, int] = (128, 96, 48), depth: int = 2):
        super().__init__()
        self.linear = nn.Conv2d(channels, 3 * PATCH * PATCH, 1)
        coarse, middle, fine = widths
        self.residual = nn.Sequential(
            nn.Conv2d(channels, coarse, 3, padding=1),
            *(ResidualBlock(coarse) for _ in range(depth)),
            *_enlarged(coarse, middle),
            *(ResidualBlock(middle) for _ in range(depth)),
            *_enlarged(middle, fine),
            *(ResidualBlock(fine) for _ in range(depth)),
            nn.GELU(),
            nn.Conv2d(fine, 3 * 16, 3, padding=1),
            nn.PixelShuffle(4),
        )
        nn.init.zeros_(self.residual[-2].weight)
        nn.init.zeros_(self.residual[-2].bias)

    def forward(self, latents: Tensor) -> Tensor:
        """Pixels, about -1 … 1 (not clamped)."""
        small = nn.functional.pixel_shuffle(self.linear(latents), PATCH)
        return nn.functional.interpolate(small, scale_factor=2.0, mode="bilinear") + self.residual(latents)


class ResidualBlock(nn.Module):
    """x + conv(GELU(conv(GELU(x)))), the identity at initialisation."""

    def __init__(self, width: int):
        super().__init__()
        self.first = nn.Conv2d(width, width, 3, padding=1)
        self.second = nn.Conv2d(width, width, 3, padding=1)
        nn.init.zeros_(self.second.weight)
        nn.init.zeros_(self.second.bias)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.second(nn.functional.gelu(self.first(nn.functional.gelu(x))))


def _enlarged(inside: int, outside: int) -> tuple[nn.Module, nn.Module]:
    return nn.Conv2d(inside, 4 * outside, 1), nn.PixelShuffle(2)

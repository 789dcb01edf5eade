"""Training of the decoder to twice the size: reconstruction, and a discriminator against softness.

Some of the latents are the U-Net's predictions from noise instead of clean ones. The decoder thus trains on latents
like a sampler's, and learns to sharpen details that the U-Net leaves soft.
"""

import random
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from . import data, schedule
from .autoencoder import SharpAutoencoder
from .clip import CaptionTokens, TinyClip
from .sizes import DemoSizes
from .train import Plan, Run

WINDOW = 10  # side of the decoded training window in latent positions
LEFT_NOISE = 0.15  # highest noise on clean latents, in units of their standard deviation
SLOPE = 0.2  # of the discriminator's activations
HIGHEST_LEVEL = 500  # highest noise level that the U-Net predicts from


class Discriminator(nn.Module):
    """Real or decoded? Logits for patches of about 50 pixels, on an eighth of the resolution."""

    def __init__(self, width: int = 64):
        super().__init__()
        self.layers = nn.ModuleList(
            [
                nn.Conv2d(48, width, 3, padding=1),
                nn.Conv2d(width, 2 * width, 4, stride=2, padding=1),
                nn.Conv2d(2 * width, 2 * width, 3, padding=1),
                nn.Conv2d(2 * width, 2 * width, 3, padding=1),
            ]
        )
        self.score = nn.Conv2d(2 * width, 1, 1)
        for layer in self.layers:
            nn.init.kaiming_normal_(layer.weight, SLOPE)
            nn.init.zeros_(layer.bias)

    def forward(self, pixels: Tensor) -> tuple[Tensor, list[Tensor]]:
        """pixels [B, 3, H, W] -> (logits [B, 1, H/8, W/8], the feature maps)."""
        x, maps = F.pixel_unshuffle(pixels, 4), []
        for layer in self.layers:
            x = F.leaky_relu(layer(x), SLOPE)
            maps.append(x)
        return self.score(x), maps


class DecoderAndDiscriminator(nn.Module):
    """Decoder and discriminator, sharing one optimiser and one checkpoint."""

    def __init__(self, autoencoder: SharpAutoencoder):
        super().__init__()
        self.autoencoder, self.discriminator = autoencoder, Discriminator()


def predictor(
    unet: dict[str, Tensor], sizes: DemoSizes, tokens: CaptionTokens, clip: TinyClip, device: str
) -> Callable[[Tensor, Tensor, list[str]], Tensor]:
    """Make a function (noisy latents, levels, captions) -> clean latents, predicted by the U-Net with these weights."""
    from .unet import build_unet

    model = build_unet(sizes.unet_config())
    model.load_state_dict({name: value.float() for name, value in unet.items()})
    model = model.to(device, torch.bfloat16, memory_format=torch.channels_last).eval().requires_grad_(False)
    clip = clip.to(device)
    alpha, sigma = (level.to(device) for level in schedule.signal_and_noise())

    @torch.no_grad()
    def predict(noisy: Tensor, level: Tensor, captions: list[str]) -> Tensor:
        context = clip.text(tokens(captions).to(device))[0].bfloat16()
        a, s = alpha[level][:, None, None, None], sigma[level][:, None, None, None]
        half = noisy.bfloat16().contiguous(memory_format=torch.channels_last)
        return a * noisy - s * model(half, level, context).sample.float()

    return predict


def balanced(made: Tensor, error: Tensor, judged: Tensor, share: float) -> Tensor:
    """Return the error's value. Its gradient is the error's plus that of `judged`, scaled to `share` of its norm.

    Unscaled, a discriminator that improves quickly would outweigh the error (Esser et al. 2021, Taming Transformers,
    equation 7, here with the gradients at the pixels).

    made    [B, 3, H, W] from the decoder
    error   scalar, a function of `made`
    judged  scalar, a function of `made`: the discriminator's loss
    share   norm of the scaled gradient of `judged`, relative to that of `error`
    """
    own, other = (torch.autograd.grad(loss, made, retain_graph=True)[0] for loss in (error, judged))
    gradient = own + other * (share * own.norm() / other.norm().clamp(min=1e-12))
    moved = (made * gradient).sum()
    return error.detach() + moved - moved.detach()


def train_decoder(
    portraits: data.Portraits,
    latents: np.ndarray,
    predict: Callable[[Tensor, Tensor, list[str]], Tensor] | None,
    autoencoder: SharpAutoencoder,
    plan: Plan,
    folder: Path,
    device: str,
    adversarial: float = 0.4,
) -> SharpAutoencoder:
    """Train the residual of the decoder; returns the autoencoder with averaged weights.

    Gradients are computed in bfloat16; weights and moving average are float32.

    portraits    at the decoder's size
    latents      [2N, C, h, w] of these pictures, then of their mirror images (train.encode_all)
    predict      (noisy latents, levels, captions) -> latents predicted by the U-Net; None: clean latents only
    adversarial  size of the discriminator's gradient, as a share of that of the absolute error
    """
    torch.manual_seed(plan.seed)
    autoencoder.encoder.requires_grad_(False)
    autoencoder.decoder.linear.requires_grad_(False)
    pair = DecoderAndDiscriminator(autoencoder).to(device, memory_format=torch.channels_last)
    run = Run(folder, "decoder", pair, plan, average=0.995, half=True)
    decode, discriminator = run.live.autoencoder.decode, run.live.discriminator
    alpha, sigma = (level.to(device) for level in schedule.signal_and_noise())
    half = torch.autocast("cuda" if device == "cuda" else "cpu", torch.bfloat16)
    count, grid = len(portraits), latents.shape[-1]
    scale = portraits.pixels.shape[1] // grid

    def windows(rng: random.Random) -> tuple[Tensor, Tensor, Tensor]:
        """Sample (latents [B, C, W, W], pixels [B, 3, 16W, 16W], flags of the predicted ones [B])."""
        rows = [rng.randrange(count) for _ in range(plan.batch)]
        mirrored = [rng.random() < 0.5 for _ in rows]
        clean = np.stack([latents[row + count * flip] for row, flip in zip(rows, mirrored, strict=True)])
        clean = torch.from_numpy(clean).to(device).float()
        noise_rng = torch.Generator().manual_seed(rng.getrandbits(48))
        noise = torch.randn(clean.shape, generator=noise_rng).to(device)
        guessed = plan.batch // 2 if predict is not None else 0
        if guessed:
            level = torch.tensor([rng.randrange(10, HIGHEST_LEVEL) for _ in range(guessed)], device=device)
            a, s = alpha[level][:, None, None, None], sigma[level][:, None, None, None]
            noisy = a * clean[:guessed] + s * noise[:guessed]
            captions = [portraits.labels[row]["caption"] for row in rows[:guessed]]
            clean[:guessed] = predict(noisy, level, captions)
        left = torch.tensor([max(0.0, rng.uniform(-LEFT_NOISE, LEFT_NOISE)) for _ in rows[guessed:]], device=device)
        clean[guessed:] += left[:, None, None, None] * noise[guessed:]
        side = min(WINDOW, grid)
        cut, seen = [], []
        for index, (row, flip) in enumerate(zip(rows, mirrored, strict=True)):
            top, start = rng.randrange(grid - side + 1), rng.randrange(grid - side + 1)
            cut.append(clean[index, :, top : top + side, start : start + side])
            picture = portraits.pixels[row][:, ::-1] if flip else portraits.pixels[row]
            picture = picture[top * scale : (top + side) * scale, start * scale : (start + side) * scale]
            seen.append(torch.from_numpy(np.ascontiguousarray(picture)))
        pixels = torch.stack(seen).to(device).permute(0, 3, 1, 2).float() / 127.5 - 1
        return torch.stack(cut), pixels, torch.arange(plan.batch, device=device) < guessed

    def loss_of(rng: random.Random) -> Tensor:
        cut, real, predicted = windows(rng)
        with half:
            made = decode(cut.bfloat16()).float()
        # A prediction averages many pictures, so only its coarse colours must match this one.
        exact = (made - real).abs().mean((1, 2, 3))
        coarse = (F.avg_pool2d(made, 4) - F.avg_pool2d(real, 4)).abs().mean((1, 2, 3))
        error = torch.where(predicted, 2 * coarse + 0.2 * exact, 2 * exact).mean()
        discriminator.requires_grad_(False)
        with half:
            logits, maps = discriminator(made)
            with torch.no_grad():
                wanted = discriminator(real)[1]
        likeness = [
            ((one - other).abs().mean((1, 2, 3)) / other.abs().mean().clamp(min=1e-3))[~predicted].mean()
            for one, other in zip(maps, wanted, strict=True)
        ]
        judged = -logits.float().mean() + torch.stack(likeness).mean()
        share = adversarial * min(1.0, run.step / 300)
        discriminator.requires_grad_(True)
        with half:
            scores = [discriminator(pixels)[0].float() for pixels in (real, made.detach())]
        return balanced(made, error, judged, share) + F.relu(1 - scores[0]).mean() + F.relu(1 + scores[1]).mean()

    run.train(loss_of)
    if run.ema is not None:
        pair.load_state_dict(run.ema)
    return pair.autoencoder.eval()

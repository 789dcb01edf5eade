"""Training of the demo model's pose ControlNet on FaceWorld's pictures and key points, with the U-Net frozen."""

import random
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..errors import BadFile
from . import data, schedule
from .autoencoder import build_autoencoder
from .clip import CaptionTokens, TinyClip
from .pose_net import PoseNet
from .poses import KeyPoints
from .sizes import DemoSizes
from .train import Plan, Run
from .weights import checkpoint, part

# The control picture is drawn at these sides, then resized to the model's, since users' pictures differ in size.
DRAWN = (128, 192, 256, 384, 512)


def train_pose(
    portraits: data.Portraits,
    found: KeyPoints,
    sizes: DemoSizes,
    plan: Plan,
    tokens: CaptionTokens,
    autoencoder: nn.Module,
    clip: TinyClip,
    folder: Path,
    device: str,
    base: dict[str, Tensor] | None = None,
) -> dict[str, Tensor]:
    """Train v-prediction through the frozen U-Net (`base`, else its moving average in `folder`).

    Returns the averaged weights of PoseNet.

    High noise levels are more frequent, t = 1 − u³ (as in T2I-Adapter, Mou et al. 2023), because
    they determine the pose.
    """
    from .unet import build_unet

    torch.manual_seed(plan.seed)
    unet = build_unet(sizes.unet_config())
    state = base if base is not None else checkpoint(folder / "unet.pt")["ema"]
    unet.load_state_dict({name: value.float() for name, value in state.items()})
    unet = unet.to(device, memory_format=torch.channels_last).requires_grad_(False)
    side = sizes.image_size // sizes.shuffle  # the control picture is eight times the U-Net's latents
    some = [found.hint(entry, side, DRAWN[entry % len(DRAWN)]) for entry in range(min(16, len(found.rows)))]
    net = PoseNet(unet).scale_hint(_channels_first(torch.from_numpy(np.stack(some))).to(device) / 255)
    run = Run(folder, "pose", net, plan, average=0.995)
    alpha, sigma = (level.to(device) for level in schedule.signal_and_noise())
    half = torch.autocast("cuda" if device == "cuda" else "cpu", torch.bfloat16)

    def loss_of(rng: random.Random) -> Tensor:
        entries = [rng.randrange(len(found.rows)) for _ in range(plan.batch)]
        mirrored = [rng.random() < 0.5 for _ in entries]
        rows = [int(found.rows[entry]) for entry in entries]
        captions = ["" if rng.random() < 0.1 else data.reword(portraits.labels[row]["caption"], rng) for row in rows]
        hint = np.stack(
            [
                found.hint(entry, side, rng.choice(DRAWN), mirror)
                for entry, mirror in zip(entries, mirrored, strict=True)
            ]
        )
        pixels = torch.from_numpy(np.array(portraits.pixels[rows]))
        pixels = torch.where(torch.tensor(mirrored)[:, None, None, None], pixels.flip(2), pixels)
        with torch.no_grad():
            context = clip.text(tokens(captions, unknown=0.03, rng=rng).to(device))[0]
            clean = autoencoder.encode(_channels_first(pixels).to(device) / 127.5 - 1)
        seeded = torch.Generator().manual_seed(rng.getrandbits(48))
        noise = torch.randn(clean.shape, generator=seeded).to(device)
        spread = (torch.arange(plan.batch) + torch.rand(1, generator=seeded)) / plan.batch
        level = ((1 - spread**3) * schedule.STEPS).long().clamp(0, schedule.STEPS - 1).to(device)
        a, s = alpha[level][:, None, None, None], sigma[level][:, None, None, None]
        noisy = (a * clean + s * noise).contiguous(memory_format=torch.channels_last)
        with half:
            skips, middle = net(noisy, level, context, _channels_first(torch.from_numpy(hint)).to(device) / 255)
            velocity = unet(
                noisy, level, context, down_block_additional_residuals=skips, mid_block_additional_residual=middle
            ).sample
        return F.mse_loss(velocity.float(), a * noise - s * clean)

    run.train(loss_of)
    return run.weights


def trained_parts(
    portraits: data.Portraits, sizes: DemoSizes, tokens: CaptionTokens, folder: Path, device: str
) -> tuple[nn.Module, TinyClip]:
    """Load the autoencoder and CLIP that `train` left in the run folder. Raises MissingModel, BadFile."""
    autoencoder = build_autoencoder(sizes)
    clip = TinyClip(sizes.clip, len(tokens.vocabulary), portraits.classes())
    kept = ("decoder", autoencoder, "autoencoder.") if sizes.decoder else ("autoencoder", autoencoder, "")
    for name, model, prefix in (kept, ("text", clip, "")):
        try:
            model.load_state_dict(part(checkpoint(folder / f"{name}.pt")["model"], prefix))
        except RuntimeError as error:
            raise BadFile(f"{folder / name}.pt was trained with other sizes; give the same here") from error
        model.to(device).eval().requires_grad_(False)
    return autoencoder, clip


def _channels_first(pixels: Tensor) -> Tensor:
    """uint8 [B, H, W, 3] → float [B, 3, H, W], 0 … 255."""
    return pixels.permute(0, 3, 1, 2).float()

"""Training of the demo model: autoencoder, CLIP and U-Net, each trained on FaceWorld alone.

Every step samples its batch and noise from a generator seeded by (seed, step), so a resumed run has the same
batches as an uninterrupted one.
"""

import copy
import json
import random
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..errors import BadFile
from ..tensor_file import load_pickle
from . import data, schedule
from .autoencoder import PatchAutoencoder, SharpAutoencoder, build_autoencoder, halved
from .clip import CaptionTokens, TinyClip, normalise
from .emphasis import FaceWeights, noise_levels
from .optimise import HalfCopy, Muon
from .sizes import DemoSizes

if TYPE_CHECKING:
    from .weights import DemoWeights

LEFT_NOISE = 0.5  # highest noise that the refiner is trained to remove, in units of the latents' standard deviation


@dataclass(frozen=True)
class Plan:
    """Length and pace of a training run. `learning_rate` warms up, stays, and falls over the last quarter of `steps`.

    save_every     steps between checkpoints; with keep_pictures the one before stays as NAME.previous.pt
    keep_pictures  training pictures between saved moving averages (NAME-PICTURES.pt); 0: none
    hours          the training pauses after this time, with a checkpoint; 0: no limit
    """

    steps: int
    batch: int
    learning_rate: float
    seed: int = 0
    warmup: int = 100
    save_every: int = 250
    keep_pictures: int = 0
    hours: float = 0.0

    def rate(self, step: int) -> float:
        falling = max((self.steps - step) / (0.25 * self.steps), 0.02)
        return self.learning_rate * min(1.0, (step + 1) / self.warmup, falling)


def load_checkpoint(path: Path) -> dict:
    """Load a checkpoint of `Run.save`: model, optimiser, ema, step."""
    try:
        return load_pickle(path)
    except Exception as error:  # torch's unpickler and zip reader raise their own types
        raise BadFile(f"{path} is cut off or no checkpoint; delete it to train this part anew") from error


class Run:
    """One model's training loop: optimiser, moving average, atomic checkpoints, a log of the loss.

    With `half`, gradients are computed in bfloat16 by `self.live`, a copy of the model, and the optimiser is Muon;
    otherwise `self.live` is the model itself and the optimiser AdamW. `begin` is the model state to start from.
    """

    def __init__(
        self,
        folder: Path,
        name: str,
        model: nn.Module,
        plan: Plan,
        average: float | None = None,
        half: bool = False,
        begin: dict[str, Tensor] | None = None,
    ):
        self.model, self.plan, self.average = model, plan, average
        if begin is not None:
            model.load_state_dict({name: value.float() for name, value in begin.items()})
        self.checkpoint = folder / f"{name}.pt"
        self.log = folder / f"{name}.jsonl"
        trained = [(name, weight) for name, weight in model.named_parameters() if weight.requires_grad]
        if half:
            self.optimiser = Muon(trained, plan.learning_rate)
        else:
            weights = [weight for _, weight in trained]
            self.optimiser = torch.optim.AdamW(
                weights, plan.learning_rate, weight_decay=0.01, betas=(0.9, 0.99), fused=True
            )
        self.ema = {k: v.detach().clone() for k, v in model.state_dict().items()} if average else None
        self.step = 0
        folder.mkdir(parents=True, exist_ok=True)
        if self.checkpoint.exists():
            self._resume()
        self._half = HalfCopy(model) if half else None
        self.live = self._half.module if half else model

    def _resume(self) -> None:
        state = load_checkpoint(self.checkpoint)
        try:
            self.model.load_state_dict(state["model"])
            self.optimiser.load_state_dict(state["optimiser"])
        except (RuntimeError, ValueError) as error:
            raise BadFile(
                f"{self.checkpoint} was trained with other sizes; give the same, or another --run folder"
            ) from error
        if self.ema is not None:
            device = next(self.model.parameters()).device
            self.ema = {k: v.to(device) for k, v in state["ema"].items()}
        self.step = state["step"]

    def save(self) -> None:
        partial = self.checkpoint.with_suffix(".partial")
        torch.save(
            {
                "model": self.model.state_dict(),
                "optimiser": self.optimiser.state_dict(),
                "ema": self.ema,
                "step": self.step,
            },
            partial,
        )
        if self.plan.keep_pictures and self.checkpoint.exists():
            self.checkpoint.replace(self.checkpoint.with_suffix(".previous.pt"))
        partial.replace(self.checkpoint)

    def _keep(self) -> None:
        """Save the moving average every `keep_pictures` training pictures, for a curve."""
        pictures, every = self.step * self.plan.batch, self.plan.keep_pictures
        if self.ema is not None and every and pictures // every > (pictures - self.plan.batch) // every:
            half = {name: value.half() for name, value in self.ema.items()}
            kept = self.checkpoint.with_name(f"{self.checkpoint.stem}-{pictures}.pt")
            torch.save({"ema": half, "step": self.step, "pictures": pictures}, kept)

    @property
    def weights(self) -> dict[str, Tensor]:
        """The moving average if there is one, else the weights."""
        return self.ema if self.ema is not None else self.model.state_dict()

    def train(self, loss_of: Callable[[random.Random], Tensor]) -> None:
        """Call `loss_of(rng)` for every remaining step, where `rng` depends on seed and step alone."""
        from tqdm import tqdm

        started, recent = time.time(), []
        for step in tqdm(
            range(self.step + 1, self.plan.steps + 1),
            desc=self.checkpoint.stem,
            initial=self.step,
            total=self.plan.steps,
            mininterval=10,
        ):
            self.step = step
            for group in self.optimiser.param_groups:
                group["lr"] = self.plan.rate(self.step - 1)
            loss = loss_of(random.Random(f"{self.plan.seed}/{self.step}"))
            loss.backward()
            if self._half is not None:
                self._half.collect()
            nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
            self.optimiser.step()
            self.optimiser.zero_grad(set_to_none=True)
            if self._half is not None:
                self._half.refresh()
            self._follow()
            self._keep()
            recent.append(loss.item())
            if self.step % 50 == 0 or self.step == self.plan.steps:
                line = {
                    "step": self.step,
                    "loss": round(float(np.mean(recent)), 5),
                    "seconds": round(time.time() - started, 1),
                }
                self.log.open("a").write(json.dumps(line) + "\n")
                recent = []
            paused = bool(self.plan.hours) and time.time() - started > 3600 * self.plan.hours
            if self.step % self.plan.save_every == 0 or self.step == self.plan.steps or paused:
                self.save()
            if paused:
                return

    @torch.no_grad()
    def _follow(self) -> None:
        if self.ema is None:
            return
        decay = min(self.average, (1 + self.step) / (10 + self.step))
        for name, value in self.model.state_dict().items():
            self.ema[name].lerp_(value, 1 - decay)


def fit_autoencoder(
    portraits: data.Portraits, sizes: DemoSizes, plan: Plan, folder: Path, device: str
) -> PatchAutoencoder:
    """Fit principal components in closed form, then train the refiner on slightly noisy latents."""
    torch.manual_seed(plan.seed)
    model = PatchAutoencoder(sizes.latent_channels, sizes.refiner_width)
    model.fit(_batches(portraits, 64, count=60))
    model.encoder.requires_grad_(False)
    model.decoder.requires_grad_(False)
    run = Run(folder, "autoencoder", model.to(device), plan)

    def loss_of(rng: random.Random) -> Tensor:
        pixels = _pixels(portraits, rng.sample(range(len(portraits)), plan.batch)).to(device)
        latents = model.encode(pixels)
        seeded = _torch_rng(rng)
        noise = torch.randn(latents.shape, generator=seeded).to(device)
        # The level is random, because the noise that a sampler leaves is unknown.
        left = torch.rand(len(pixels), 1, 1, 1, generator=seeded).to(device) * LEFT_NOISE
        return F.mse_loss(model.decode(latents + left * noise), pixels)

    run.train(loss_of)
    return model.eval()


def linear_autoencoder(portraits: data.Portraits, sizes: DemoSizes) -> SharpAutoencoder:
    """Fit principal components of the pictures at half size in closed form; the decoder's residual stays untrained."""
    trained = PatchAutoencoder(sizes.latent_channels, sizes.refiner_width)
    trained.fit(halved(batch) for batch in _batches(portraits, 64, count=60))
    model = SharpAutoencoder(sizes.latent_channels, sizes.decoder)
    model.begin(trained)
    return model


def autoencoder_from_file(begin: "DemoWeights", sizes: DemoSizes) -> nn.Module:
    """Take the autoencoder of a weights file, or only its encoder and linear decoding if the decoders differ."""
    before = build_autoencoder(begin.sizes)
    before.load_state_dict({name: value.float() for name, value in begin.vae.items()})
    if begin.sizes.decoder == sizes.decoder:
        return before
    torch.manual_seed(0)
    model = SharpAutoencoder(sizes.latent_channels, sizes.decoder)
    model.begin(before)
    return model


def text_tower_from_file(begin: "DemoWeights", tokens: CaptionTokens) -> TinyClip:
    """Load the text tower of a weights file."""
    model = TinyClip(begin.sizes.clip, len(tokens.vocabulary))
    model.text_tower.load_state_dict({name: value.float() for name, value in begin.text.items()})
    return model.eval().requires_grad_(False)


def train_text(
    portraits: data.Portraits, sizes: DemoSizes, plan: Plan, tokens: CaptionTokens, folder: Path, device: str
) -> TinyClip:
    """Train the text tower and the attribute heads, from captions alone."""
    torch.manual_seed(plan.seed)
    model = TinyClip(sizes.clip, len(tokens.vocabulary), portraits.classes()).to(device)
    run = Run(folder, "text", model, plan)
    targets = _targets(portraits)

    def loss_of(rng: random.Random) -> Tensor:
        rows = rng.sample(range(len(portraits)), plan.batch)
        captions = [portraits.labels[row]["caption"] for row in rows]
        text = tokens(captions, unknown=0.03, rng=rng)[:, :32].to(device)
        return model.text_loss(text, {name: values[rows].to(device) for name, values in targets.items()})

    run.train(loss_of)
    return model.eval().requires_grad_(False)


def train_vision(
    portraits: data.Portraits,
    sizes: DemoSizes,
    plan: Plan,
    tokens: CaptionTokens,
    clip: TinyClip,
    folder: Path,
    device: str,
) -> TinyClip:
    """Train the vision tower to match the embeddings of `clip`'s text tower."""
    torch.manual_seed(plan.seed)
    clip.vision_tower.requires_grad_(True)
    run = Run(folder, "vision", clip, plan)
    targets = _targets(portraits)

    def loss_of(rng: random.Random) -> Tensor:
        rows = rng.sample(range(len(portraits)), plan.batch)
        pixels = normalise(torch.from_numpy(portraits.pixels[sorted(rows)]), sizes.clip.image_size)
        text = tokens([portraits.labels[row]["caption"] for row in sorted(rows)])[:, :32].to(device)
        wanted = {name: values[sorted(rows)].to(device) for name, values in targets.items()}
        return clip.image_loss(text, pixels.to(device), wanted)

    run.train(loss_of)
    return clip.eval().requires_grad_(False)


def _targets(portraits: data.Portraits) -> dict[str, Tensor]:
    return {
        name: torch.tensor([values.index(str(label[name])) for label in portraits.labels])
        for name, values in portraits.classes().items()
    }


def encode_all(portraits: data.Portraits, autoencoder: nn.Module, kept: Path, device: str) -> np.ndarray:
    """Encode all pictures, then all mirrored ones: float16 [2N, C, h, w], memory-mapped from `kept`."""
    count = len(portraits)
    if kept.exists():
        latents = np.load(kept, mmap_mode="r")
        if len(latents) == 2 * count:
            return latents
    kept.parent.mkdir(parents=True, exist_ok=True)
    partial, latents = kept.with_suffix(".partial"), None
    with torch.no_grad():
        for start in range(0, count, 64):
            pixels = _pixels(portraits, slice(start, start + 64)).to(device)
            for offset, view in ((0, pixels), (count, pixels.flip(-1))):
                encoded = autoencoder.encode(view).half().cpu().numpy()
                if latents is None:
                    shape = (2 * count, *encoded.shape[1:])
                    latents = np.lib.format.open_memmap(partial, "w+", np.float16, shape)
                latents[offset + start : offset + start + len(encoded)] = encoded
    latents.flush()
    partial.replace(kept)
    return np.load(kept, mmap_mode="r")


def train_unet(
    portraits: data.Portraits,
    sizes: DemoSizes,
    plan: Plan,
    tokens: CaptionTokens,
    autoencoder: nn.Module,
    clip: TinyClip,
    folder: Path,
    device: str,
    compiled: bool = False,
    begin: dict[str, Tensor] | None = None,
    faces: FaceWeights | None = None,
) -> dict[str, Tensor]:
    """Train v-prediction over all noise levels; returns the averaged weights in diffusers' naming.

    The pictures are encoded once. Gradients are computed in bfloat16; weights and moving average are float32.
    `faces` weights the loss over positions; None: equal weights.
    """
    from .unet import build_unet, use_plain_attention

    torch.manual_seed(plan.seed)
    unet = build_unet(sizes.unet_config()).to(device, memory_format=torch.channels_last)
    run = Run(folder, "unet", unet, plan, average=0.9999, half=True, begin=begin)
    live = run.live
    if device == "cpu":
        use_plain_attention(live)
    if compiled:
        live.compile()
    if run.step < plan.steps:
        latents = encode_all(portraits, autoencoder, folder / "cache" / "latents.npy", device)
    alpha, sigma = (level.to(device) for level in schedule.signal_and_noise())
    read = copy.deepcopy(clip.text_tower.text_model).bfloat16()

    def loss_of(rng: random.Random) -> Tensor:
        rows = [rng.randrange(len(portraits)) for _ in range(plan.batch)]
        captions = ["" if rng.random() < 0.1 else data.reword(portraits.labels[row]["caption"], rng) for row in rows]
        mirrored = [rng.random() < 0.5 for _ in rows]
        clean = np.stack([latents[row + len(portraits) * flip] for row, flip in zip(rows, mirrored, strict=True)])
        clean = torch.from_numpy(clean).to(device).float()
        with torch.no_grad():
            context = read(input_ids=tokens(captions, unknown=0.03, rng=rng).to(device)).last_hidden_state
        seeded = _torch_rng(rng)
        noise = torch.randn(clean.shape, generator=seeded).to(device)
        level = noise_levels(plan.batch, seeded).to(device)
        a, s = alpha[level][:, None, None, None], sigma[level][:, None, None, None]
        noisy = (a * clean + s * noise).bfloat16().contiguous(memory_format=torch.channels_last)
        velocity = live(noisy, level, context).sample
        error = (velocity.float() - (a * noise - s * clean)).square()
        if faces is not None:
            error = error * faces(rows, mirrored, clean.shape[-1]).to(device)
        return error.mean()

    run.train(loss_of)
    return run.weights


def _torch_rng(rng: random.Random) -> torch.Generator:
    return torch.Generator().manual_seed(rng.getrandbits(48))


def _pixels(portraits: data.Portraits, rows: list[int] | slice) -> Tensor:
    """float [B, 3, H, W] in −1…1."""
    return torch.from_numpy(np.array(portraits.pixels[rows])).permute(0, 3, 1, 2).float() / 127.5 - 1


def _batches(portraits: data.Portraits, size: int, count: int) -> Iterator[Tensor]:
    for start in np.linspace(0, max(len(portraits) - size, 0), count).astype(int):
        yield _pixels(portraits, slice(start, start + size))

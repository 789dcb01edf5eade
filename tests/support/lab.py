"""A training small enough for a test: a U-Net of some hundred thousand weights and a data set of random numbers."""

import os
import signal
import sys
from pathlib import Path

import torch
from torch import nn

from facecdm.demo.schedule import signal_and_noise
from facecdm.demo.unet import build_unet
from facecdm.hosts.diffusers.denoiser import DiffusersDenoiser
from facecdm.training.initialise import new_adapter
from facecdm.training.lora import Lora
from facecdm.training.losses import BackgroundLoss, DiffusionLoss, LocalisationLoss
from facecdm.training.rows import Prompt, Rows
from facecdm.training.stages import Stage
from facecdm.training.step import Term
from facecdm.training.trainer import Trainer
from facecdm.training.worker import ALONE

CONTEXT, WIDTH, VISION, PEOPLE, PHOTOS = 32, 24, 20, 6, 3
STAGE = Stage(
    "broad",
    steps=6,
    batch=4,
    learning_rate=1e-3,
    warmup=2,
    rank=0,
    lora_rank=2,
    save_every=1,
    train=("projectors", "keys_values", "gates", "interplay", "lora"),
    ema=0.9,
    noise_high=500,
    noise_share=0.7,
    own_photo=0.2,
)


class TinySource:
    """`PEOPLE` people with `PHOTOS` photos each; two sizes of pictures."""

    fingerprint, recogniser, has_pose = "tiny", "tiny.onnx", False

    def __init__(self):
        rng = torch.Generator().manual_seed(3)
        count = PEOPLE * PHOTOS
        self.faces = torch.randn(count, WIDTH, generator=rng)
        self.states = torch.randn(count, 5, VISION, generator=rng)
        self.texts = torch.randn(count, 7, CONTEXT, generator=rng)
        self.latents = [torch.randn(4, 8, 8 if i < 12 else 4, generator=rng) for i in range(count)]
        self.buckets = [list(range(12)), list(range(12, count))]
        self.empty_prompt = Prompt(torch.zeros(1, 7, CONTEXT))
        self.people = {person: list(range(person * PHOTOS, person * PHOTOS + PHOTOS)) for person in range(PEOPLE)}

    def __len__(self):
        return len(self.faces)

    @property
    def mean_face(self):
        return nn.functional.normalize(self.faces, dim=1).mean(0)

    def identity(self, index):
        return index // PHOTOS

    def latent_shape(self, index):
        return tuple(self.latents[index].shape)

    def references(self, index):
        return [i for i in range(len(self)) if i // PHOTOS == index // PHOTOS and i != index]

    def features(self, indices, augmented=None, vision=True):
        return self.faces[list(indices)], self.states[list(indices)]

    def load(self, indices):
        count = len(indices)
        box = torch.tensor([[0.25, 0.2, 0.75, 0.8]]).repeat(count, 1)
        points = torch.tensor([[[0.4, 0.4], [0.6, 0.4], [0.5, 0.5], [0.4, 0.6], [0.6, 0.6]]]).repeat(count, 1, 1)
        return Rows(
            torch.stack([self.latents[i] for i in indices]),
            Prompt(self.texts[indices]),
            self.faces[indices],
            None,
            box,
            points,
            None,
            torch.tensor([i // PHOTOS for i in indices]),
        )


class Shrink(nn.Module):
    def forward(self, latents):
        return nn.functional.interpolate(latents[:, :3], scale_factor=8)


def tiny_denoiser(seed: int = 0, control: nn.Module | None = None) -> DiffusersDenoiser:
    torch.manual_seed(seed)
    unet = build_unet(
        {
            "sample_size": 8,
            "in_channels": 4,
            "out_channels": 4,
            "block_out_channels": [32, 64],
            "layers_per_block": 1,
            "down_block_types": ["CrossAttnDownBlock2D", "CrossAttnDownBlock2D"],
            "up_block_types": ["CrossAttnUpBlock2D", "CrossAttnUpBlock2D"],
            "cross_attention_dim": CONTEXT,
            "attention_head_dim": [1, 2],
        }
    )
    return DiffusersDenoiser(unet, Shrink(), *signal_and_noise(), "v", control)


def tiny_trainer(
    folder: Path,
    stage: Stage = STAGE,
    worker=ALONE,
    adapter=None,
    lora=None,
    control=None,
    control_lora=None,
    more_terms=(),
    data=None,
    **more,
) -> Trainer:
    denoiser, data = tiny_denoiser(control=control), data or TinySource()
    adapter = adapter or new_adapter(denoiser, data, face_rank=8, face_tokens=2, image_tokens=2, image_layers=1)
    localisation = LocalisationLoss()
    terms = [
        Term("diffusion", DiffusionLoss(gamma=stage.min_snr)),
        Term("localisation", localisation, 0.1, 2, 3, frozenset({"outputs"})),
        Term("background", BackgroundLoss(), 0.1, needs=frozenset({"plain"})),
        *more_terms,
    ]
    return Trainer(
        denoiser, adapter, lora or Lora(), data, stage, terms, folder, worker=worker, control=control_lora, **more
    )


def everything(trainer: Trainer) -> dict[str, torch.Tensor]:
    """What a run learnt, average and all."""
    state = trainer.learner.state()
    return {f"{part}.{name}": value.clone() for part, values in state.items() for name, value in values.items()}


if __name__ == "__main__":  # lab.py FOLDER STEP: train, and be killed at this step
    torch.set_num_threads(1)
    trainer = tiny_trainer(Path(sys.argv[1]))
    trainer.run(lambda trainer: trainer.step == int(sys.argv[2]) and os.kill(os.getpid(), signal.SIGKILL))

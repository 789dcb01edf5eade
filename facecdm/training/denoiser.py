"""What the trainer needs of a base model, whoever hosts it."""

import hashlib
from collections.abc import Callable, Iterable
from typing import Protocol

import torch
from torch import Tensor, nn

from ..adapter.attention import LayerStream
from ..bases.layers import LayerMap
from .rows import Prompt

# Called in every cross-attention layer: index, queries [B, n, C], text keys [B, T, C].
Watch = Callable[[int, Tensor, Tensor], None]


class Denoiser(Protocol):
    """A frozen U-Net and its autoencoder, on one device.

    `signal` and `noise` [steps] are α_t and σ_t of z_t = α_t z + σ_t ε (α² + σ² = 1); `prediction` is "epsilon" or
    "v" (α_t ε − σ_t z). `dtype` is that of the U-Net's computations. `fingerprint` names the base,
    `control_fingerprint` its pose ControlNet ("" without one).
    """

    layer_map: LayerMap
    prediction: str
    signal: Tensor
    noise: Tensor
    device: torch.device
    dtype: torch.dtype
    fingerprint: str
    control_fingerprint: str
    can_decode: bool

    def predict(
        self,
        noisy: Tensor,
        t: Tensor,
        prompt: Prompt,
        people: list[list[LayerStream]] | None = None,
        control: Tensor | None = None,
        watch: Watch | None = None,
    ) -> Tensor:
        """The U-Net's raw prediction for z_t [B, C, h, w] at steps t [B] int64, float32, with gradients.

        `people` holds the streams of every layer of the map; None: the base model alone. `control` [B, 3, H, W] in
        0…1 goes through the pose ControlNet, if one was given to the host.
        """

    def decode(self, latents: Tensor) -> Tensor:
        """Latents → pixels [B, 3, H, W] in −1…1, float32, with gradients."""

    def linears(self) -> dict[str, nn.Linear]:
        """The linear layers of the U-Net's attentions, by the names that a LoRA file uses."""

    def layers(self) -> dict[str, nn.Linear | nn.Conv2d]:
        """These and every other linear layer and convolution of the U-Net's blocks."""

    def control_layers(self) -> dict[str, nn.Linear | nn.Conv2d]:
        """Those of the pose ControlNet's encoder, by "control_model." and ComfyUI's path; none without one."""

    def learn_control(self, on: bool) -> None:
        """Let gradients through to what is added to the ControlNet's layers; they are not asked for else."""

    def text_keys_values(self):
        """Pairs (k, v) of the base's own text weights in the layer map's order, for new adapters."""

    def compute_in(self, dtype: torch.dtype) -> None:
        """The dtype of the U-Net's arithmetic; `dtype` then names it."""

    def checkpoint(self, on: bool) -> None:
        """Gradient checkpointing in the U-Net."""


def digest_of(name: str, tensors: Iterable[Tensor]) -> str:
    """Of a name and a sample of every tensor: the same on every device, and quick for a whole U-Net."""
    digest = hashlib.sha256(name.encode())
    for value in tensors:
        sample = value.detach().flatten()[:16].to("cpu", torch.float16)
        digest.update(sample.contiguous().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def clean_from(prediction: Tensor, noisy: Tensor, signal: Tensor, noise: Tensor, kind: str) -> Tensor:
    """z as the prediction implies it; `signal` and `noise` [B] are α_t and σ_t (α_t is kept from 0)."""
    a, s = (x.view(-1, 1, 1, 1) for x in (signal, noise))
    return a * noisy - s * prediction if kind == "v" else (noisy - s * prediction) / a.clamp(min=1e-3)

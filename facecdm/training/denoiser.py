"""The trainer's interface to a base model; each host implements it."""

import hashlib
from collections.abc import Callable, Iterable
from typing import Protocol

import torch
from torch import Tensor, nn

from ..adapter.attention import LayerStream
from ..bases.layers import LayerMap
from .rows import Prompt

# Called in every cross-attention layer with its index, queries [B, n, C] and text keys [B, T, C].
Watch = Callable[[int, Tensor, Tensor], None]


class Denoiser(Protocol):
    """A frozen U-Net or DiT and its autoencoder, on one device.

    layer_map            its cross-attention layers, or its blocks
    prediction           "epsilon", "v" (α_t ε − σ_t z), or "flow" (ε − z)
    stride               latents per position of the U-Net, along one side; above 1 if the latents are shuffled
    distilled            whether the model reads the guidance scale, or has a fixed one: one call gives a guided
                         prediction
    signal, noise        [steps] α_t and σ_t of z_t = α_t z + σ_t ε (α² + σ² = 1; in a flow, α + σ = 1, and the steps
                         are shifted toward more noise, as the base model has it)
    device, dtype        device and dtype of the U-Net's computations
    fingerprint          identifies the base model
    control_fingerprint  identifies its pose ControlNet; "" without one
    can_decode           whether there is an autoencoder
    """

    layer_map: LayerMap
    prediction: str
    stride: int
    distilled: bool
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
        guidance: float = 1.0,
    ) -> Tensor:
        """The U-Net's raw prediction for z_t [B, C, h, w] at timesteps t [B] int64, float32, with gradients.

        people   the streams of every layer in the layer map; None: the base model alone
        control  [B, 3, H, W] pose pictures in 0…1 for the pose ControlNet, if the host has one
        watch    is called in every cross-attention layer; in a DiT, in every block with the picture's queries
        guidance the guidance scale that a distilled model reads; in training 1, which predicts the pictures as they are
        """

    def decode(self, latents: Tensor) -> Tensor:
        """Latents → pixels [B, 3, H, W] in −1…1, float32, with gradients."""

    def linears(self) -> dict[str, nn.Linear]:
        """The linear layers of the U-Net's attentions, by their names in a LoRA file."""

    def layers(self) -> dict[str, nn.Linear | nn.Conv2d]:
        """All linear layers and convolutions of the U-Net's blocks, by their names in a LoRA file."""

    def control_layers(self) -> dict[str, nn.Linear | nn.Conv2d]:
        """All linear layers and convolutions of the pose ControlNet's encoder; {} without a ControlNet.

        Their names are "control_model." + ComfyUI's path.
        """

    def learn_control(self, on: bool) -> None:
        """Switch the ControlNet's gradients on or off, for a LoRA on its layers."""

    def text_keys_values(self):
        """Pairs (k, v) of the base model's text weights, in the layer map's order, for new adapters."""

    def compute_in(self, dtype: torch.dtype) -> None:
        """Set the dtype of the U-Net's computations."""

    def checkpoint(self, on: bool) -> None:
        """Switch gradient checkpointing of the U-Net on or off."""


def digest_of(name: str, tensors: Iterable[Tensor]) -> str:
    """A hash of a name and a sample of every tensor: the same on every device, and quick for a whole U-Net."""
    digest = hashlib.sha256(name.encode())
    for value in tensors:
        sample = value.detach().flatten()[:16].to("cpu", torch.float16)
        digest.update(sample.contiguous().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def clean_from(prediction: Tensor, noisy: Tensor, signal: Tensor, noise: Tensor, kind: str) -> Tensor:
    """The z that the prediction implies; `signal` and `noise` [B] are α_t and σ_t (α_t is clamped above 0)."""
    a, s = (x.view(-1, 1, 1, 1) for x in (signal, noise))
    if kind == "flow":
        return noisy - s * prediction
    return a * noisy - s * prediction if kind == "v" else (noisy - s * prediction) / a.clamp(min=1e-3)

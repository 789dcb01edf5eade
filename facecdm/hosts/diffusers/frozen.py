"""A frozen base model of diffusers and its autoencoder, for training."""

import torch
from torch import Tensor, nn

from ...bases import name_of
from ...bases.layers import LayerMap
from ...training.denoiser import digest_of


class FrozenModel:
    """What the `Denoiser`s of a U-Net and of a DiT share. `decoder` maps latents to pixels in −1…1."""

    can_decode = True
    stride = 1
    distilled = False
    control_fingerprint = ""
    prediction: str

    def __init__(self, network: nn.Module, decoder: nn.Module, layer_map: LayerMap, signal: Tensor, noise: Tensor):
        self.network, self._decoder = network.eval().requires_grad_(False), decoder.eval().requires_grad_(False)
        self.layer_map, self.signal, self.noise = layer_map, signal, noise
        self._autocast: torch.dtype | None = None

    @property
    def device(self) -> torch.device:
        return next(self.network.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        return self._autocast or next(self.network.parameters()).dtype

    @property
    def fingerprint(self) -> str:
        """Digest of the base model: its name, schedule and a sample of every weight."""
        return digest_of(f"{name_of(self.layer_map)} {self.prediction}", (self.signal, *self.network.parameters()))

    def compute_in(self, dtype: torch.dtype) -> None:
        """Compute in `dtype` by autocast; with float32, in the dtype of the weights and without autocast."""
        self._autocast = None if dtype == torch.float32 else dtype

    def decode(self, latents: Tensor) -> Tensor:
        return self._decoder(latents).float()

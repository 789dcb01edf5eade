"""Low-rank additions to frozen linear layers (Hu et al. 2021), for the U-Net's attention and the adapter's K and V."""

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..errors import Mismatch


class LowRank(nn.Module):
    """x [..., in] → scale · up(down(x)) [..., out]; zero at birth. `scale` is alpha / rank."""

    def __init__(self, width_in: int, width_out: int, rank: int, alpha: float | None = None):
        super().__init__()
        self.down = nn.Parameter(torch.empty(rank, width_in))
        self.up = nn.Parameter(torch.zeros(width_out, rank))
        self.alpha = float(rank if alpha is None else alpha)
        nn.init.kaiming_uniform_(self.down, a=math.sqrt(5))

    @property
    def scale(self) -> float:
        return self.alpha / len(self.down)

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(F.linear(x, self.down.to(x)), self.up.to(x)) * self.scale

    @property
    def weight(self) -> Tensor:
        """What it adds to a linear layer's weight, [out, in]."""
        return self.up @ self.down * self.scale

    def copy(self) -> "LowRank":
        """The same numbers in tensors of their own, frozen."""
        twin = LowRank(self.down.shape[1], len(self.up), len(self.down), self.alpha)
        twin.down.data, twin.up.data = (part.detach().clone() for part in (self.down, self.up))
        return twin.requires_grad_(False)


class Lora:
    """A LoRA of a U-Net: `parts` by the name of the linear layer as a LoRA file has it."""

    def __init__(self, parts: Mapping[str, LowRank] | None = None):
        self.parts = dict(parts or {})
        self._heard = True

    @classmethod
    def new(cls, linears: Mapping[str, nn.Linear], rank: int) -> "Lora":
        return cls({name: LowRank(linear.in_features, linear.out_features, rank) for name, linear in linears.items()})

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor]) -> "Lora":
        """From what `tensors` gave; ranks are read from the shapes."""
        parts = {}
        for key, down in tensors.items():
            if key.endswith(".lora_down.weight"):
                name = key.removesuffix(".lora_down.weight")
                up, alpha = tensors[f"{name}.lora_up.weight"], tensors.get(f"{name}.alpha")
                part = LowRank(down.shape[1], len(up), len(down), None if alpha is None else float(alpha))
                part.down.data, part.up.data = down.float().clone(), up.float().clone()
                parts[name] = part
        return cls(parts)

    def tensors(self) -> dict[str, Tensor]:
        """In the naming that ComfyUI's LoRA loaders read: NAME.lora_down.weight, NAME.lora_up.weight, NAME.alpha."""
        result = {}
        for name, part in self.parts.items():
            result |= {f"{name}.lora_down.weight": part.down.detach(), f"{name}.lora_up.weight": part.up.detach(),
                       f"{name}.alpha": torch.tensor(part.alpha)}
        return result

    @contextmanager
    def on(self, linears: Mapping[str, nn.Linear]) -> Iterator[None]:
        """Within the block the U-Net's layers add their low-rank part. Raises Mismatch where one is missing."""
        missing = sorted(self.parts.keys() - linears.keys())
        if missing:
            raise Mismatch(f"the LoRA was made for another U-Net: this one has no {missing[0]} "
                           f"({len(missing)} of {len(self.parts)} layers are missing)")
        handles = [linears[name].register_forward_hook(self._hook(part)) for name, part in self.parts.items()]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _hook(self, part: LowRank):
        return lambda _, inputs, out: out + part(inputs[0]) if self._heard else out

    @contextmanager
    def off(self) -> Iterator[None]:
        """Within the block the U-Net is the base again."""
        self._heard = False
        try:
            yield
        finally:
            self._heard = True

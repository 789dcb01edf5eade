"""Low-rank additions to frozen layers (Hu et al. 2021), for the U-Net and the adapter's K and V."""

import math
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..errors import BadFile, Mismatch
from ..tensor_file import check_weights

PART = re.compile(r"(.+)\.(?:lora_down\.weight|lora_up\.weight|alpha)")  # a tensor of a layer
READ = "Choose a file that FaceCDM's training wrote (NAME.lora_down.weight, NAME.lora_up.weight, NAME.alpha)."


class LowRank(nn.Module):
    """x [..., in] → scale · up(down(x)) [..., out], zero at initialisation; `scale` is alpha / rank.

    For a convolution with a `kernel` (height, width), `down` has the kernel and `up` is 1 × 1, as in LoRA files.
    """

    def __init__(
        self, width_in: int, width_out: int, rank: int, alpha: float | None = None, kernel: tuple[int, ...] = ()
    ):
        super().__init__()
        self.down = nn.Parameter(torch.empty(rank, width_in, *kernel))
        self.up = nn.Parameter(torch.zeros(width_out, rank, *(1 for _ in kernel)))
        self.alpha = float(rank if alpha is None else alpha)
        nn.init.kaiming_uniform_(self.down, a=math.sqrt(5))

    @classmethod
    def of(cls, layer: nn.Linear | nn.Conv2d, rank: int) -> "LowRank":
        """A new low-rank part for `layer`; the rank is at most the layer's widths."""
        width_out, width_in, *kernel = layer.weight.shape
        return cls(width_in, width_out, min(rank, width_in, width_out), kernel=tuple(kernel))

    @property
    def scale(self) -> float:
        return self.alpha / len(self.down)

    def forward(self, x: Tensor, layer: nn.Conv2d | None = None) -> Tensor:
        """The addition for input x; `layer` is the convolution it is added to, which gives stride and padding."""
        if self.down.dim() == 2:
            return F.linear(F.linear(x, self.down.to(x)), self.up.to(x)) * self.scale
        reduced = F.conv2d(x, self.down.to(x), stride=layer.stride, padding=layer.padding)
        return F.conv2d(reduced, self.up.to(x)) * self.scale

    @property
    def weight(self) -> Tensor:
        """The equivalent change of the layer's weight, [out, in, …]."""
        return (self.up.flatten(1) @ self.down.flatten(1)).view(len(self.up), *self.down.shape[1:]) * self.scale

    def copy(self) -> "LowRank":
        """A frozen copy."""
        copy = LowRank(self.down.shape[1], len(self.up), len(self.down), self.alpha, tuple(self.down.shape[2:]))
        copy.down.data, copy.up.data = (part.detach().clone() for part in (self.down, self.up))
        return copy.requires_grad_(False)


class Lora:
    """A LoRA: `parts` by the layers' names in a LoRA file."""

    def __init__(self, parts: Mapping[str, LowRank] | None = None):
        self.parts = dict(parts or {})
        self._active = True

    @classmethod
    def new(cls, layers: Mapping[str, nn.Linear | nn.Conv2d], rank: int) -> "Lora":
        return cls({name: LowRank.of(layer, rank) for name, layer in layers.items()})

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor], source: object = "the LoRA") -> "Lora":
        """The inverse of `tensors`; ranks are read from the shapes. A layer without alpha has that of its rank.

        Raises BadFile, which names `source`, for another form of LoRA, a layer with only one half, halves of different
        rank, NaN or infinity.
        """
        found = {key: PART.fullmatch(key) for key in tensors}
        others = [key for key, match in found.items() if match is None]
        if others:
            raise BadFile(f"{source}: {_other_form(others[0], tensors)}. {READ}")
        names = dict.fromkeys(match[1] for match in found.values())
        return cls({name: _low_rank(name, tensors, source) for name in names})

    def tensors(self) -> dict[str, Tensor]:
        """The tensors for ComfyUI's LoRA loaders: NAME.lora_down.weight, NAME.lora_up.weight, NAME.alpha."""
        result = {}
        for name, part in self.parts.items():
            result |= {
                f"{name}.lora_down.weight": part.down.detach(),
                f"{name}.lora_up.weight": part.up.detach(),
                f"{name}.alpha": torch.tensor(part.alpha),
            }
        return result

    def check_fits(self, layers: Mapping[str, nn.Linear | nn.Conv2d]) -> None:
        """Raise Mismatch if a layer is missing, or if its size differs from its part's."""
        missing = sorted(self.parts.keys() - layers.keys())
        if missing:
            raise Mismatch(
                f"the LoRA was made for another model: this one has no {missing[0]} "
                f"({len(missing)} of {len(self.parts)} layers are missing)"
            )
        for name, part in self.parts.items():
            wanted, found = layers[name].weight.shape[:2], (len(part.up), part.down.shape[1])
            if tuple(wanted) != found:
                raise Mismatch(f"the LoRA was made for another model: {name} is {tuple(wanted)} here and {found} there")

    @contextmanager
    def on(self, layers: Mapping[str, nn.Linear | nn.Conv2d]) -> Iterator[None]:
        """Add the low-rank parts to the layers within the block. Raises Mismatch if a layer does not fit."""
        self.check_fits(layers)
        handles = [layers[name].register_forward_hook(self._hook(part)) for name, part in self.parts.items()]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _hook(self, part: LowRank):
        return lambda layer, inputs, out: out + part(inputs[0], layer) if self._active else out

    @contextmanager
    def off(self) -> Iterator[None]:
        """Disable the LoRA within the block."""
        self._active = False
        try:
            yield
        finally:
            self._active = True


def _other_form(key: str, keys: Iterable[str]) -> str:
    """What the unexpected tensor `key` shows about a file with `keys`, for an error."""
    if re.search(r"lora_[AB]\.|[._]lora\.", key):
        return f"{key} is a name of diffusers or PEFT, whose LoRA files are not read here"
    if not any(re.search("lora|lycoris|alpha", name) for name in keys):
        return f"it holds no LoRA, but {key}"
    return f"{key} is no part of a plain LoRA; LoHa, LoKr, DoRA and changed biases are not read here"


def _low_rank(name: str, tensors: Mapping[str, Tensor], source: object) -> LowRank:
    """Read one layer of a LoRA file. Raises BadFile."""
    down, up, alpha = (tensors.get(f"{name}.{part}") for part in ("lora_down.weight", "lora_up.weight", "alpha"))
    if down is None or up is None:
        raise BadFile(f"{source}: layer {name} has one half only: get the file again")
    for part, tensor in (("lora_down", down), ("lora_up", up)):
        check_weights(f"{name}.{part}", tensor, source)
    if alpha is not None:
        check_weights(f"{name}.alpha", alpha.float(), source)  # some programs write it as an integer
        if alpha.numel() != 1:
            raise BadFile(f"{source}: layer {name} has {alpha.numel()} values of alpha: get the file again")
    shapes_fit = down.ndim in (2, 4) and up.shape[1:] == (len(down), *(1 for _ in down.shape[2:]))
    if not shapes_fit or not down.numel() or not up.numel():
        raise BadFile(
            f"{source}: layer {name} has halves of shapes {list(down.shape)} and {list(up.shape)}, which do not fit "
            "together: get the file again"
        )
    scale = None if alpha is None else float(alpha)
    part = LowRank(down.shape[1], len(up), len(down), scale, tuple(down.shape[2:]))
    part.down.data, part.up.data = down.float().clone(), up.float().clone()
    return part

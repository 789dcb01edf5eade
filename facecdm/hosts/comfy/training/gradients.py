"""Gradients through ComfyUI's modules, which are made for inference."""

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class OutOfPlace(Tensor):
    """A tensor on which `x += y` makes a new tensor; tensors computed from it are of this class, too.

    Blocks of DiTs add to their hidden states in place, while the backward pass still needs the earlier values. A loss
    must be computed from plain tensors, since a backward pass from a subclass does not keep it.
    """

    def __iadd__(self, other):
        return self + other

    def __imul__(self, other):
        return self * other


class Call:
    """The streams of one U-Net call by layer, and its observer; `again` is true while the backward pass repeats it."""

    def __init__(self, people: list | None, watch: Callable[[int, Tensor, Tensor], None] | None):
        self._people, self._watch = people, watch
        self.again = False

    @property
    def is_idle(self) -> bool:
        return self._people is None and self._watch is None

    def streams(self, index: int) -> list:
        """The streams of layer `index`; a repeated call is not observed."""
        streams = self._people[index] if self._people is not None else []
        return [replace(stream, watch=None) for stream in streams] if self.again else streams

    def observe(self, index: int, q: Tensor, k: Tensor) -> None:
        if self._watch is not None and not self.again:
            self._watch(index, q, k)


def leave_inference(module: nn.Module) -> None:
    """Freeze the module, and replace inference tensors, which autograd refuses, with ordinary ones.

    `.to()` keeps inference tensors, and moving a module in inference mode makes new ones. Call this outside of
    inference mode, whenever ComfyUI may have moved the module.
    """
    replaced: dict[int, Tensor] = {}
    for part in module.modules():
        for table in (part._parameters, part._buffers):
            for name, tensor in table.items():
                if tensor is not None and tensor.is_inference():
                    if id(tensor) not in replaced:
                        new = tensor.clone()
                        replaced[id(tensor)] = (
                            nn.Parameter(new, requires_grad=False) if isinstance(tensor, nn.Parameter) else new
                        )
                    table[name] = replaced[id(tensor)]
    module.requires_grad_(False)


def attention_with_gradients(chosen: Callable, *args, **kwargs) -> Tensor:
    """An `optimized_attention_override`: PyTorch's attention, since some other attentions have no backward pass."""
    from comfy.ldm.modules.attention import attention_pytorch

    kwargs.pop("transformer_options", None)
    return attention_pytorch(*args, **kwargs)


def masked_attention(mask: Tensor) -> Callable:
    """`attention_with_gradients` with a mask over the keys [B, 1, N], for a model without an argument for it."""

    def attention(chosen: Callable, q: Tensor, k: Tensor, v: Tensor, heads: int, *_, **kwargs) -> Tensor:
        return attention_with_gradients(chosen, q, k, v, heads, **kwargs | {"mask": mask})

    return attention


class Recast:
    """Make layers compute in `dtype` until `undo`, whatever the dtype of their weights.

    Autograd would keep a cast copy of every weight for the backward pass, which takes the memory of a second U-Net.
    Here the copies are not kept, and the backward pass casts the weights again.
    """

    def __init__(self, module: nn.Module, dtype: torch.dtype):
        from comfy.ops import disable_weight_init as plain

        self._before: list[tuple[nn.Module, str, dict]] = []
        for part in module.modules():
            if getattr(part, "weight", None) is None or part.weight.dtype == dtype:
                continue
            if hasattr(part, "comfy_cast_weights"):
                self._set(part, "comfy_cast_weights", True)
            for kind, make in ((plain.Linear, _linear), (plain.Conv2d, _convolution)):
                if isinstance(part, kind) and type(part).forward_comfy_cast_weights is kind.forward_comfy_cast_weights:
                    self._set(part, "forward_comfy_cast_weights", make(part, part.forward_comfy_cast_weights))

    def _set(self, part: nn.Module, name: str, value: object) -> None:
        self._before.append((part, name, {name: vars(part)[name]} if name in vars(part) else {}))
        setattr(part, name, value)

    def undo(self) -> None:
        for part, name, before in reversed(self._before):
            vars(part).pop(name, None)
            vars(part).update(before)
        self._before = []


def _linear(layer: nn.Linear, otherwise: Callable) -> Callable:
    def forward(x: Tensor) -> Tensor:
        if layer.weight_function or layer.bias_function or not x.requires_grad:
            return otherwise(x)
        return _CastLinear.apply(x, layer.weight, layer.bias)

    return forward


def _convolution(layer: nn.Conv2d, otherwise: Callable) -> Callable:
    def forward(x: Tensor) -> Tensor:
        if layer.weight_function or layer.bias_function or not x.requires_grad or layer.padding_mode != "zeros":
            return otherwise(x)
        return _CastConvolution.apply(
            x, layer.weight, layer.bias, layer.stride, layer.padding, layer.dilation, layer.groups
        )

    return forward


def _like(weight: Tensor | None, x: Tensor) -> Tensor | None:
    return None if weight is None else weight.to(x.device, x.dtype)


class _CastLinear(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, weight, bias):
        ctx.weight = weight
        return F.linear(x, _like(weight, x), _like(bias, x))

    @staticmethod
    def backward(ctx, grad):
        return grad @ _like(ctx.weight, grad), None, None


class _CastConvolution(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, weight, bias, *where):
        ctx.weight, ctx.shape, ctx.where = weight, x.shape, where
        return F.conv2d(x, _like(weight, x), _like(bias, x), *where)

    @staticmethod
    def backward(ctx, grad):
        x = torch.nn.grad.conv2d_input(ctx.shape, _like(ctx.weight, grad), grad, *ctx.where)
        return x, None, None, None, None, None, None

"""Fast training of the demo model: Muon for matrices, and half-precision copies of the weights."""

import copy
from collections.abc import Iterable

import torch
from torch import Tensor, nn

MOMENTUM = 0.95
# Newton-Schulz coefficients of Keller Jordan's Muon (2024): five steps bring all singular values near 1.
COEFFICIENTS, ITERATIONS = (3.4445, -4.7750, 2.0315), 5
WIDE = 4  # from this ratio of columns to rows on, iterate on the product of rows: fewer operations


class Muon(torch.optim.Optimizer):
    """Muon for hidden matrices and convolutions, AdamW for everything else, with one learning rate for both.

    Muon (Jordan 2024) steps along the orthogonalised momentum. Its step is scaled to the size of an AdamW step
    (0.2 times the root of the larger side; Liu et al. 2025, "Muon is scalable for LLM training"). Convolutions are
    matrices [out, in · k · k].
    """

    def __init__(self, named: Iterable[tuple[str, nn.Parameter]], lr: float, weight_decay: float = 0.01):
        matrices, others = [], []
        for name, parameter in named:
            # Input and output layers use AdamW, as Muon's author advises.
            hidden = parameter.ndim >= 2 and not name.startswith(("conv_in.", "conv_out."))
            (matrices if hidden else others).append(parameter)
        groups = [{"params": matrices, "muon": True}, {"params": others, "muon": False}]
        super().__init__([group for group in groups if group["params"]], {"lr": lr, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure=None) -> None:
        for group in self.param_groups:
            (self._muon if group["muon"] else self._adam)(group)

    def _muon(self, group: dict) -> None:
        by_shape: dict[tuple[int, int], list[tuple[nn.Parameter, Tensor]]] = {}
        for parameter in group["params"]:
            state = self.state[parameter]
            if not state:
                state["momentum"] = torch.zeros_like(parameter)
            momentum = state["momentum"].lerp_(parameter.grad, 1 - MOMENTUM)
            update = parameter.grad.lerp(momentum, MOMENTUM).flatten(1)  # Nesterov momentum
            by_shape.setdefault(tuple(sorted(update.shape)), []).append((parameter, update))
        for (_, larger), members in by_shape.items():
            wide = torch.stack([update if update.shape[0] <= update.shape[1] else update.T for _, update in members])
            for (parameter, update), new in zip(members, orthogonalised(wide), strict=True):
                new = new if update.shape[0] <= update.shape[1] else new.T
                parameter.mul_(1 - group["lr"] * group["weight_decay"])
                parameter.add_(new.reshape(parameter.shape), alpha=-group["lr"] * 0.2 * larger**0.5)

    def _adam(self, group: dict, betas: tuple[float, float] = (0.9, 0.99), epsilon: float = 1e-8) -> None:
        for parameter in group["params"]:
            state = self.state[parameter]
            if not state:
                state |= {"step": 0, "mean": torch.zeros_like(parameter), "square": torch.zeros_like(parameter)}
            state["step"] += 1
            mean = state["mean"].lerp_(parameter.grad, 1 - betas[0])
            square = state["square"].lerp_(parameter.grad.square(), 1 - betas[1])
            unbiased = [1 - beta ** state["step"] for beta in betas]
            parameter.mul_(1 - group["lr"] * group["weight_decay"])
            parameter.addcdiv_(mean, (square / unbiased[1]).sqrt_().add_(epsilon), value=-group["lr"] / unbiased[0])


def orthogonalised(matrices: Tensor) -> Tensor:
    """Approximate the nearest semi-orthogonal matrices of [B, r, c], r <= c; returns float32.

    Wide matrices X are multiplied by a polynomial of XXᵀ, which is computed in float32; the others are iterated in
    bfloat16.
    """
    if matrices.shape[2] >= WIDE * matrices.shape[1]:
        return (_inverse_root(matrices @ matrices.mT).bfloat16() @ matrices.bfloat16()).float()
    a, b, c = COEFFICIENTS
    x = matrices.bfloat16()
    x = x / (x.float().norm(dim=(1, 2), keepdim=True) + 1e-7).bfloat16()
    for _ in range(ITERATIONS):
        square = x @ x.mT
        x = a * x + (b * square + c * (square @ square)) @ x
    return x.float()


def _inverse_root(gram: Tensor) -> Tensor:
    """Approximate gram^(-1/2) of [B, r, r] by the same Newton-Schulz steps, for the product of a matrix's rows."""
    a, b, c = COEFFICIENTS
    scale = gram.diagonal(dim1=1, dim2=2).sum(1)[:, None, None] + 1e-14
    gram, root = gram / scale, None
    for iteration in range(ITERATIONS):
        step = c * (gram @ gram) + b * gram
        step.diagonal(dim1=1, dim2=2).add_(a)
        root = step if root is None else step @ root
        if iteration + 1 < ITERATIONS:
            gram = step @ gram @ step
    return root / scale.sqrt()


class HalfCopy:
    """A bfloat16 copy of a module that computes the gradients of its float32 weights.

    Training bfloat16 weights directly would lose small updates; autocast would convert the weights in every step.
    `module` is the copy. Call `collect` after backward and `refresh` after the optimiser's step.
    """

    def __init__(self, master: nn.Module):
        self.module = copy.deepcopy(master).bfloat16()
        self._pairs = list(zip(master.parameters(), self.module.parameters(), strict=True))

    @torch.no_grad()
    def collect(self) -> None:
        """Move the gradients to the float32 weights."""
        for weight, half in self._pairs:
            weight.grad, half.grad = None if half.grad is None else half.grad.float(), None

    @torch.no_grad()
    def refresh(self) -> None:
        torch._foreach_copy_([half for _, half in self._pairs], [weight.detach() for weight, _ in self._pairs])

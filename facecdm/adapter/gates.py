"""Gates: a factor for each head, layer and noise level, γ(σ), interpolated between learnt knots."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..bases.layers import LayerMap

# Range of the knots, evenly spaced in log σ. σ is the noise relative to the signal; outside, the end values apply.
SIGMA_RANGE = (0.03, 15.0)


def knot_weights(sigma: Tensor, knots: int) -> Tensor:
    """σ [B] → weights [B, knots] ≥ 0 that sum to 1: linear interpolation in log σ, without a host sync."""
    low, high = (math.log(value) for value in SIGMA_RANGE)
    knot = (sigma.float().log().clamp(low, high) - low) * ((knots - 1) / (high - low))
    return (1 - (knot[:, None] - torch.arange(knots, device=sigma.device)).abs()).clamp(min=0)


@dataclass(frozen=True, eq=False)
class Schedule:
    """A factor over the noise level: `values` [K] at decreasing `sigmas` [K], linear in log σ between them."""

    sigmas: Tensor
    values: Tensor

    def at(self, sigma: Tensor) -> Tensor:
        """σ [1] → factor [1], without a host sync."""
        level, points = sigma.float().log(), self.sigmas.log()
        lengths = (points[:-1] - points[1:]).clamp(min=1e-9)
        reached = ((points[:-1] - level) / lengths).clamp(0, 1)  # the share of each interval that is passed
        return (self.values[:1] + (reached * self.values.diff()).sum()).to(sigma.dtype)

    def to(self, device: torch.device) -> "Schedule":
        return Schedule(self.sigmas.to(device), self.values.to(device))


class NoiseGate(nn.Module):
    """A linear spline over the noise level for every head of every layer.

    It is used in place of a small MLP (method.md). It can express the same functions of one number, and one weighted
    sum evaluates all layers. The gates are zero in a new adapter, which is a no-op, and one in imported adapters.
    """

    def __init__(self, layer_map: LayerMap, knots: int):
        super().__init__()
        self.knots = nn.Parameter(torch.zeros(knots, layer_map.heads))
        self._widths = [layer.width // layer.heads for layer in layer_map.layers for _ in range(layer.heads)]

    def table(self, layer_weights: Tensor) -> Tensor:
        """Gates of all features of all layers, [knots, Σ width], times one weight per head [layers × heads]."""
        widths = torch.tensor(self._widths, device=self.knots.device)
        return (self.knots * layer_weights.to(self.knots)).repeat_interleave(widths, dim=1)

    @property
    def is_zero(self) -> bool:
        return not self.knots.any()

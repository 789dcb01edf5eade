"""The attention localisation loss, which keeps the face stream inside the face's box."""

from dataclasses import dataclass

import torch
from torch import Tensor

from ...bases.grid import layer_grid
from ..settings import setting
from ..step_data import StepData
from .loss import Loss, LossInputs, LossSettings, box_cover, grow_box


@dataclass(frozen=True)
class LocalisationLoss(Loss):
    """The share of the face stream's energy outside the face's box; mean over the layers, 0 … 1.

    The energies inside and outside are means over positions, as in FastComposer's balanced loss (Xiao et al. 2023). So
    the size of the face does not matter, and an even spread gives one half.

    grow    size of the box, as a multiple of the detector's box
    quiet   energy below which the loss and its gradient fade to 0; a new adapter has no energy
    """

    grow: float = 1.25
    quiet: float = 1e-3
    needs = frozenset({"outputs"})

    def per_row(self, step_data: StepData) -> Tensor:
        box = grow_box(step_data.rows.box, self.grow)
        height, width = step_data.noisy.shape[-2:]
        shares = [
            self.share(output, box_cover(box, *layer_grid(output.shape[1], height, width)).flatten(1))
            for output in step_data.outputs
        ]
        loss = torch.stack(shares).mean(0) if shares else step_data.noisy.new_zeros(len(step_data.t))
        return torch.where(self.chosen(step_data), loss, 0.0)

    def share(self, output: Tensor, inside: Tensor) -> Tensor:
        """Shares [B] from a layer's output [B, n, C] and the part of each position inside the box [B, n]."""
        energy = output.float().square().mean(-1)
        within, without = (_mean(energy, weight) for weight in (inside, 1 - inside))
        return without / (within + without + self.quiet)


def _mean(values: Tensor, weight: Tensor) -> Tensor:
    return (values * weight).sum(-1) / weight.sum(-1).clamp(min=1e-6)


@dataclass(frozen=True)
class LocalisationSettings(LossSettings):
    name = "localisation"
    formula = "Ē_out / (Ē_in + Ē_out + ε), Ē the mean energy of the face stream's output"
    requires = "outputs"
    trains = "all but what follows the last layer"

    localisation: float = setting(0.0, "Weight of the loss that keeps the face stream within the face.", 0)

    def make(self, inputs: LossInputs) -> LocalisationLoss:
        return LocalisationLoss()

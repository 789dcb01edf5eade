"""The face's stream belongs to the face: attention localisation."""

from dataclasses import dataclass

import torch
from torch import Tensor

from ...errors import Mismatch
from ..step_data import StepData
from .loss import Loss, box_cover, grow_box


@dataclass(frozen=True)
class LocalisationLoss(Loss):
    """The share of the face stream's energy that falls outside of the face's box; mean over the layers, 0…1.

    Inside and outside are means over their places, as in FastComposer's balanced loss (Xiao et al. 2023), so that the
    size of the face does not count: an even spread is one half. `quiet` is the energy below which a stream, such as
    that of a new adapter, is not worth pushing about: there the loss is near 0 and its gradient small.
    """

    grow: float = 1.25
    quiet: float = 1e-3
    name = "localisation"
    needs_outputs = True

    def per_row(self, step_data: StepData) -> Tensor:
        box = grow_box(step_data.rows.box, self.grow)
        height, width = step_data.noisy.shape[-2:]
        shares = [
            self.share(heard, box_cover(box, *places(heard.shape[1], height, width)).flatten(1))
            for heard in step_data.outputs
        ]
        loss = torch.stack(shares).mean(0) if shares else step_data.noisy.new_zeros(len(step_data.t))
        return torch.where(self.chosen(step_data), loss, 0.0)

    def share(self, heard: Tensor, inside: Tensor) -> Tensor:
        """A layer's outputs [B, n, C] and how far each place is inside [B, n] → [B]."""
        energy = heard.float().square().mean(-1)
        within, without = (_mean(energy, weight) for weight in (inside, 1 - inside))
        return without / (within + without + self.quiet)


def _mean(values: Tensor, weight: Tensor) -> Tensor:
    return (values * weight).sum(-1) / weight.sum(-1).clamp(min=1e-6)


def places(count: int, height: int, width: int) -> tuple[int, int]:
    """Rows and columns of a layer of `count` places in a U-Net that halves latents of height × width, rounding up.

    Raises Mismatch.
    """
    rows, columns = height, width
    while rows * columns > count and rows * columns > 1:
        rows, columns = (rows + 1) // 2, (columns + 1) // 2
    if rows * columns != count:
        raise Mismatch(f"a layer of {count} places does not belong to latents of {width} × {height}")
    return rows, columns

"""Reduce, then uplift: the projector's code must still hold the face."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from ...adapter.projectors import Bottleneck
from ..step_data import StepData
from .loss import Loss


@dataclass(frozen=True)
class BottleneckLoss(Loss):
    """Reconstruction of the face's embedding from its code, and a floor under the spread of the code.

    A feature of the code whose standard deviation over the batch falls below `floor` is pulled apart again (the
    variance term of VICReg, Bardes et al. 2022). 0 for projectors that have no bottleneck.
    """

    floor: float = 0.1
    name = "bottleneck"

    def chosen(self, step_data: StepData) -> Tensor:
        return torch.ones_like(step_data.t, dtype=torch.bool)

    def per_row(self, step_data: StepData) -> Tensor:
        """The same for every row, since the spread is the batch's."""
        return self(step_data).expand(len(step_data.t))

    def __call__(self, step_data: StepData) -> Tensor:
        projector, face = step_data.adapter.face_projector, step_data.reference_batch.face.float()
        if not isinstance(projector, Bottleneck):
            return torch.zeros((), device=face.device)
        with torch.autocast(face.device.type, enabled=False):
            loss = projector.reconstruction_loss(face)
            if len(face) > 1:
                spread = (projector.code(face).var(0) + 1e-6).sqrt()
                loss = loss + F.relu(self.floor - spread).mean()
        return loss

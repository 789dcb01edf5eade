"""The loss of the projector's bottleneck, which makes the code keep the identity."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from ...adapter.projectors import Bottleneck
from ..settings import setting
from ..step_data import StepData
from .loss import Loss, LossInputs, LossSettings


@dataclass(frozen=True)
class BottleneckLoss(Loss):
    """Error of the face embedding restored from its code, plus a penalty on a code with too little spread.

    A feature whose standard deviation over the batch is below `floor` is penalised (the variance term of VICReg,
    Bardes et al. 2022). The loss is 0 for a projector without a bottleneck.
    """

    floor: float = 0.1

    def chosen(self, step_data: StepData) -> Tensor:
        return torch.ones_like(step_data.t, dtype=torch.bool)

    def per_row(self, step_data: StepData) -> Tensor:
        """The same value for every row: the spread is computed over the batch."""
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


@dataclass(frozen=True)
class BottleneckSettings(LossSettings):
    name = "bottleneck"
    formula = "‖restore(code(f)) − f‖² + mean max(0, .1 − std(code))"
    trains = "reduce, restore"

    bottleneck: float = setting(
        0.05, "Weight of the loss that keeps the face embedding recoverable from the bottleneck's code.", 0
    )

    def make(self, inputs: LossInputs) -> BottleneckLoss:
        return BottleneckLoss()

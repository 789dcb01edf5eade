"""The interface of a loss and of its settings."""

from dataclasses import dataclass, fields
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from ...adapter.model import TripletAdapter
from ..denoiser import Denoiser
from ..source import Source
from ..step_data import StepData


@dataclass(frozen=True, eq=False)
class LossInputs:
    """The inputs from which a training run makes its losses.

    data         the data set
    denoiser     the base model; None if inputs are checked before it is loaded
    adapter      the adapter to be trained
    recogniser   InsightFace's ONNX file that the data set was embedded with; None: not given
    """

    data: Source
    denoiser: Denoiser | None
    adapter: TripletAdapter | None
    recogniser: Path | None = None


class Loss:
    """A loss: `loss(step_data)` is a float32 scalar, the mean of `per_row` over all rows. Rows left out count as 0.

    So the gradients' mean over several processes is the gradient of the whole batch.

    needs       fields of StepData that it needs, from "outputs", "queries", "plain"
    low, high   the loss applies at noise levels low ≤ t < high
    """

    needs: frozenset[str] = frozenset()
    low, high = 0, 1 << 30

    def applies(self, t: Tensor) -> Tensor:
        """[B] bool: rows at whose noise level the loss applies."""
        return (t >= self.low) & (t < self.high)

    def chosen(self, step_data: StepData) -> Tensor:
        """[B] bool: rows that count; by default rows conditioned on a face and with a face in the picture."""
        box = step_data.rows.box
        return self.applies(step_data.t) & (step_data.face_on > 0) & (box[:, 2] > box[:, 0]) & (box[:, 3] > box[:, 1])

    def per_row(self, step_data: StepData) -> Tensor:
        """[B] float32, 0 for rows that are not chosen."""
        raise NotImplementedError

    def __call__(self, step_data: StepData) -> Tensor:
        return self.per_row(step_data).mean()


class LossSettings:
    """The settings of a loss, a frozen dataclass. They become fields of `Stage`, widgets of FaceCDM Stage
    Settings, keys of the YAML file, and a row of docs/losses.md.

    name       name in histories, charts and reports; with underscores, it is the setting that holds the weight
    formula    formula in docs/losses.md
    requires   requirements besides the data set, for docs/losses.md
    trains     the trained parameters that its gradient reaches, for docs/losses.md
    """

    name: ClassVar[str]
    formula: ClassVar[str]
    requires: ClassVar[str] = ""
    trains: ClassVar[str] = "all"

    every: ClassVar[int] = 1  # steps from one computation to the next; `Term` multiplies the weight by it
    ramp: ClassVar[int] = 0  # steps over which the weight grows

    @classmethod
    def of(cls, stage) -> "LossSettings":
        """The settings of this loss in a stage."""
        return cls(**{one.name: getattr(stage, one.name) for one in fields(cls)})

    @property
    def weight(self) -> float:
        """The loss's weight; at 0 the loss is not computed."""
        return getattr(self, self.name.replace(" ", "_"))

    def check(self) -> None:
        """Raise FaceCDMError if settings contradict one another."""

    def check_inputs(self, stage, inputs: LossInputs) -> None:
        """Raise FaceCDMError if an input of the loss is missing. Called for each stage before the training starts."""

    def make(self, inputs: LossInputs) -> Loss:
        raise NotImplementedError


def box_cover(box: Tensor, height: int, width: int) -> Tensor:
    """Boxes [B, 4] in 0…1 → [B, height, width]: the share of each position that the box covers."""

    def cover(low: Tensor, high: Tensor, count: int) -> Tensor:
        edges = torch.arange(count, device=box.device, dtype=torch.float32)
        low, high = low[:, None] * count, high[:, None] * count
        return (torch.minimum(edges + 1, high) - torch.maximum(edges, low)).clamp(0, 1)

    x0, y0, x1, y1 = box.float().unbind(-1)
    return cover(y0, y1, height)[:, :, None] * cover(x0, x1, width)[:, None, :]


def grow_box(box: Tensor, grow: float) -> Tensor:
    """Boxes [B, 4], made `grow` times as wide and high around their centres."""
    middle, half = (box[:, :2] + box[:, 2:]) / 2, (box[:, 2:] - box[:, :2]) / 2 * grow
    return torch.cat([middle - half, middle + half], -1)


def centred(embedding: Tensor, mean: Tensor | None) -> Tensor:
    """Raw embeddings [..., D] → unit vectors around the mean unit embedding [D]."""
    unit = F.normalize(embedding.float(), dim=-1)
    return unit if mean is None else F.normalize(unit - mean.to(unit), dim=-1)


def spread(values: Tensor, rows: Tensor, count: int) -> Tensor:
    """Values [k] of the rows [k] int64 → [count], 0 elsewhere."""
    return values.new_zeros(count).index_put((rows,), values)

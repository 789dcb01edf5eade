"""What every loss is: a function of a moment, which says what the trainer has to prepare for it."""

import torch
from torch import Tensor
from torch.nn import functional as F

from ..step_data import StepData


class Loss:
    """`loss(moment)` is a scalar, fp32: the mean over the rows of `per_row`, where rows that it leaves out count 0.

    So a batch split over several processes gives the gradient of the whole. `needs_outputs`, `needs_queries` and
    `needs_plain` say what of a `StepData` must be filled; `low` ≤ t < `high` are the noise levels that it looks at.
    """

    name = "loss"
    needs_outputs = False
    needs_queries = False
    needs_plain = False
    low, high = 0, 1 << 30

    def applies(self, t: Tensor) -> Tensor:
        """[B] bool: rows whose noise level this loss looks at."""
        return (t >= self.low) & (t < self.high)

    def chosen(self, step_data: StepData) -> Tensor:
        """[B] bool: rows that count, by default those that also show their face, and whose picture has one."""
        box = step_data.rows.box
        return self.applies(step_data.t) & (step_data.face_on > 0) & (box[:, 2] > box[:, 0]) & (box[:, 3] > box[:, 1])

    def per_row(self, step_data: StepData) -> Tensor:
        """[B] float32, 0 for rows that are not chosen."""
        raise NotImplementedError

    def __call__(self, step_data: StepData) -> Tensor:
        return self.per_row(step_data).mean()


def box_cover(box: Tensor, height: int, width: int) -> Tensor:
    """Boxes [B, 4] in 0…1 → [B, height, width]: the part of each place that the box covers."""

    def cover(low: Tensor, high: Tensor, count: int) -> Tensor:
        edges = torch.arange(count, device=box.device, dtype=torch.float32)
        low, high = low[:, None] * count, high[:, None] * count
        return (torch.minimum(edges + 1, high) - torch.maximum(edges, low)).clamp(0, 1)

    x0, y0, x1, y1 = box.float().unbind(-1)
    return cover(y0, y1, height)[:, :, None] * cover(x0, x1, width)[:, None, :]


def grow_box(box: Tensor, grow: float) -> Tensor:
    """Boxes [B, 4], `grow` times as wide and as high around their middle."""
    middle, half = (box[:, :2] + box[:, 2:]) / 2, (box[:, 2:] - box[:, :2]) / 2 * grow
    return torch.cat([middle - half, middle + half], -1)


def centred(embedding: Tensor, mean: Tensor | None) -> Tensor:
    """Raw embeddings [..., D] → unit vectors around the mean unit embedding [D]."""
    unit = F.normalize(embedding.float(), dim=-1)
    return unit if mean is None else F.normalize(unit - mean.to(unit), dim=-1)


def spread(values: Tensor, rows: Tensor, count: int) -> Tensor:
    """Values [k] of the rows [k] int64 → [count], 0 elsewhere."""
    return values.new_zeros(count).index_put((rows,), values)

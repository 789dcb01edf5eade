"""A head that locates the face in the clean latents that the base model predicts during sampling.

The predicted clean latents (x̂₀) show a blurred face long before its details are decided. A small head estimates five
key points and their uncertainty from them. It depends on the base model's latents only, not on a person.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..faces.align import TEMPLATE
from ..faces.location import SIZE

POINTS = 5
KNOWN = 3  # channels beside the latents: position and noise level
GRID = 32  # most positions along a side; larger latents are averaged down
OUTSIDE = 1e-4  # weight of a position outside the person's region; above 0, so that an empty region gives no NaN
_SHAPE = TEMPLATE / SIZE  # key points of an upright face in 0…1 of the recogniser's crop
_SPREAD = float(((_SHAPE - _SHAPE.mean(0)) ** 2).sum(-1).mean() ** 0.5)


class LocationHead(nn.Module):
    """Five key points and their uncertainty from predicted clean latents.

    Each point is the mean position of its heat map (Sun et al. 2018, "Integral human pose regression"). The uncertainty
    is one number for all five points.
    """

    def __init__(self, channels: int, width: int = 64):
        super().__init__()
        self.channels = channels
        # Two channels give the position, since faces are rarely at the picture's edge.
        self.body = nn.Sequential(
            nn.Conv2d(channels + KNOWN, width, 3, padding=1),
            nn.GELU(),
            nn.Conv2d(width, width, 3, padding=1),
            nn.GELU(),
            nn.Conv2d(width, width, 3, padding=2, dilation=2),
            nn.GELU(),
            nn.Conv2d(width, width, 3, padding=4, dilation=4),
            nn.GELU(),
        )
        self.heat = nn.Conv2d(width, POINTS, 1)
        self.spread = nn.Linear(width, 1)

    def forward(self, clean: Tensor, noise_level: Tensor, region: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """
        clean        predicted clean latents [B, C, h, w], of about unit variance
        noise_level  σ divided by the signal's factor at the step [B]
        region       [1 or B, 1, h, w] in 0…1, where the face may be; None: everywhere
        returns      key points [B, 5, 2] in 0…1 of the picture, and the logarithm of their standard deviation [B];
                     the deviation has the unit of the key points
        """
        height, width = clean.shape[-2:]
        if max(height, width) > GRID:
            scale = GRID / max(height, width)
            size = round(height * scale), round(width * scale)
            clean = F.interpolate(clean, size, mode="area")
            region = None if region is None else F.interpolate(region, size, mode="area")
            height, width = size
        y = (torch.arange(height, device=clean.device, dtype=clean.dtype) + 0.5) / height
        x = (torch.arange(width, device=clean.device, dtype=clean.dtype) + 0.5) / width
        rows, columns = torch.meshgrid(y, x, indexing="ij")
        level = noise_level.to(clean).clamp(1e-3, 1e3).log().view(-1, 1, 1, 1) / 4
        known = torch.stack([rows - 0.5, columns - 0.5])[None].expand(len(clean), -1, -1, -1)
        seen = self.body(torch.cat([clean, known, level.expand(len(clean), 1, height, width)], 1))
        heat, pooled = self.heat(seen), seen.mean((2, 3))
        if region is not None:
            weight = region.clamp(min=OUTSIDE)
            heat, pooled = heat + weight.log(), (seen * weight).sum((2, 3)) / weight.sum((2, 3))
        share = heat.flatten(2).softmax(-1)
        points = torch.stack([share @ columns.reshape(-1), share @ rows.reshape(-1)], -1)
        return points, self.spread(pooled)[:, 0]


def location_loss(points: Tensor, log_std: Tensor, wanted: Tensor) -> Tensor:
    """Negative log-likelihood of the true key points [B, 5, 2] for Gaussian errors, without the constant."""
    squared = (points - wanted).square().sum(-1).mean(-1)  # summed over both axes, averaged over the points
    return (squared / (2 * (2 * log_std).exp()) + 2 * log_std).mean()


def face_side(points: Tensor) -> Tensor:
    """The side of the recogniser's crop around key points [B, 5, 2], in the unit of the key points [B]."""
    centred = points - points.mean(1, keepdim=True)
    return centred.square().sum(-1).mean(-1).sqrt() / _SPREAD


def trust(points: Tensor, log_std: Tensor, tolerance: float = 0.1) -> Tensor:
    """The trust in estimated key points [B, 5, 2], 0…1 [B], which scales the face stream.

    log_std    logarithm of their standard deviation [B]
    tolerance  standard deviation, as a share of the face's crop, at which the trust is 0.5
    """
    return torch.sigmoid(-4 * (log_std - (face_side(points) * tolerance).clamp(min=1e-6).log()))

"""A head that locates the face in the clean latents that the base model predicts during sampling.

The predicted clean latents (x̂₀) show a blurred face long before its details are decided. A small head estimates five
key points and their uncertainty from them. It depends on the base model's latents only, not on a person.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

POINTS = 5
GRID = 32  # most positions along a side; larger latents are averaged down


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
            nn.Conv2d(channels + 3, width, 3, padding=1),
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

    def forward(self, clean: Tensor, noise_level: Tensor) -> tuple[Tensor, Tensor]:
        """
        clean        predicted clean latents [B, C, h, w], of about unit variance
        noise_level  σ divided by the signal's factor at the step [B]
        returns      key points [B, 5, 2] in 0…1 of the picture, and the logarithm of their standard deviation [B] in
                     the same unit
        """
        height, width = clean.shape[-2:]
        if max(height, width) > GRID:
            scale = GRID / max(height, width)
            clean = F.interpolate(clean, (round(height * scale), round(width * scale)), mode="area")
            height, width = clean.shape[-2:]
        y = (torch.arange(height, device=clean.device, dtype=clean.dtype) + 0.5) / height
        x = (torch.arange(width, device=clean.device, dtype=clean.dtype) + 0.5) / width
        rows, columns = torch.meshgrid(y, x, indexing="ij")
        level = noise_level.to(clean).clamp(1e-3, 1e3).log().view(-1, 1, 1, 1) / 4
        known = torch.stack([rows - 0.5, columns - 0.5])[None].expand(len(clean), -1, -1, -1)
        seen = self.body(torch.cat([clean, known, level.expand(len(clean), 1, height, width)], 1))
        share = self.heat(seen).flatten(2).softmax(-1)
        points = torch.stack([share @ columns.reshape(-1), share @ rows.reshape(-1)], -1)
        return points, self.spread(seen.mean((2, 3)))[:, 0]


def location_loss(points: Tensor, log_std: Tensor, wanted: Tensor) -> Tensor:
    """Negative log-likelihood of the true key points [B, 5, 2] for Gaussian errors, without the constant."""
    squared = (points - wanted).square().sum(-1).mean(-1)  # summed over both axes, averaged over the points
    return (squared / (2 * (2 * log_std).exp()) + 2 * log_std).mean()


def trust(log_std: Tensor, face_size: float = 0.3, tolerance: float = 0.15) -> Tensor:
    """The trust in the key points, 0…1, which scales the face stream.

    face_size  side of the face's crop in 0…1 of the picture
    tolerance  standard deviation, as a share of the crop, at which the trust is 0.5
    """
    return torch.sigmoid(-4 * (log_std - torch.log(torch.tensor(face_size * tolerance))))

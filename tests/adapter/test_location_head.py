"""The location head: positions in, positions out, and an uncertainty that is learnt."""

import torch

from facecdm.adapter.location_head import GRID, LocationHead, location_loss, trust


def picture_of(points, side=16):
    """Latents [B, 4, side, side]: a blob at each key point's mean."""
    steps = (torch.arange(side) + 0.5) / side
    middle = points.mean(1)
    distance = (steps[None, None, :] - middle[:, :1, None]) ** 2 + (steps[None, :, None] - middle[:, 1:, None]) ** 2
    return torch.exp(-distance / 0.02)[:, None].expand(-1, 4, -1, -1)


def test_it_learns_where_a_face_is_and_how_well_it_knows():
    torch.manual_seed(0)
    head = LocationHead(4, width=16)
    optimiser = torch.optim.Adam(head.parameters(), 3e-3)
    offsets = torch.tensor([[-0.1, -0.1], [0.1, -0.1], [0, 0], [-0.08, 0.1], [0.08, 0.1]])
    sigma = torch.ones(32)
    for _ in range(150):
        wanted = torch.rand(32, 1, 2) * 0.5 + 0.25 + offsets
        loss = location_loss(*head(picture_of(wanted), sigma), wanted)
        loss.backward()
        optimiser.step()
        optimiser.zero_grad()
    wanted = torch.rand(32, 1, 2) * 0.5 + 0.25 + offsets
    with torch.no_grad():
        points, log_std = head(picture_of(wanted), sigma)
    error = (points - wanted).square().sum(-1).mean().sqrt()
    assert error < 0.04
    assert 0.3 < error / (log_std.exp().mean() * 2**0.5) < 3, "the standard deviation that it states is about the error"


def test_large_and_oblong_latents():
    head = LocationHead(4, width=16)
    points, log_std = head(torch.randn(2, 4, 128, 96), torch.tensor([1.0, 5.0]))
    assert points.shape == (2, 5, 2) and log_std.shape == (2,)
    assert points.min() >= 0 and points.max() <= 1
    coarse = torch.nn.functional.interpolate(torch.randn(1, 4, 64, 64), (GRID, GRID), mode="area")
    assert torch.isfinite(head(coarse, torch.tensor([0.0]))[0]).all()


def test_trust_falls_with_uncertainty():
    falling = trust(torch.tensor([0.001, 0.045, 1.0]).log())
    assert falling[0] > 0.99 and abs(falling[1] - 0.5) < 0.01 and falling[2] < 0.01

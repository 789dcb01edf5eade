"""The location head: positions in, positions out, and an uncertainty that is learnt."""

import torch

from facecdm.adapter.location_head import GRID, LocationHead, face_side, location_loss, trust
from facecdm.faces.align import TEMPLATE
from facecdm.faces.location import SIZE


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
    for step in range(300):  # the rate falls, so that the end depends little on the processor
        optimiser.param_groups[0]["lr"] = 3e-3 * (1 - step / 300)
        wanted = torch.rand(32, 1, 2) * 0.5 + 0.25 + offsets
        loss = location_loss(*head(picture_of(wanted), sigma), wanted)
        loss.backward()
        optimiser.step()
        optimiser.zero_grad()
    wanted = torch.rand(32, 1, 2) * 0.5 + 0.25 + offsets
    with torch.no_grad():
        points, log_std = head(picture_of(wanted), sigma)
    error = (points - wanted).square().sum(-1).mean().sqrt()
    assert error < 0.02
    assert 0.3 < error / (log_std.exp().mean() * 2**0.5) < 3, "the standard deviation that it states is about the error"


def test_large_and_oblong_latents():
    head = LocationHead(4, width=16)
    points, log_std = head(torch.randn(2, 4, 128, 96), torch.tensor([1.0, 5.0]))
    assert points.shape == (2, 5, 2) and log_std.shape == (2,)
    assert points.min() >= 0 and points.max() <= 1
    coarse = torch.nn.functional.interpolate(torch.randn(1, 4, 64, 64), (GRID, GRID), mode="area")
    assert torch.isfinite(head(coarse, torch.tensor([0.0]))[0]).all()


def test_trust_falls_with_uncertainty_in_units_of_the_face():
    upright = torch.tensor(TEMPLATE, dtype=torch.float32)[None] / SIZE
    for side in (0.2, 0.5):
        points = (upright * side + 0.1).expand(3, -1, -1)
        torch.testing.assert_close(face_side(points), torch.full((3,), side))
        falling = trust(points, (torch.tensor([0.01, 0.1, 1.0]) * side).log())
        assert falling[0] > 0.99 and abs(falling[1] - 0.5) < 0.01 and falling[2] < 0.01
    together = trust(torch.full((1, 5, 2), 0.5), torch.tensor([-3.0]))
    assert together < 0.01, "points that coincide are no face"


def test_a_region_chooses_one_of_two_faces():
    """The head sees two faces alike; the heat map is limited to the region."""
    head = LocationHead(4, width=16)
    with torch.no_grad():
        head.body[0].weight.zero_(), head.body[0].bias.zero_()
        head.body[0].weight[:, 0, 1, 1] = 1
        for layer in (head.body[2], head.body[4], head.body[6]):
            layer.weight.zero_(), layer.bias.zero_()
            layer.weight[range(16), range(16), 1, 1] = 1
        head.heat.weight.fill_(20)
    left, right = (picture_of(torch.full((1, 5, 2), 0.5)) for _ in range(2))
    both = torch.cat([left, right], -1)
    region = torch.zeros(1, 1, 16, 32)
    region[..., 16:] = 1
    between, _ = head(both, torch.ones(1))
    inside, _ = head(both, torch.ones(1), region)
    assert abs(between[..., 0].mean() - 0.5) < 0.02
    assert abs(inside[..., 0].mean() - 0.75) < 0.02 and abs(inside[..., 1].mean() - 0.5) < 0.02
    everywhere = head(both, torch.ones(1), torch.ones_like(region))
    for one, other in zip(everywhere, head(both, torch.ones(1))):
        torch.testing.assert_close(one, other)
    assert torch.isfinite(head(both, torch.ones(1), torch.zeros_like(region))[0]).all(), "an empty region"

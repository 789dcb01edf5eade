"""Losses on the inside of the U-Net: localisation, alignment, background; and the bottleneck's."""

import pytest
import torch
from step_stubs import StubDenoiser, make_rows, make_step_data
from torch import nn
from torch.nn import functional as F

from facecdm.adapter.config import AdapterConfig
from facecdm.adapter.model import TripletAdapter
from facecdm.bases.grid import layer_grid
from facecdm.errors import Mismatch
from facecdm.training.losses import AlignmentLoss, BackgroundLoss, BottleneckLoss, LocalisationLoss
from facecdm.training.losses.alignment import response

LAYERS = [(256, 8, 2), (64, 16, 4)]  # positions, width and heads of the stub's layers on latents of 16 × 16


def outputs(rows: int, scale: float = 1.0) -> list[torch.Tensor]:
    rng = torch.Generator().manual_seed(3)
    return [(torch.randn(rows, n, width, generator=rng) * scale).requires_grad_() for n, width, _ in LAYERS]


def test_localisation_of_an_even_spread_is_one_half_for_any_box():
    even = [torch.ones(3, n, width) for n, width, _ in LAYERS]
    boxes = torch.tensor([[0.4, 0.4, 0.6, 0.6], [0.1, 0.1, 0.8, 0.9], [0.0, 0.3, 0.3, 1.2]])
    values = LocalisationLoss().per_row(make_step_data([500] * 3, rows=make_rows(3, box=boxes), outputs=even))
    assert torch.allclose(values, torch.tensor(0.5), atol=1e-3)


def test_descent_moves_the_energy_into_the_box():
    output = outputs(1)
    loss = LocalisationLoss(grow=1.0)
    optimiser = torch.optim.Adam(output, 0.05)
    values = []
    for _ in range(60):
        value = loss(make_step_data([500], outputs=output))
        optimiser.zero_grad()
        value.backward()
        optimiser.step()
        values.append(value.item())
    assert 0.4 < values[0] < 0.6 and values[-1] < 0.05
    grid = output[0].detach().square().mean(-1).view(16, 16)
    assert grid[4:12, 4:12].mean() > 0.5 and grid[:3].mean() < 0.1


def test_localisation_of_a_new_adapter_has_a_small_gradient():
    """Zero gates: no NaN, and a gradient below the clipping norm."""
    for scale in (0.0, 1e-4):
        output = outputs(2, scale)
        value = LocalisationLoss()(make_step_data([0, 999], outputs=output))
        value.backward()
        assert value < 1e-3 and all(torch.isfinite(x.grad).all() and x.grad.norm() < 1 for x in output)


def test_localisation_ignores_dropped_rows():
    output = outputs(2)
    LocalisationLoss()(make_step_data([500, 500], outputs=output, face_on=torch.tensor([1.0, 0.0]))).backward()
    assert all(x.grad[0].abs().sum() > 0 and x.grad[1].abs().sum() == 0 for x in output)


def test_layer_grids_of_odd_latents():
    """13 × 9 latents: a stride of two with padding rounds up, as in the U-Nets' own downsampling."""
    x = torch.zeros(1, 1, 13, 9)
    for _ in range(4):
        assert layer_grid(x[0].numel(), 13, 9) == x.shape[-2:]
        x = F.conv2d(x, torch.zeros(1, 1, 3, 3), stride=2, padding=1)
    with pytest.raises(Mismatch, match="60 positions"):
        layer_grid(60, 13, 9)


def queries(rows: int, seed: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
    rng = torch.Generator().manual_seed(seed)
    return [
        (torch.randn(rows, n, width, generator=rng).requires_grad_(), torch.randn(rows, 7, width, generator=rng))
        for n, width, _ in LAYERS
    ]


def test_response_is_attention_of_tokens_to_positions():
    (q, k), _ = queries(2, 0)
    one = torch.softmax(k[0, 3, 4:] @ q[0, :, 4:].T / 2, -1) @ q[0, :, 4:]  # the second of two heads, 4 features
    assert torch.allclose(response(k, q, 2)[0, 3, 4:], one, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_descent_aligns_with_the_plain_model(dtype):
    own, plain = queries(2, 0), queries(2, 1)
    parameters = [q for q, _ in own]
    optimiser = torch.optim.Adam(parameters, 0.1)
    values = []
    for _ in range(60):
        with torch.autocast("cpu", torch.bfloat16, enabled=dtype != torch.float32):
            value = AlignmentLoss()(
                make_step_data([0, 999], queries=[(q.to(dtype), k.to(dtype)) for q, k in own], plain_queries=plain)
            )
        assert value.dtype == torch.float32 and torch.isfinite(value)
        optimiser.zero_grad()
        value.backward()
        optimiser.step()
        values.append(value.item())
    assert values[-1] < 0.35 * values[0]
    assert all(q.grad is None for q, _ in plain)
    assert AlignmentLoss()(make_step_data([0, 999], queries=plain, plain_queries=plain)) == 0


def test_only_the_layout_term_depends_on_positions():
    """Queries that moved to other positions give the same response to the prompt."""
    own = queries(1, 0)
    moved = [(q.roll(5, dims=1), k) for q, k in own]
    step_data = make_step_data([500], queries=moved, plain_queries=own)
    assert AlignmentLoss(layout=0)(step_data) < 1e-10 < 0.1 < AlignmentLoss(layout=1)(step_data)


def test_alignment_ignores_dropped_rows():
    own = queries(2, 0)
    AlignmentLoss()(
        make_step_data([500, 500], queries=own, plain_queries=queries(2, 1), face_on=torch.tensor([0.0, 1.0]))
    ).backward()
    assert all(q.grad[0].abs().sum() == 0 and q.grad[1].abs().sum() > 0 for q, _ in own)


def test_background_has_gradients_outside_the_face_only():
    prediction, plain = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0)), torch.zeros(2, 3, 16, 16)
    prediction.requires_grad_(), plain.requires_grad_()
    loss = BackgroundLoss(grow=1.0)
    step_data = make_step_data(
        [0, 999], prediction=prediction, plain_prediction=plain, face_on=torch.tensor([1.0, 0.0])
    )
    loss(step_data).backward()
    grid = prediction.grad[0].abs().sum(0)
    assert not grid[4:12, 4:12].any() and grid[:4].all() and grid[:, 12:].all()
    assert not prediction.grad[1].any() and plain.grad is None
    expected = prediction[0].detach().square().mean(0)[:4].mean()
    assert loss.per_row(step_data)[0].item() == pytest.approx(expected.item(), rel=0.3)


def test_the_background_begins_outside_of_one_and_a_half_boxes():
    """The box of a quarter to three quarters grows to an eighth … seven eighths of the 16 positions a side."""
    prediction = torch.zeros(1, 3, 16, 16)
    prediction[..., 2:14, 2:14] = 1.0
    assert BackgroundLoss()(make_step_data([0], prediction=prediction, plain_prediction=prediction * 0)) == 0
    prediction[..., 1, 8] = 1.0
    assert BackgroundLoss()(make_step_data([0], prediction=prediction, plain_prediction=prediction * 0)) > 0


def test_localisation_grows_the_box_by_a_quarter():
    energy = torch.zeros(16, 16)
    energy[3:13, 3:13] = 1.0  # 1.25 times the 8 positions of the box
    inside = energy.flatten()[None, :, None].expand(1, 256, 8)
    assert LocalisationLoss()(make_step_data([0], outputs=[inside])) == 0
    assert LocalisationLoss(grow=1.0)(make_step_data([0], outputs=[inside])) > 0.1


def test_alignment_is_the_mean_over_layers():
    own, plain = queries(1, 0), queries(1, 1)
    one, two = (AlignmentLoss()(make_step_data([0], queries=[a], plain_queries=[b])) for a, b in zip(own, plain))
    both = AlignmentLoss()(make_step_data([0], queries=own, plain_queries=plain))
    assert torch.allclose(both, (one + two) / 2)


def make_adapter() -> TripletAdapter:
    torch.manual_seed(0)
    return TripletAdapter(AdapterConfig(StubDenoiser.layer_map, face_width=512, face_rank=16, face_tokens=2))


def test_descent_restores_the_face():
    adapter = make_adapter()
    optimiser = torch.optim.Adam(adapter.parameters(), 3e-3)
    step_data = make_step_data([0, 999, 5, 5], adapter=adapter)
    values = []
    for _ in range(100):
        value = BottleneckLoss()(step_data)
        optimiser.zero_grad()
        value.backward()
        optimiser.step()
        values.append(value.item())
    assert values[-1] < 0.1 * values[0]
    touched = {name.split(".")[1] for name, part in adapter.named_parameters() if part.grad is not None}
    assert touched == {"reduce", "restore"}


def test_the_variance_floor_prevents_a_collapsed_code():
    adapter = make_adapter()
    projector = adapter.face_projector
    with torch.no_grad():
        projector.reduce.weight[:8] *= 1e-3  # half of the code says nothing
    step_data = make_step_data([500] * 8, adapter=adapter)
    before = projector.code(step_data.reference_batch.face).std(0)[:8].max().item()
    optimiser = torch.optim.Adam(adapter.parameters(), 1e-3)
    for _ in range(30):
        optimiser.zero_grad()
        (
            BottleneckLoss(floor=0.3)(step_data) - projector.reconstruction_loss(step_data.reference_batch.face)
        ).backward()
        optimiser.step()
    assert before < 0.01 and projector.code(step_data.reference_batch.face).std(0)[:8].min() > 0.25


def test_bottleneck_of_one_row_and_of_other_projectors():
    adapter = make_adapter()
    value = BottleneckLoss()(make_step_data([500], adapter=adapter))
    assert torch.isfinite(value) and value > 0
    adapter.face_projector = nn.Linear(512, 24)
    assert BottleneckLoss()(make_step_data([500], adapter=adapter)) == 0

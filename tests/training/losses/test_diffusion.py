import pytest
import torch
from step_stubs import StubDenoiser, make_rows, make_step_data

from facecdm.training.losses import DiffusionLoss, Loss
from facecdm.training.losses.diffusion import min_snr, target

LEVELS = [0, 1, 250, 500, 900, 999]


@pytest.mark.parametrize("kind", ["epsilon", "v"])
def test_zero_for_the_exact_prediction(kind):
    step_data = make_step_data(LEVELS, StubDenoiser(kind))
    right = make_step_data(LEVELS, StubDenoiser(kind), prediction=target(step_data))
    assert DiffusionLoss()(right) == 0
    # it implies the clean latents, at every level with signal
    near = torch.tensor(LEVELS) < 999
    assert torch.allclose(right.clean[near], right.rows.latents[near], atol=1e-3)


def test_weights_are_min_snr():
    """Against the formulas of the paper, where they are finite; both kinds give an error of z the same weight."""
    denoiser = StubDenoiser()
    step_data = {kind: make_step_data(LEVELS, StubDenoiser(kind)) for kind in ("epsilon", "v")}
    snr = (denoiser.signal / denoiser.noise)[LEVELS].double() ** 2
    assert torch.allclose(min_snr(step_data["epsilon"], 5.0).double(), snr.clamp(max=5) / snr, rtol=1e-4)
    assert torch.allclose(min_snr(step_data["v"], 5.0).double(), snr.clamp(max=5) / (snr + 1), rtol=1e-4)
    assert min_snr(step_data["epsilon"], 5.0)[-1] == 1 and min_snr(step_data["v"], 5.0)[-1] < 1e-6


@pytest.mark.parametrize("kind", ["epsilon", "v"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_gradient_is_finite_at_every_level(kind, dtype):
    denoiser = StubDenoiser(kind)
    step_data = make_step_data(
        LEVELS,
        denoiser,
        prediction=make_step_data(LEVELS, denoiser).prediction.to(dtype),
        face_region=torch.ones(len(LEVELS), dtype=torch.bool),
    )
    loss = DiffusionLoss()(step_data)
    loss.backward()
    assert loss.dtype == torch.float32
    assert all(torch.isfinite(value.grad).all() and value.grad.abs().sum() > 0 for value in denoiser.net.parameters())


def test_face_rows_count_the_face_only():
    step_data = make_step_data([500, 500], prediction=torch.zeros(2, 3, 16, 16))
    error = torch.zeros(2, 3, 16, 16)
    error[:, :, 0, 0] = 3.0  # a corner, far from the face
    wrong = make_step_data([500, 500], prediction=target(step_data) + error, face_region=torch.tensor([True, False]))
    rows = DiffusionLoss().per_row(wrong)
    assert rows[0] == 0 and rows[1] > 0
    assert DiffusionLoss(face=False).per_row(wrong).all()


def test_position_weights_inside_and_outside_of_the_grown_box():
    """The box of 8 positions a side grows to 10 of 16; outside weighs `outside` times as much."""
    step_data = make_step_data([500], face_region=torch.tensor([True]))
    weight = DiffusionLoss(outside=0.25).position_weights(step_data)[0]
    assert weight[3, 3] == weight[12, 12] == weight.max() and weight[2, 8] == weight[0, 0] == weight.min()
    assert weight[0, 0] / weight[3, 3] == pytest.approx(0.25) and weight.mean() == pytest.approx(1)


def test_scale_does_not_depend_on_the_box():
    boxes = torch.tensor([[0.4, 0.4, 0.5, 0.5], [0.1, 0.0, 0.9, 0.95], [0.0, 0.0, 0.0, 0.0], [0.9, 0.9, 1.2, 1.3]])
    rows = make_rows(4, box=boxes)
    step_data = make_step_data([500] * 4, rows=rows)
    off = make_step_data(
        [500] * 4, rows=rows, prediction=target(step_data) + 0.5, face_region=torch.ones(4, dtype=torch.bool)
    )
    for outside in (0.0, 0.3):
        values = DiffusionLoss(gamma=None, outside=outside).per_row(off)
        assert torch.allclose(values, torch.full((4,), 0.25), rtol=1e-4)


def test_descent_predicts_the_noise():
    denoiser = StubDenoiser()
    torch.manual_seed(0)
    optimiser = torch.optim.Adam(denoiser.net.parameters(), 0.02)
    values = []
    for step in range(60):
        loss = DiffusionLoss()(make_step_data([900] * 4, denoiser, seed=step))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        values.append(loss.item())
    assert values[-1] < 0.2 * values[0]


@pytest.mark.parametrize(
    "box, counts", [((0.2, 0.2, 0.8, 0.8), 1), ((0.2, 0.5, 0.8, 0.5), 0), ((0.5, 0.2, 0.5, 0.8), 0)]
)
def test_a_row_without_an_area_of_its_face_is_left_out(box, counts):
    step_data = make_step_data([100], rows=make_rows(1, box=torch.tensor([box])))
    assert Loss().chosen(step_data).tolist() == [bool(counts)]

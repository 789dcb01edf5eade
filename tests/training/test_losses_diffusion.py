import pytest
import torch
from moments import StubDenoiser, make_moment, make_rows

from facecdm.training.losses import DiffusionLoss
from facecdm.training.losses.diffusion import min_snr, target

LEVELS = [0, 1, 250, 500, 900, 999]


@pytest.mark.parametrize("kind", ["epsilon", "v"])
def test_zero_for_the_right_answer(kind):
    step_data = make_moment(LEVELS, StubDenoiser(kind))
    right = make_moment(LEVELS, StubDenoiser(kind), prediction=target(step_data))
    assert DiffusionLoss()(right) == 0
    # and it is the right answer: the clean latents come back, where the noise leaves anything of them
    near = torch.tensor(LEVELS) < 999
    assert torch.allclose(right.clean[near], right.rows.latents[near], atol=1e-3)


def test_weights_are_min_snr():
    """Against the formulas of the paper, where they are finite; both kinds weigh an error of z alike."""
    denoiser = StubDenoiser()
    moments = {kind: make_moment(LEVELS, StubDenoiser(kind)) for kind in ("epsilon", "v")}
    snr = (denoiser.signal / denoiser.noise)[LEVELS].double() ** 2
    assert torch.allclose(min_snr(moments["epsilon"], 5.0).double(), snr.clamp(max=5) / snr, rtol=1e-4)
    assert torch.allclose(min_snr(moments["v"], 5.0).double(), snr.clamp(max=5) / (snr + 1), rtol=1e-4)
    assert min_snr(moments["epsilon"], 5.0)[-1] == 1 and min_snr(moments["v"], 5.0)[-1] < 1e-6


@pytest.mark.parametrize("kind", ["epsilon", "v"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_gradient_is_finite_at_every_level(kind, dtype):
    denoiser = StubDenoiser(kind)
    step_data = make_moment(
        LEVELS,
        denoiser,
        prediction=make_moment(LEVELS, denoiser).prediction.to(dtype),
        face_region=torch.ones(len(LEVELS), dtype=torch.bool),
    )
    loss = DiffusionLoss()(step_data)
    loss.backward()
    assert loss.dtype == torch.float32
    assert all(torch.isfinite(value.grad).all() and value.grad.abs().sum() > 0 for value in denoiser.net.parameters())


def test_face_rows_look_at_the_face_alone():
    step_data = make_moment([500, 500], prediction=torch.zeros(2, 3, 16, 16))
    error = torch.zeros(2, 3, 16, 16)
    error[:, :, 0, 0] = 3.0  # a corner, far from the face
    wrong = make_moment([500, 500], prediction=target(step_data) + error, face_region=torch.tensor([True, False]))
    rows = DiffusionLoss().per_row(wrong)
    assert rows[0] == 0 and rows[1] > 0
    assert DiffusionLoss(face=False).per_row(wrong).all()


def test_scale_does_not_depend_on_the_box():
    boxes = torch.tensor([[0.4, 0.4, 0.5, 0.5], [0.1, 0.0, 0.9, 0.95], [0.0, 0.0, 0.0, 0.0], [0.9, 0.9, 1.2, 1.3]])
    rows = make_rows(4, box=boxes)
    step_data = make_moment([500] * 4, rows=rows)
    off = make_moment(
        [500] * 4, rows=rows, prediction=target(step_data) + 0.5, face_region=torch.ones(4, dtype=torch.bool)
    )
    for outside in (0.0, 0.3):
        values = DiffusionLoss(gamma=None, outside=outside).per_row(off)
        assert torch.allclose(values, torch.full((4,), 0.25), rtol=1e-4)


def test_descent_learns_the_noise():
    denoiser = StubDenoiser()
    torch.manual_seed(0)
    optimiser = torch.optim.Adam(denoiser.net.parameters(), 0.02)
    values = []
    for step in range(60):
        loss = DiffusionLoss()(make_moment([900] * 4, denoiser, seed=step))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        values.append(loss.item())
    assert values[-1] < 0.2 * values[0]

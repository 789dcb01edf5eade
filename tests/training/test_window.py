"""A window around the face: coordinates follow the crop, and nothing else of the batch changes."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from lab import STAGE, tiny_trainer

from facecdm.training.randomness import make_random_numbers
from facecdm.training.rows import Prompt, Rows
from facecdm.training.window import windowed

B = 3


def batch(height: int, width: int, box: list[float], sizes: bool = False) -> Rows:
    """Latents whose two channels are the row and the column that they come from; a control of 8 pixels a latent."""
    y, x = torch.meshgrid(torch.arange(height).float(), torch.arange(width).float(), indexing="ij")
    latents = torch.stack([y, x]).repeat(B, 1, 1, 1)
    control = latents.repeat_interleave(8, 2).repeat_interleave(8, 3)
    given = torch.tensor([[900.0, 700, 3, 5, height * 8, width * 8]]).repeat(B, 1) if sizes else None
    box = torch.tensor([box]).repeat(B, 1)
    points = box[:, None, :2] + torch.rand(B, 5, 2, generator=torch.Generator().manual_seed(0)) * (
        box[:, None, 2:] - box[:, None, :2]
    )
    return Rows(
        latents,
        Prompt(torch.zeros(B, 7, 8), None, given),
        torch.zeros(B, 4),
        None,
        box,
        points,
        control,
        torch.arange(B),
    )


@given(
    step=st.integers(0, 999),
    height=st.sampled_from([16, 32, 40, 64]),
    width=st.sampled_from([16, 24, 64]),
    x=st.floats(0, 0.6),
    y=st.floats(0, 0.6),
    side=st.floats(0, 0.4),
)
def test_a_window_lies_in_the_picture_and_coordinates_follow(step, height, width, x, y, side):
    rows = batch(height, width, [x, y, x + side, y + side], sizes=True)
    random_numbers = make_random_numbers(STAGE.with_settings(face_window=1.0), step, 0, rows.latents.shape)
    assert random_numbers.window.all()
    random_numbers = replace(random_numbers, epsilon=rows.latents)
    cut, cropped = windowed(rows, random_numbers)
    h, w = cut.latents.shape[-2:]
    assert h % 8 == w % 8 == 0 and height / 2 <= h < height / 2 + 8 and width / 2 <= w < width / 2 + 8
    top, left = cut.latents[:, 0, 0, 0], cut.latents[:, 1, 0, 0]
    assert torch.equal(cropped.epsilon, cut.latents), "noise is cut where the picture is"
    assert torch.equal(cut.latents[:, 0, :, 0], top[:, None] + torch.arange(h)), "whole rows, in order"
    assert torch.equal(cut.latents[:, 1, 0], left[:, None] + torch.arange(w))
    assert torch.equal(cut.control[:, :, ::8, ::8], cut.latents), "the pose is cut where the picture is"
    corner, small = torch.stack([left, top], 1), torch.tensor([w, h])
    before = rows.keypoints * torch.tensor([width, height])
    torch.testing.assert_close(cut.keypoints * small + corner[:, None], before, atol=1e-3, rtol=0)
    inside = (before >= corner[:, None]).all() and (before <= (corner + small)[:, None]).all()
    if inside and side > 0.01:
        assert (cut.box >= 0).all() and (cut.box <= 1).all() and (cut.box[:, 2:] > cut.box[:, :2]).all()
    assert cut.prompt.sizes.tolist() == [
        [900, 700, 3 + 8 * y, 5 + 8 * x, 8 * h, 8 * w] for y, x in zip(top.tolist(), left.tolist())
    ]


def test_the_face_is_inside_and_a_small_picture_stays_whole():
    rows = batch(32, 32, [0.6, 0.1, 0.8, 0.3])
    random_numbers = make_random_numbers(STAGE.with_settings(face_window=1.0), 1, 0, rows.latents.shape)
    cut, _ = windowed(rows, random_numbers)
    assert (cut.box > 0).all() and (cut.box < 1).all() and cut.prompt.sizes is None
    assert len({tuple(corner) for corner in cut.box.tolist()}) > 1, "each has its own offset"
    rows = batch(8, 16, [0.2, 0.2, 0.5, 0.5])
    assert windowed(rows, make_random_numbers(STAGE, 1, 0, rows.latents.shape))[0] is rows


@pytest.mark.parametrize("share", [0.0, 0.5])
def test_the_share_of_windows(share):
    stage = STAGE.with_settings(face_window=share)
    with_windows = [make_random_numbers(stage, step, 0, (4, 4, 16, 16)) for step in range(400)]
    assert sum(bool(d.window[0]) for d in with_windows) == pytest.approx(400 * share, abs=40)


def test_a_training_on_windows_calls_the_unet_on_windows(tmp_path, monkeypatch):
    trainer = tiny_trainer(tmp_path, STAGE.with_settings(face_window=1.0, steps=2))
    trainer.data.latents = [latent.repeat(1, 2, 2) for latent in trainer.data.latents]  # 16 × 16 and 16 × 8
    sizes, predict = [], trainer.denoiser.predict
    monkeypatch.setattr(
        trainer.denoiser,
        "predict",
        lambda noisy, *rest, **more: (sizes.append(tuple(noisy.shape[-2:])), predict(noisy, *rest, **more))[1],
    )
    trainer.run()
    assert set(sizes) <= {(8, 8), (16, 8)} and (8, 8) in sizes


def test_windows_begin_at_whole_positions_of_the_u_net():
    """Two of ComfyUI's latents of the sharp demo model are one position of its U-Net."""
    rows = batch(32, 32, [0.31, 0.28, 0.72, 0.77])
    for seed in range(8):
        numbers = make_random_numbers(STAGE.with_settings(seed=seed), 1, 0, (B, 2, 32, 32))
        cut, kept = windowed(rows, numbers, stride=2)
        corners = cut.latents[:, :, 0, 0]
        assert not (corners % 2).any() and cut.latents.shape[-2:] == (16, 16)
        assert kept.epsilon.shape == cut.latents.shape

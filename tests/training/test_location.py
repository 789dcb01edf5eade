"""A location head for a base model: trained on its predictions, and put into an adapter."""

import pytest
import torch
from lab import TinySource, tiny_denoiser

from facecdm.adapter.native import load_adapter, save_adapter
from facecdm.training.initialise import new_adapter
from facecdm.training.location import LocationPlan, location_batch, train_location_head, with_location_head

PLAN = LocationPlan(steps=3, batch=4)


def test_a_training_is_reproducible_and_reports():
    reports = []
    first = train_location_head(tiny_denoiser(), TinySource(), PLAN, lambda *seen: reports.append(seen))
    again = train_location_head(tiny_denoiser(), TinySource(), PLAN, lambda *seen: None)
    assert reports[-1][0] == 3 and len(reports) == 1
    for name, value in first.state_dict().items():
        assert torch.equal(value, again.state_dict()[name])


@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_batches_of_predictions_and_of_latents(share):
    data = TinySource()
    rows = data.load([0, 1, 2, 3])
    clean, level, wanted = location_batch(tiny_denoiser(), data, rows, LocationPlan(predicted=share), 1)
    assert clean.shape == rows.latents.shape and torch.isfinite(clean).all()
    assert level.shape == (4,) and torch.equal(wanted, rows.keypoints)
    if share == 0:
        assert (clean - rows.latents).abs().mean() < 0.3, "latents with little noise"


def test_a_constant_location_is_learnt():
    """The key points of this data set are the same in every picture."""
    head = train_location_head(tiny_denoiser(), TinySource(), LocationPlan(steps=60, batch=4, predicted=0.25))
    data = TinySource()
    with torch.no_grad():
        points, _ = head(torch.stack(data.latents[:4]), torch.full((4,), 0.1))
    assert (points - data.load([0]).keypoints).abs().mean() < 0.05


def test_the_head_is_put_into_an_adapter_and_into_its_file(tmp_path):
    denoiser, data = tiny_denoiser(), TinySource()
    adapter = new_adapter(denoiser, data, face_rank=8, face_tokens=4, image_tokens=2, image_layers=1)
    head = train_location_head(denoiser, data, PLAN, lambda *seen: None)
    made = with_location_head(adapter, head)
    for name, value in adapter.state_dict().items():
        assert torch.equal(made.state_dict()[name], value)
    read = load_adapter(save_adapter(made, tmp_path, "located"))
    clean = torch.randn(2, 4, 8, 8)
    expected = head(clean, torch.tensor([1.0, 1.0]))[0]
    assert torch.equal(read.locate(clean, torch.tensor([1.0]))[0], expected)
    again = with_location_head(read, train_location_head(denoiser, data, LocationPlan(steps=1, batch=2, seed=1)))
    assert not torch.equal(again.locate(clean, torch.tensor([1.0]))[0], expected)

"""What a person computes only if it has an effect or is trained, and where the face's location comes from."""

from dataclasses import replace

import pytest
import torch
from twins import new_adapter

from facecdm.adapter.person import Person, acting
from facecdm.bases.layers import Layer, LayerMap

LAYERS = LayerMap((Layer("input", 8, 2),), 12)
FACE = torch.ones(1, 512)


@pytest.mark.parametrize("channels", [0, 4])
def test_a_location_is_found_only_by_a_head_and_only_if_none_is_given(channels):
    adapter = new_adapter(LAYERS, spatial_tokens=True, face_tokens=16, location_channels=channels)
    assert Person(adapter, FACE).finds_location == bool(channels)
    assert not Person(adapter, FACE, keypoints=torch.rand(1, 5, 2)).finds_location
    adapter.config = replace(adapter.config, spatial_tokens=False)
    assert not Person(adapter, FACE).finds_location, "tokens without positions have no use for it"


@pytest.mark.parametrize("enabled", [False, True])
@pytest.mark.parametrize("trained", [False, True])
def test_a_kappa_of_zero_is_computed_only_in_training(trained, enabled):
    adapter = new_adapter(LAYERS)
    kappa = adapter.streams["face"].kappa.requires_grad_(trained)
    kappa.data.zero_()
    with torch.set_grad_enabled(enabled):
        found = Person(adapter, FACE).kappa_of("face")
    assert (found is not None) == (trained and enabled)


def test_who_acts_at_a_noise_level():
    """Both ends are inclusive, and the highest σ of a batch counts."""
    person = Person(new_adapter(LAYERS), FACE)
    limited = replace(person, sigma_start=5.0, sigma_end=0.5)
    assert [limited.acts(level) for level in (5.1, 5.0, 1.0, 0.5, 0.4)] == [False, True, True, True, False]
    assert acting([person, limited], torch.tensor([1.0, 7.0])) == [True, False]
    assert acting([person, limited], torch.tensor([0.1, 1.0])) == [True, True]


def test_the_noise_level_is_not_read_for_people_without_limits():
    person = Person(new_adapter(LAYERS), FACE)
    unreadable = torch.empty(1, device="meta")
    assert acting([person, person], unreadable) == [True, True]
    with pytest.raises(RuntimeError):
        acting([person, replace(person, sigma_end=0.5)], unreadable)

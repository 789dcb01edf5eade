"""Shares of the sampling become noise levels when it starts, with the noise schedule that it has."""

import flux
import pytest
import torch
from published_flux import features
from twins import predict

from facecdm.adapter.person import Person, Stream
from facecdm.hosts.comfy.sampling.apply import apply_person
from facecdm.hosts.comfy.sampling.times import ScheduledPerson, schedule, sigma_at

STEPS = (0.0, 1.0, 0.5)
TIMES = [{"start_at": 0.5}, {"end_at": 0.5}, {"over_steps": STEPS}, {"start_at": 0.2, "end_at": 0.8}]


def unet_features(adapter):
    generator = torch.Generator().manual_seed(0)
    face = torch.nn.functional.normalize(torch.randn(1, 512, generator=generator), dim=1)
    return face, torch.randn(1, 7, adapter.config.image_width, generator=generator)


@pytest.fixture
def given(sd15, adapter):
    """A person of the small SD1.5, whose times are shares of the sampling."""
    return lambda **times: ScheduledPerson(adapter, *unet_features(adapter), **times)


def noise(sd15, model, sigma: float):
    generator = torch.Generator().manual_seed(9)
    x = torch.randn(1, 4, 8, 8, generator=generator) * sigma
    return predict(model, x, sigma, [[torch.randn(1, 77, 96, generator=generator), {}]])


@pytest.mark.parametrize("times", TIMES, ids=str)
def test_they_are_the_noise_levels_of_the_models_own_schedule(sd15, adapter, given, times):
    """Equal to the bit, at a noise level in each part of the sampling."""
    sampling = sd15.model.get_model_object("model_sampling")
    fixed = Person(
        adapter,
        *unet_features(adapter),
        settings=dict.fromkeys(("face", "image"), Stream(schedule=schedule(sampling, times.get("over_steps", (1.0,))))),
        sigma_start=sigma_at(sampling, times.get("start_at", 0.0)),
        sigma_end=sigma_at(sampling, times["end_at"]) if "end_at" in times else 0.0,
    )
    ours, theirs = apply_person(sd15.model, given(**times)), apply_person(sd15.model, fixed)
    for percent in (0.1, 0.5, 0.7, 0.9):
        sigma = sigma_at(sampling, percent)
        assert torch.equal(noise(sd15, ours, sigma), noise(sd15, theirs, sigma)), f"at {percent} of the sampling"


def test_each_sampling_has_its_own_schedule(model, pulid):
    """One value in two MODELs that differ in their schedule; in each it begins at half of the sampling."""
    from comfy_extras.nodes_model_advanced import ModelSamplingFlux

    x, prompt = flux.latents(), flux.prompt(model)
    applied = apply_person(model, ScheduledPerson(pulid, features(), start_at=0.5))
    shifted = ModelSamplingFlux().patch(applied, 3.0, 0.5, 1024, 1024)[0]
    levels = [sigma_at(one.get_model_object("model_sampling"), 0.5) for one in (applied, shifted)]
    assert levels[1] > levels[0] * 1.05
    for one, level in zip((applied, shifted, applied), (*levels, levels[0])):
        for sigma, acts in ((level * 1.01, False), (level * 0.99, True)):
            assert torch.equal(predict(one, x, sigma, prompt), predict(model, x, sigma, prompt)) is not acts

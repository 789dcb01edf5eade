"""InstantX' IP-Adapter for SD3.5, whose keys and values depend on the timestep, against diffusers' own."""

from pathlib import Path

import flux
import pytest
import sd35
import torch
from twins import predict

from facecdm import bases
from facecdm.adapter.features import Features
from facecdm.adapter.person import Person, Stream
from facecdm.formats.imported import import_adapter
from facecdm.formats.projectors import within
from facecdm.formats.read import canonical
from facecdm.hosts.comfy.base_model import layer_map
from facecdm.hosts.comfy.sampling.apply import apply_person

TOWER = 36
STATE = sd35.adapter_state()


@pytest.fixture(scope="module")
def twins(in_comfy):
    return sd35.make_twins()


def load(state: dict, model):
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(bases.BASES, "small SD3.5", bases.Base("small SD3.5", layer_map(model)))
        return import_adapter(canonical(state, {}, Path("a.safetensors")))


@pytest.fixture(scope="module")
def adapter(twins):
    return load(STATE, twins[0])


def states(pictures: int = 1, seed: int = 3):
    return torch.randn(pictures, 9, TOWER, generator=torch.Generator().manual_seed(seed))


def diffusers_velocity(transformer, x, sigma: float, conditioning, shown, strength: float):
    """With diffusers' processors, which are removed again."""
    before = transformer.attn_processors
    own = {part: within(STATE, f"{part}.") for part in ("image_proj", "ip_adapter")}
    transformer._load_ip_adapter_weights(own, low_cpu_mem_usage=False)
    for processor in transformer.attn_processors.values():
        processor.scale = strength
    try:
        return sd35.diffusers_prediction(transformer, x, sigma, conditioning, shown)
    finally:
        del transformer.image_proj  # it has attentions of its own
        transformer.set_attn_processor(before)


@pytest.mark.parametrize("sigma", [0.9, 0.2])
def test_it_is_that_of_diffusers(twins, adapter, sigma):
    model, transformer = twins
    x, prompt, strength, shown = flux.latents(batch=2), sd35.prompt(), 0.8, states()
    plain = sd35.diffusers_prediction(transformer, x, sigma, prompt)
    assert (predict(model, x, sigma, prompt) - plain).abs().max() < 1e-4 * plain.abs().max()
    theirs = diffusers_velocity(transformer, x, sigma, prompt, shown.expand(2, -1, -1), strength)
    assert (theirs - plain).abs().max() > 0.01 * theirs.abs().max(), "the adapter has an effect"
    person = Person(adapter, None, Features(states=shown), settings={"image": Stream(strength)})
    ours = predict(apply_person(model, person), x, sigma, prompt)
    assert (ours - theirs).abs().max() < 1e-4 * theirs.abs().max()

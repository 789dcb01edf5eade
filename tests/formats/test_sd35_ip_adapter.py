"""InstantX's IP-Adapter for SD3.5, whose keys and values depend on the timestep, against diffusers' own."""

from pathlib import Path

import flux
import pytest
import sd35
import torch
from twins import predict

from facecdm import bases
from facecdm.adapter.features import Features
from facecdm.adapter.person import Person, Stream
from facecdm.errors import BadFile, UnsupportedModel
from facecdm.formats.features import features
from facecdm.formats.imported import import_adapter
from facecdm.formats.projectors import within
from facecdm.formats.read import canonical
from facecdm.formats.sources import Sources
from facecdm.formats.vision import VisionOutput
from facecdm.hosts.comfy.base_model import layer_map
from facecdm.hosts.comfy.sampling.apply import apply_person
from facecdm.hosts.diffusers.dit import DiffusersDit
from facecdm.hosts.diffusers.sampling import Span

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


def diffusers_velocity(transformer, x, sigma: float, conditioning, shown, strength: float, state: dict = STATE):
    """With diffusers' processors, which are removed again."""
    before = transformer.attn_processors
    own = {part: within(state, f"{part}.") for part in ("image_proj", "ip_adapter")}
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
    x, prompt, strength, shown = flux.latents(batch=2), flux.prompt(model), 0.8, states()
    plain = sd35.diffusers_prediction(transformer, x, sigma, prompt)
    assert (predict(model, x, sigma, prompt) - plain).abs().max() < 1e-4 * plain.abs().max()
    theirs = diffusers_velocity(transformer, x, sigma, prompt, shown.expand(2, -1, -1), strength)
    assert (theirs - plain).abs().max() > 0.01 * theirs.abs().max(), "the adapter has an effect"
    person = Person(adapter, None, Features(states=shown), settings={"image": Stream(strength)})
    ours = predict(apply_person(model, person), x, sigma, prompt)
    assert (ours - theirs).abs().max() < 1e-4 * theirs.abs().max()


def test_the_diffusers_host_refuses_it(twins, adapter):
    shown = Person(adapter, None, Features(states=states()), settings={"image": Stream(1.0)})
    with pytest.raises(UnsupportedModel, match="in ComfyUI only.*load_ip_adapter"):
        with DiffusersDit(twins[1]).people([Span(shown, 0, 1)], torch.tensor([0.9]), (8, 8)):
            raise AssertionError("it was applied")


@pytest.mark.slow
def test_at_sd35s_own_widths(in_comfy):
    model, transformer = sd35.make_twins(blocks=2, heads=38)
    state = sd35.adapter_state(width=2432, blocks=2, inner=1280, tower=1152, tokens=64, waves=320)
    x, prompt = flux.latents(), flux.prompt(model)
    shown = torch.randn(1, 729, 1152, generator=torch.Generator().manual_seed(3))
    theirs = diffusers_velocity(transformer, x, 0.6, prompt, shown, 0.5, state)
    person = Person(load(state, model), None, Features(states=shown), settings={"image": Stream(0.5)})
    ours = predict(apply_person(model, person), x, 0.6, prompt)
    assert (theirs - sd35.diffusers_prediction(transformer, x, 0.6, prompt)).abs().max() > 0.01 * theirs.abs().max()
    assert (ours - theirs).abs().max() < 1e-4 * theirs.abs().max()


class Tower:
    """A made-up vision tower, whose states depend on the picture's mean."""

    def encode(self, pictures) -> VisionOutput:
        shown = pictures.mean((1, 2, 3))[:, None, None] + torch.arange(9 * TOWER).view(1, 9, TOWER)
        return VisionOutput(torch.zeros(len(pictures), TOWER), shown)


def test_what_the_prompts_get(adapter):
    """The tower's states, and zeros or those of a negative image."""
    tower, picture, other = Tower(), torch.rand(1, 64, 64, 3), torch.rand(1, 64, 64, 3)
    prepared = features(adapter, Sources(clip_vision=tower, image=picture))
    assert torch.equal(prepared.image.states, tower.encode(picture).states)
    assert torch.equal(prepared.negative["image"].states, torch.zeros(1, 9, TOWER))
    prepared = features(adapter, Sources(clip_vision=tower, image=picture, negative_image=other))
    assert torch.equal(prepared.negative["image"].states, tower.encode(other).states)


def test_references_side_by_side_are_resampled_each(twins, adapter):
    """Two equal references are one with twice the tokens, and a weight of 0 leaves only keys; the mean is one."""
    model, x = twins[0], flux.latents()
    prompt, shown, other = flux.prompt(model), states(), states(seed=4)

    def velocity(given, **settings):
        person = Person(adapter, None, Features(states=given), settings={"image": Stream(**settings)})
        return predict(apply_person(model, person), x, 0.7, prompt)

    both = velocity(torch.cat([shown, other]))
    torch.testing.assert_close(both, velocity(torch.cat([other, shown])), rtol=0, atol=1e-4)
    assert not torch.allclose(both, velocity(shown), atol=1e-3)
    assert not torch.allclose(both, velocity(torch.cat([shown, other]), weights=(1.0, 0.0)), atol=1e-3)


def test_files_that_fit_no_base_or_are_incomplete(twins, adapter):
    with pytest.raises(
        UnsupportedModel, match=r"needs a DiT of width 192 with 3 joint blocks; FaceCDM knows Flux\.1, SD"
    ):
        import_adapter(canonical(STATE, {}, Path("a.bin")))
    for missing in ("image_proj.layers.2.2.1.weight", "ip_adapter.1.norm_ip_k.weight", "ip_adapter.2.norm_q.weight"):
        with pytest.raises(BadFile, match="incomplete"):
            load({key: value for key, value in STATE.items() if key != missing}, twins[0])
    with pytest.raises(BadFile, match="incomplete"):
        load(STATE | {"ip_adapter.0.to_q_ip.weight": torch.zeros(2, 2)}, twins[0])

"""Attention beside the picture's own keys in a small Stable Diffusion 3.5, with keys that depend on the timestep."""

from collections import Counter

import flux
import pytest
import sd35
import torch
from counting import ATTENTION, SYNCS, operations, total
from twins import predict

from facecdm import bases
from facecdm.adapter.features import Features
from facecdm.adapter.person import Person, Stream
from facecdm.formats.imported import import_adapter
from facecdm.formats.read import canonical
from facecdm.hosts.comfy.base_model import layer_map
from facecdm.hosts.comfy.sampling.apply import apply_person
from facecdm.hosts.comfy.sampling.joint import OVERRIDE
from facecdm.hosts.comfy.step_weights import KEY

SIGMA = 0.7
LINEAR_LAYERS = 2 + 4 * 6 + 1 + 3 * sd35.BLOCKS  # time, four blocks of the resampler, tokens, layers


@pytest.fixture(scope="module")
def model(in_comfy):
    return sd35.make_model()


def load(model, dtype=torch.float32):
    state = {key: value.to(dtype) for key, value in sd35.adapter_state().items()}
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(bases.BASES, "small SD3.5", bases.Base("small SD3.5", layer_map(model)))
        return import_adapter(canonical(state, {}, "a.safetensors"))


@pytest.fixture(scope="module")
def adapter(model):
    return load(model)


def pictured(adapter, negative: bool = False) -> Person:
    shown = Features(states=torch.randn(1, 9, 36, generator=torch.Generator().manual_seed(0)))
    empty = {"image": shown.empty(torch.zeros_like(shown.states))}
    return Person(adapter, None, shown, negative=empty if negative else {})


def test_another_packs_attention_is_kept(model, adapter):
    """One that replaces every attention; the tensors that it keeps do not change."""
    x, prompt, kept = flux.latents(), flux.prompt(model), []

    def theirs(function, *args, **kwargs):
        kept.append((out := function(*args, **kwargs), out.clone()))
        return out

    alone = predict(apply_person(model, pictured(adapter)), x, SIGMA, prompt)
    patched = apply_person(model, pictured(adapter))
    patched.model_options["transformer_options"][OVERRIDE] = theirs
    assert torch.equal(predict(patched, x, SIGMA, prompt), alone)
    assert len(kept) == 2 * sd35.BLOCKS and all(torch.equal(now, then) for now, then in kept)


def test_a_second_attention_of_a_block_is_left_alone(in_comfy):
    """SD3.5 Medium's: it reads the picture alone, and gets no stream."""
    model, seen = sd35.make_model(dual=(0, 2)), []
    for block in model.model.diffusion_model.joint_blocks:
        if block.x_block.x_block_self_attn:
            block.x_block.attn2.proj.register_forward_pre_hook(lambda module, args: seen.append(args[0].clone()))
    x, prompt, own = flux.latents(), flux.prompt(model), load(model)
    outputs = [predict(one, x, SIGMA, prompt) for one in (model, apply_person(model, pictured(own)))]
    assert not torch.equal(*outputs)
    assert len(seen) == 4 and torch.equal(seen[0], seen[2]), "in the first block nothing has acted before"


def test_the_cost_of_a_step(model, adapter, monkeypatch):
    """For each conditioning an attention a block, and tokens, keys and values once; no host sync."""
    import comfy.ldm.modules.attention as attention

    monkeypatch.setattr(attention, "optimized_attention", attention.attention_pytorch)
    prompts = flux.prompt(model, 1), flux.prompt(model, 2, tokens=9)  # of different lengths: two calls of the model
    plain = operations(model, *prompts, channels=16)
    counts = operations(apply_person(model, pictured(adapter, negative=True)), *prompts, channels=16)
    resampler = 4  # attentions
    assert total(counts, ATTENTION) - total(plain, ATTENTION) == 2 * (sd35.BLOCKS + resampler)
    assert counts["aten::linear"] - plain["aten::linear"] == 2 * LINEAR_LAYERS
    assert total(counts, SYNCS) == total(plain, SYNCS)


def test_weights_of_references_cost_a_multiplication_a_block(model, adapter):
    """They are put on the device once a prompt."""
    shown = Features(states=torch.randn(2, 9, 36, generator=torch.Generator().manual_seed(0)))
    even, weighted = (
        operations(
            apply_person(model, Person(adapter, None, shown, settings={"image": Stream(weights=weights)})),
            *[flux.prompt(model)] * 2,
            channels=16,
        )
        for weights in ((), (2.0, 1.0))
    )
    assert weighted - even == Counter({"aten::mul": sd35.BLOCKS, "aten::to": sd35.BLOCKS}), "`to` finds nothing to copy"


def test_nothing_is_computed_outside_of_start_and_end(model, adapter):
    calls, person = [], pictured(adapter)
    handle = adapter.streams["image"].every_step.register_forward_hook(lambda *args: calls.append(1))
    late = Person(adapter, None, person.image, sigma_start=0.5)
    for sigma, expected in ((0.7, 0), (0.4, 1)):
        predict(apply_person(model, late), flux.latents(), sigma, flux.prompt(model))
        assert len(calls) == expected
    handle.remove()


def test_its_weights_are_loaded_with_the_model(model):
    adapter = load(model)
    patched = apply_person(apply_person(model, pictured(adapter)), pictured(adapter))
    (own,) = patched.get_additional_models_with_key(KEY)
    step = adapter.streams["image"].every_step
    assert own.model is step and own.model_size() == sum(value.nbytes for value in step.parameters())
    assert patched.clone().get_additional_models_with_key(KEY)[0].model is step


def test_a_file_in_half_precision(model, adapter):
    x, prompt = flux.latents(), flux.prompt(model)
    ours, half = (
        predict(apply_person(model, pictured(one)), x, SIGMA, prompt) for one in (adapter, load(model, torch.bfloat16))
    )
    assert not torch.equal(ours, half) and (ours - half).abs().max() < 0.05 * ours.abs().max()

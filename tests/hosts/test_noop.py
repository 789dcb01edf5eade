"""A new adapter is a no-op, to the bit, and gets gradients."""

import pytest
import torch
from twins import conditioning, new_adapter, predict, stir

from facecdm.adapter.gates import knot_weights
from facecdm.adapter.person import Person
from facecdm.hosts.comfy.sampling.apply import apply_person
from facecdm.hosts.comfy.unet import layer_map, text_keys_values
from facecdm.hosts.diffusers.sampling import DiffusersHost, Span

SIGMA = 2.0


def inputs(twins, batch: int = 2):
    torch.manual_seed(11)
    return torch.randn(batch, 4, 8, 8) * SIGMA, conditioning(torch.randn(1, 77, twins.context), torch.randn(1, 1280))


def person(adapter, **more) -> Person:
    torch.manual_seed(12)
    return Person(
        adapter,
        torch.nn.functional.normalize(torch.randn(1, 512), dim=1),
        torch.randn(1, 7, adapter.config.image_width),
        **more,
    )


@pytest.mark.parametrize("evaluate_zero", [True, False], ids=["evaluated", "skipped"])
def test_a_new_adapter_is_a_no_op(twins, evaluate_zero):
    adapter = new_adapter(layer_map(twins.model)).init_from_text(text_keys_values(twins.model))
    shown = person(adapter, evaluate_zero=evaluate_zero)
    x, prompt = inputs(twins)
    model = apply_person(twins.model, shown)
    patches = model.model_options["transformer_options"]["patches_replace"]["attn2"]
    assert len(set(patches.values())) == len(adapter.config.layer_map.layers)
    assert bool(shown.tokens()) == evaluate_zero, "the streams must be active in the one case and not in the other"
    assert torch.equal(predict(model, x, SIGMA, prompt), predict(twins.model, x, SIGMA, prompt))


def test_one_optimiser_step_changes_the_output(twins):
    adapter = new_adapter(layer_map(twins.model)).init_from_text(text_keys_values(twins.model))
    x, prompt = inputs(twins)
    before = predict(apply_person(twins.model, person(adapter)), x, SIGMA, prompt)
    host = DiffusersHost(twins.unet)
    adapter.requires_grad_(True)
    optimiser = torch.optim.AdamW(adapter.parameters(), lr=1e-3)
    text, pooled = prompt[0][0], prompt[0][1]["pooled_output"]
    with host.people([Span(person(adapter, evaluate_zero=True), 0, 2, text)], torch.tensor([SIGMA]), (8, 8)):
        twins.diffusers(x, SIGMA, text, pooled).square().mean().backward()
    for name, stream in adapter.streams.items():
        gradients = stream.gate.knots.grad.abs().sum(1)
        at = knot_weights(torch.tensor([SIGMA]), len(gradients))[0]
        assert ((gradients > 0) == (at > 0)).all(), f"only the {name} gate's knots of this noise level learn"
    optimiser.step()
    adapter.requires_grad_(False)
    after = predict(apply_person(twins.model, person(adapter)), x, SIGMA, prompt)
    assert not torch.equal(before, after)


@pytest.mark.parametrize("content", [0, 3])
def test_every_part_gets_gradients_once_the_gates_are_open(sd15, content):
    adapter = stir(new_adapter(layer_map(sd15.model), face_content=content)).requires_grad_(True)
    x, prompt = inputs(sd15)
    host = DiffusersHost(sd15.unet)
    with host.people([Span(person(adapter), 0, 2, prompt[0][0])], torch.tensor([SIGMA]), (8, 8)):
        sd15.diffusers(x, SIGMA, prompt[0][0]).square().mean().backward()
    idle = {name for name, value in adapter.named_parameters() if value.grad is None or not value.grad.any()}
    assert idle == {"face_projector.restore.weight", "face_projector.restore.bias"}, "only the auxiliary head is idle"
    assert adapter.face_projector.reconstruction_loss(person(adapter).face).requires_grad


def test_strength_zero_is_a_no_op(sd15):
    from facecdm.adapter.person import Stream

    adapter = stir(new_adapter(layer_map(sd15.model)))
    off = {"face": Stream(0.0), "image": Stream(0.0)}
    x, prompt = inputs(sd15)
    model = apply_person(sd15.model, person(adapter, settings=off))
    assert torch.equal(predict(model, x, SIGMA, prompt), predict(sd15.model, x, SIGMA, prompt))

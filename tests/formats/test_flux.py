"""Published adapters for Flux.1 against references written from their authors' equations."""

from dataclasses import replace
from pathlib import Path

import flux
import pytest
import torch
from published_flux import SMALL_FLUX, FluxSizes, pulid_flux, state_of, withanyone
from pulid_reference import encoded_v11
from torch.nn import functional as F
from twins import predict

from facecdm import bases
from facecdm.adapter.features import Features
from facecdm.adapter.person import Person, Stream
from facecdm.formats.families.pulid import identity_vector
from facecdm.formats.imported import import_adapter
from facecdm.formats.read import canonical
from facecdm.hosts.comfy.base_model import layer_map
from facecdm.hosts.comfy.sampling.apply import apply_person

SIGMA, STRENGTH = 0.7, 0.8


@pytest.fixture(scope="session")
def small_model(in_comfy):
    return flux.make_flux()


@pytest.fixture
def small(small_model, monkeypatch):
    return known(small_model, monkeypatch)


@pytest.fixture
def narrow(in_comfy, monkeypatch):
    """Flux.1's own widths."""
    return known(flux.make_flux(**flux.NARROW), monkeypatch)


def known(model, monkeypatch):
    """Make a base model known by name."""
    monkeypatch.setitem(bases.BASES, "small Flux", bases.Base("small Flux", layer_map(model)))
    return model


def load(state: dict, name: str = "a.safetensors"):
    return import_adapter(canonical(state, {}, Path(name)))


def within(state: dict, prefix: str) -> dict:
    return {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}


def cells_at(model, double: int, single: int) -> dict[int, int]:
    """Number of the cell by index of the block."""
    dit = model.model.diffusion_model
    doubles, singles = len(dit.double_blocks), len(dit.single_blocks)
    blocks = [*range(0, doubles, double), *(doubles + i for i in range(0, singles, single))]
    return {block: number for number, block in enumerate(blocks)}


def pulid_face(sizes: FluxSizes, seed: int = 5):
    generator = torch.Generator().manual_seed(seed)
    return (
        torch.randn(1, 512, generator=generator) * 3,
        torch.randn(1, 768, generator=generator),
        tuple(torch.randn(1, 6, sizes.states, generator=generator) for _ in range(5)),
    )


def compare_pulid(model, sizes: FluxSizes) -> float:
    """Largest difference to the reference, as part of the output's largest value."""
    at = cells_at(model, 2, 4)
    state, (recognised, vision, states) = state_of(pulid_flux(sizes, len(at))), pulid_face(sizes)
    tokens = encoded_v11(within(state, "pulid_encoder."), recognised, vision, states)
    heads = sizes.pulid // 128

    def residual(index, x):
        return STRENGTH * flux.cell(state, f"pulid_ca.{at[index]}", tokens, x, heads) if index in at else None

    x, prompt = flux.latents(), flux.prompt(model)
    theirs, plain = flux.reference(model, x, SIGMA, prompt, residual), predict(model, x, SIGMA, prompt)
    assert torch.allclose(plain, flux.reference(model, x, SIGMA, prompt), atol=1e-5 * float(plain.abs().max()))
    person = Person(
        load(state), Features(identity_vector(recognised, vision), states), settings={"face": Stream(STRENGTH)}
    )
    ours = predict(apply_person(model, person), x, SIGMA, prompt)
    assert (plain - theirs).abs().max() > 0.01 * theirs.abs().max(), "the adapter has an effect"
    return float((ours - theirs).abs().max() / theirs.abs().max())


def anyone_tokens(state: dict, embedding, states):
    """Tokens of both streams, as withanyone/flux/model.py has them."""

    def stack(name, x):
        x = F.gelu(F.linear(x, state[f"{name}.0.weight"], state[f"{name}.0.bias"]))
        x = F.layer_norm(x, x.shape[-1:], state[f"{name}.2.weight"], state[f"{name}.2.bias"])
        return F.linear(x, state[f"{name}.3.weight"], state[f"{name}.3.bias"])

    arc, also = (stack(f"arcface_in_{part}", embedding).reshape(len(embedding), 8, -1) for part in ("arc", "sig"))
    return arc, torch.cat([stack("siglip_in_sig", states), also], 1)


def anyone_face(sizes: FluxSizes, people: int = 1):
    generator = torch.Generator().manual_seed(7)
    return torch.randn(people, 512, generator=generator) * 3, torch.randn(people, 9, sizes.siglip, generator=generator)


def compare_withanyone(model, sizes: FluxSizes, people: int = 1) -> float:
    """With several people, each has a box; a box is made of whole tokens, as a mask cannot cut one."""
    at = cells_at(model, 1, 1)
    state, (embedding, states) = state_of(withanyone(sizes, len(at))), anyone_face(sizes, people)
    tokens, heads = anyone_tokens(state, embedding, states), sizes.anyone // 64
    boxes = [None] if people == 1 else [(1, 0, 3, 2), (0, 3, 4, 6)]  # rows and columns of a grid of 4 × 6
    masks = [torch.ones(4, 6, dtype=bool) if box is None else torch.zeros(4, 6, dtype=bool) for box in boxes]
    for mask, box in zip(masks, boxes):
        if box:
            mask[box[0] : box[2], box[1] : box[3]] = True

    def residual(index, x):
        total = 0
        for part, strength, own in (("arc", 0.6, tokens[0]), ("sig", 0.9, tokens[1])):
            allowed = torch.cat([mask.flatten()[:, None].expand(-1, own.shape[1]) for mask in masks], 1)
            joined = own.reshape(1, -1, own.shape[-1])
            total = total + strength * flux.cell(state, f"ipa_{part}.{at[index]}", joined, x, heads, allowed)
        return total

    x, prompt, adapter = flux.latents(), flux.prompt(model), load(state)
    theirs, patched = flux.reference(model, x, SIGMA, prompt, residual), model
    for number, mask in enumerate(masks):
        shown = Features(embedding[number : number + 1], states[number : number + 1])
        settings = {"face": Stream(0.6), "image": Stream(0.9)}
        region = None if people == 1 else mask.float().repeat_interleave(16, 0).repeat_interleave(16, 1)
        patched = apply_person(patched, Person(adapter, replace(shown, states=None), shown, settings, mask=region))
    ours, plain = predict(patched, x, SIGMA, prompt), predict(model, x, SIGMA, prompt)
    assert (plain - theirs).abs().max() > 0.01 * theirs.abs().max(), "the adapter has an effect"
    return float((ours - theirs).abs().max() / theirs.abs().max())


def test_pulid_flux(small):
    assert compare_pulid(small, SMALL_FLUX) < 1e-4


@pytest.mark.parametrize("people", [1, 2])
def test_withanyone(small, people):
    assert compare_withanyone(small, SMALL_FLUX, people) < 1e-4


@pytest.mark.slow
def test_at_flux_own_widths(narrow):
    assert compare_pulid(narrow, FluxSizes()) < 1e-4
    assert compare_withanyone(narrow, FluxSizes(), 2) < 1e-4

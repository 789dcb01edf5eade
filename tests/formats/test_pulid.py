"""PuLID against a reference written from the equations of its paper and its authors' code."""

from pathlib import Path

import pytest
import torch
from decoupled import reference
from published import EVA_STATES, SDXL, SMALL_XL, published_state
from pulid_reference import encoded, encoded_v11
from safetensors.torch import save_file
from twins import Twins, conditioning, predict

from facecdm import bases
from facecdm.adapter.features import Features
from facecdm.adapter.person import Person, Stream
from facecdm.errors import BadFile
from facecdm.formats.families.pulid import identity_vector
from facecdm.formats.imported import import_adapter
from facecdm.formats.read import Published, canonical, read
from facecdm.hosts.comfy.sampling.apply import apply_person
from facecdm.hosts.comfy.unet import layer_map

SIGMA, CFG, STRENGTH = 3.0, 3.0, 0.8
# PuLID's modes: number of zero tokens (NUM_ZERO), and our Stream, beside the family's κ of 1.
MODES = {
    "fidelity": (8, Stream(STRENGTH, projection="token_v2", zeros=8)),
    "style": (16, Stream(STRENGTH, projection="token", zeros=16)),
    "neutral": (0, Stream(STRENGTH, kappa=-1.0)),
}


def face(sizes, seed: int = 5, patches: int = 6):
    """(recogniser's embedding, tower's embedding, five states) of one face."""
    generator, width = torch.Generator().manual_seed(seed), min(sizes.states, EVA_STATES)
    return (
        torch.randn(1, 512, generator=generator) * 3,
        torch.randn(1, 768, generator=generator),
        tuple(torch.randn(1, 1 + patches, width, generator=generator) for _ in range(5)),
    )


def adapter_of(state: dict):
    return import_adapter(Published(state["image_proj"], state["ip_adapter"], {}, Path("a.safetensors")))


def compare(twins: Twins, sizes, mode: str, family: str = "pulid") -> float:
    """Largest difference between our host and the reference, as part of the output's largest value."""
    state, (recognised, vision, states) = published_state(family, layer_map(twins.model), sizes), face(sizes)
    encode, (zeros, stream) = encoded if family == "pulid" else encoded_v11, MODES[mode]
    empty = tuple(torch.zeros_like(x) for x in (recognised, vision, *states))
    tokens = torch.cat(
        [
            encode(state["image_proj"], empty[0], empty[1], empty[2:]),
            encode(state["image_proj"], recognised, vision, states),
        ]
    )
    tokens = torch.cat([tokens, tokens.new_zeros(2, zeros, tokens.shape[-1])], 1)

    generator = torch.Generator().manual_seed(3)
    x = torch.randn(1, 4, 8, 12, generator=generator) * SIGMA
    text, pooled = torch.randn(2, 77, twins.context, generator=generator), torch.randn(1, 1280, generator=generator)
    with torch.no_grad(), reference(twins, state["ip_adapter"], tokens, STRENGTH, mode):
        negative, positive = twins.diffusers(x.expand(2, -1, -1, -1), SIGMA, text, pooled)
    theirs = (negative + CFG * (positive - negative))[None]

    shown = Features(identity_vector(recognised, vision), states)
    person = Person(adapter_of(state), shown, settings={"face": stream}, negative={"face": shown.empty(empty[2:])})
    prompts = [conditioning(text[i : i + 1], pooled, height=64, width=96) for i in (1, 0)]
    ours = predict(apply_person(twins.model, person), x, SIGMA, *prompts, cfg=CFG)
    plain = predict(twins.model, x, SIGMA, *prompts, cfg=CFG)
    scale = theirs.abs().max()
    assert (plain - theirs).abs().max() > 0.01 * scale, "the adapter has an effect"
    return ((ours - theirs).abs().max() / scale).item()


@pytest.fixture
def small(small_sdxl, monkeypatch):
    monkeypatch.setitem(bases.BASES, "small SDXL", bases.Base("small SDXL", layer_map(small_sdxl.model)))
    return small_sdxl


@pytest.mark.parametrize("mode", MODES)
def test_each_mode_is_pulids(small, mode):
    assert compare(small, SMALL_XL, mode) < 1e-4


def test_version_1_1(small):
    assert compare(small, SMALL_XL, "fidelity", "pulid-v1.1") < 1e-4


@pytest.mark.slow
def test_at_sdxls_widths(narrow_sdxl, monkeypatch):
    monkeypatch.setitem(bases.BASES, "narrow SDXL", bases.Base("narrow SDXL", layer_map(narrow_sdxl.model)))
    assert compare(narrow_sdxl, SDXL, "fidelity") < 1e-4


def test_modes_differ(small):
    """Otherwise the test above would compare the same thing three times."""
    state, (recognised, vision, states) = published_state("pulid", layer_map(small.model), SMALL_XL), face(SMALL_XL)
    x, text = torch.randn(1, 4, 8, 8) * SIGMA, conditioning(torch.randn(1, 77, small.context), torch.randn(1, 1280))
    shown = Features(identity_vector(recognised, vision), states)
    noises = [
        predict(apply_person(small.model, Person(adapter_of(state), shown, settings={"face": stream})), x, SIGMA, text)
        for _, stream in MODES.values()
    ]
    for i in range(3):
        assert (noises[i] - noises[i - 1]).abs().max() > 1e-3 * noises[i].abs().max()


def test_the_authors_own_file(small):
    """pulid_v1.bin has other names."""
    state = published_state("pulid", layer_map(small.model), SMALL_XL)
    theirs = {f"id_adapter.{key}": value for key, value in state["image_proj"].items()}
    theirs |= {
        f"id_adapter_attn_layers.{key.replace('.to_', '.id_to_').replace('_ip.', '.')}": value
        for key, value in state["ip_adapter"].items()
    }
    assert "id_adapter_attn_layers.1.id_to_k.weight" in theirs
    renamed = canonical(theirs, {}, Path("pulid_v1.bin"))
    assert (renamed.image_proj.keys(), renamed.ip_adapter.keys()) == tuple(inner.keys() for inner in state.values())
    assert renamed.ip_adapter["3.to_v_ip.weight"] is state["ip_adapter"]["3.to_v_ip.weight"]


def test_pulid_for_flux_2_is_refused(tmp_path):
    file = tmp_path / "pulid_flux2_klein.safetensors"
    save_file({"double_ca.0.to_q.weight": torch.zeros(1), "id_former.latents": torch.zeros(1)}, file)
    with pytest.raises(BadFile, match="is PuLID for FLUX.2, which passes .* random weights .use pulid_flux_v0.9.1"):
        read(file)

"""Separation of people: attention outside of a mask, and the reach of a person in a whole U-Net.

In one layer a person has no effect outside of their mask, to the bit. Convolutions and self-attention of the U-Net then
spread the effect to other positions; masks cannot prevent that.
"""

from types import SimpleNamespace

import pytest
import torch
from twins import conditioning, predict

from facecdm.adapter.attention import LayerStream, attend, triplet_attention
from facecdm.adapter.person import Person
from facecdm.hosts.comfy.sampling.apply import apply_person
from facecdm.people import parse_boxes, regions_of_boxes

SIGMA = 2.0
REGIONS = regions_of_boxes(parse_boxes("0 0 0.5 1\n0.5 0 1 1"), 64, 128, softness=0.1)


@pytest.fixture(scope="module")
def base(sd15):
    return sd15.model


def person(adapter, seed: int, mask) -> Person:
    face = torch.randn(1, 512, generator=torch.Generator().manual_seed(seed))
    return Person(adapter, torch.nn.functional.normalize(face, dim=1), mask=mask)


@pytest.mark.parametrize("kappa", [None, torch.tensor(0.5)], ids=["plain", "keep_prompt"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
def test_a_person_has_no_effect_outside_of_their_mask_in_a_layer(kappa, dtype):
    """Bit by bit, with two different people in the right half and the same one in the left."""
    generator = torch.Generator().manual_seed(0)

    def noise(*shape):
        return torch.randn(*shape, generator=generator).to(dtype)

    q, text, gate = noise(2, 8 * 16, 64), noise(2, 8 * 16, 64), noise(64)
    masks = [
        mask.reshape(1, -1, 1).to(dtype)
        for mask in torch.nn.functional.interpolate(REGIONS.masks[None], (8, 16), mode="area")[0]
    ]
    left, *others = (
        LayerStream(0, 2, noise(1, 4, 64), noise(1, 4, 64), gate, kappa, mask)
        for mask in (masks[0], masks[1], masks[1])
    )
    with torch.inference_mode():
        one, two = (triplet_attention(q, text.clone(), [left, other], 8, attend) for other in others)
    outside = masks[1][0, :, 0] == 0
    assert outside.sum() >= 8 * 7
    assert torch.equal(one[:, outside], two[:, outside])
    assert not torch.isclose(one[:, ~outside], two[:, ~outside]).all()


def test_a_person_has_no_effect_outside_of_their_mask_in_a_patched_model(base, adapter):
    """Each layer of a MODEL, called as its U-Net calls it."""
    from facecdm.hosts.comfy.sampling.run import RUN, Run

    people = [[person(adapter, seed, mask) for seed, mask in zip(seeds, REGIONS.masks)] for seeds in ((1, 2), (1, 3))]
    layers, results = adapter.config.layer_map.layers, []
    cond = {"uuid": "a", "model_conds": {"c_crossattn": SimpleNamespace(cond=torch.zeros(1, 77, 96))}}
    runs = [Run(tuple(two)) for two in people]
    for run in runs:
        run.step(base.model, [[cond]], torch.tensor([SIGMA]), torch.zeros(1, 4, 8, 16))
    patches = apply_person(base, people[0][0]).model_options["transformer_options"]["patches_replace"]["attn2"]
    for key, patch in patches.items():
        width, heads = layers[patch.index].width, layers[patch.index].heads
        height = {32: 8, 64: 4, 128: 2}[width] if key[0] != "middle" else 1
        torch.manual_seed(patch.index)
        q, k, v = torch.randn(1, height * height * 2, width), *torch.randn(2, 1, 77, width)
        with torch.inference_mode():
            results = [
                patch(
                    q,
                    k,
                    v,
                    {"n_heads": heads, "uuids": ["a"], RUN: run, "activations_shape": [1, width, height, 2 * height]},
                )
                for run in runs
            ]
        mask = torch.nn.functional.interpolate(REGIONS.masks[1][None, None], (height, 2 * height), mode="area")
        outside = mask.flatten() == 0
        assert torch.equal(results[0][:, outside], results[1][:, outside]), key
        assert not torch.equal(results[0], results[1]), key


def test_in_a_whole_unet_a_person_acts_mostly_in_their_region(base, adapter):
    """What changes in the left half when the person on the right is another one, beside what changes on the right.

    Weights are random here, and group norms, self-attention and convolutions carry everything far: no measure of a
    trained model (benchmarks/two_people.py is), only of direction.
    """
    x = torch.randn(1, 4, 16, 32, generator=torch.Generator().manual_seed(9)) * SIGMA
    prompt = conditioning(torch.randn(1, 77, 96, generator=torch.Generator().manual_seed(1)))
    first = apply_person(base, person(adapter, 1, REGIONS.masks[0]))
    one, two = (
        predict(apply_person(first, person(adapter, seed, REGIONS.masks[1])), x, SIGMA, prompt) for seed in (2, 3)
    )
    change = (one - two).square().mean((0, 1, 2)).sqrt()
    near, far = change[16:].mean(), change[:16].mean()
    assert near > far, f"{near:.4f} in the region, {far:.4f} outside of it"

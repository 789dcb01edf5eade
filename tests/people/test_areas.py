"""A conditioning for a part of the picture uses that part of a person's mask; the negative one shows no person."""

from dataclasses import replace

import pytest
import torch
from twins import conditioning, new_adapter, predict, stir

from facecdm.adapter.person import Person
from facecdm.faces.align import TEMPLATE
from facecdm.faces.location import SIZE
from facecdm.hosts.comfy.sampling.apply import apply_person

SIGMA = 2.0
LEFT = (8, 8, 0, 0)  # height, width, y, x in latents: the left half of 8 × 16


def latents():
    return torch.randn(1, 4, 8, 16, generator=torch.Generator().manual_seed(9)) * SIGMA


def words(seed: int = 1, **more):
    return conditioning(torch.randn(1, 77, 96, generator=torch.Generator().manual_seed(seed)), **more)


def person(adapter, mask=None) -> Person:
    face = torch.randn(1, 512, generator=torch.Generator().manual_seed(0))
    return Person(adapter, torch.nn.functional.normalize(face, dim=1), mask=mask)


def left_half(of) -> torch.Tensor:
    return of[..., :8]


@pytest.mark.parametrize("size", [(8, 16), (64, 128), (100, 90)], ids=str)
def test_the_mask_is_cut_out_and_not_squeezed(sd15, adapter, size):
    """Someone whose mask is the left half, in a conditioning for the left half, is everywhere in it."""
    mask = torch.zeros(size)
    mask[:, : size[1] // 2] = 1
    x, prompt = latents(), words(area=LEFT, strength=1.0)
    cut, everywhere = (predict(apply_person(sd15, person(adapter, m)), x, SIGMA, prompt) for m in (mask, None))
    torch.testing.assert_close(left_half(cut), left_half(everywhere))
    assert not torch.allclose(left_half(cut), left_half(predict(sd15, x, SIGMA, prompt)), atol=1e-3)


def test_two_areas_see_a_half_each(sd15, adapter):
    """Both conditionings run in one batch; someone of the right half does not show in the left one."""
    right = torch.zeros(8, 16)
    right[:, 8:] = 1
    x, both = latents(), words(area=LEFT, strength=1.0) + words(2, area=(8, 8, 0, 8), strength=1.0)
    plain, shown = (predict(model, x, SIGMA, both) for model in (sd15, apply_person(sd15, person(adapter, right))))
    torch.testing.assert_close(left_half(shown), left_half(plain))
    assert not torch.allclose(shown[..., 8:], plain[..., 8:], atol=1e-3)


def test_the_negative_prompt_of_an_area_stays_the_base_models(sd15, adapter):
    """Core copies the area into the negative prompt together with the conditioning's uuid."""
    x, positive, negative = latents(), words(area=LEFT, strength=1.0), words(3)
    with_person, plain = (
        predict(model, x, SIGMA, positive, negative, cfg=4.0) for model in (apply_person(sd15, person(adapter)), sd15)
    )
    person_only = predict(apply_person(sd15, person(adapter)), x, SIGMA, positive)
    base_only = predict(sd15, x, SIGMA, positive)
    torch.testing.assert_close(
        left_half(with_person - plain), left_half(4 * (person_only - base_only)), rtol=0, atol=1e-4
    )


def test_an_area_uses_its_part_of_the_face_location(sd15):
    """Someone who is to be in the left half, in a conditioning for the left half: as in a picture that is this half."""
    from facecdm.hosts.comfy.unet import layer_map

    adapter = stir(new_adapter(layer_map(sd15), spatial_tokens=True))
    points = torch.tensor(TEMPLATE, dtype=torch.float32)[None] / SIZE
    x, prompt = latents(), words(area=LEFT, strength=1.0)
    placed = apply_person(sd15, replace(person(adapter), keypoints=points * torch.tensor([0.5, 1.0])))
    alone = apply_person(sd15, replace(person(adapter), keypoints=points))
    torch.testing.assert_close(
        left_half(predict(placed, x, SIGMA, prompt)),
        predict(alone, left_half(x).contiguous(), SIGMA, words()),
        rtol=0,
        atol=1e-4,
    )

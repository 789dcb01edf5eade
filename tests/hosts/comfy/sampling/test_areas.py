"""A conditioning of one area uses that part of a person's mask and face location; its negative has no person."""

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


def prompt_of(seed: int = 1, **more):
    return conditioning(torch.randn(1, 77, 96, generator=torch.Generator().manual_seed(seed)), **more)


@pytest.fixture(scope="module")
def base(sd15):
    return sd15.model


def person(adapter, mask=None) -> Person:
    face = torch.randn(1, 512, generator=torch.Generator().manual_seed(0))
    return Person(adapter, torch.nn.functional.normalize(face, dim=1), mask=mask)


def left_half(of) -> torch.Tensor:
    return of[..., :8]


@pytest.mark.parametrize("size", [(8, 16), (64, 128), (100, 90)], ids=str)
def test_the_mask_is_cropped_to_the_area(base, adapter, size):
    """A mask of the left half covers all of an area that is the left half."""
    mask = torch.zeros(size)
    mask[:, : size[1] // 2] = 1
    x, prompt = latents(), prompt_of(area=LEFT, strength=1.0)
    cut, everywhere = (predict(apply_person(base, person(adapter, m)), x, SIGMA, prompt) for m in (mask, None))
    torch.testing.assert_close(left_half(cut), left_half(everywhere))
    assert not torch.allclose(left_half(cut), left_half(predict(base, x, SIGMA, prompt)), atol=1e-3)


def test_two_areas_use_a_half_of_the_mask_each(base, adapter):
    """Both conditionings run in one batch; a mask of the right half leaves the left area unchanged."""
    right = torch.zeros(8, 16)
    right[:, 8:] = 1
    x, both = latents(), prompt_of(area=LEFT, strength=1.0) + prompt_of(2, area=(8, 8, 0, 8), strength=1.0)
    plain, shown = (predict(model, x, SIGMA, both) for model in (base, apply_person(base, person(adapter, right))))
    torch.testing.assert_close(left_half(shown), left_half(plain))
    assert not torch.allclose(shown[..., 8:], plain[..., 8:], atol=1e-3)


def test_the_negative_prompt_of_an_area_has_no_person(base, adapter):
    """Core copies the area into the negative prompt together with the conditioning's uuid."""
    x, positive, negative = latents(), prompt_of(area=LEFT, strength=1.0), prompt_of(3)
    with_person, plain = (
        predict(model, x, SIGMA, positive, negative, cfg=4.0) for model in (apply_person(base, person(adapter)), base)
    )
    person_only = predict(apply_person(base, person(adapter)), x, SIGMA, positive)
    base_only = predict(base, x, SIGMA, positive)
    torch.testing.assert_close(
        left_half(with_person - plain), left_half(4 * (person_only - base_only)), rtol=0, atol=1e-4
    )


def test_the_face_location_is_relative_to_the_area(base):
    """A face located in the left half, in an area that is the left half, equals one in a picture of that half."""
    from facecdm.hosts.comfy.unet import layer_map

    adapter = stir(new_adapter(layer_map(base), spatial_tokens=True))
    points = torch.tensor(TEMPLATE, dtype=torch.float32)[None] / SIZE
    x, prompt = latents(), prompt_of(area=LEFT, strength=1.0)
    placed = apply_person(base, replace(person(adapter), keypoints=points * torch.tensor([0.5, 1.0])))
    alone = apply_person(base, replace(person(adapter), keypoints=points))
    torch.testing.assert_close(
        left_half(predict(placed, x, SIGMA, prompt)),
        predict(alone, left_half(x).contiguous(), SIGMA, prompt_of()),
        rtol=0,
        atol=1e-4,
    )

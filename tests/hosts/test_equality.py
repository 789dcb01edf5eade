"""Both hosts run the same triplet: equal noise predictions on equal tensors."""

from dataclasses import replace

import pytest
import torch
from twins import FULL_SD15, Twins, conditioning, make_twins, new_adapter, predict, stir

from facecdm.adapter.location_finder import Prediction
from facecdm.adapter.person import Person, Stream
from facecdm.bases import name_of
from facecdm.errors import Mismatch
from facecdm.faces.align import TEMPLATE
from facecdm.faces.location import SIZE
from facecdm.hosts.comfy.sampling.apply import apply_person
from facecdm.hosts.comfy.unet import layer_map
from facecdm.hosts.diffusers.sampling import DiffusersHost, Span

SIGMA = 3.0


def features(adapter, seed: int = 5, references: int = 2):
    generator = torch.Generator().manual_seed(seed)
    face = torch.nn.functional.normalize(torch.randn(references, adapter.config.face_width, generator=generator), dim=1)
    return face, torch.randn(1, 7, adapter.config.image_width, generator=generator)


def compare(twins: Twins, people: list[Person], batch: int = 2, size: tuple[int, int] = (8, 12)) -> tuple:
    """(ε of ComfyUI, ε of diffusers) for one prompt and these people."""
    torch.manual_seed(3)
    x = torch.randn(batch, 4, *size) * SIGMA
    text, pooled = torch.randn(1, 77, twins.context), torch.randn(1, 1280)
    model = twins.model
    for person in people:
        model = apply_person(model, person)
    ours = predict(model, x, SIGMA, conditioning(text, pooled, height=size[0] * 8, width=size[1] * 8))
    host = DiffusersHost(twins.unet)
    spans = [Span(person, 0, batch, text) for person in people]
    with torch.no_grad(), host.people(spans, torch.tensor([SIGMA]), size):
        theirs = twins.diffusers(x, SIGMA, text, pooled)
    return ours, theirs


def same(ours, theirs) -> None:
    assert torch.isfinite(ours).all()
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-4 * theirs.abs().max().item())


def test_layer_maps_agree(twins):
    assert layer_map(twins.model) == DiffusersHost(twins.unet).layer_map


def test_without_people_the_twins_agree(twins):
    same(*compare(twins, []))


def test_face_and_image_with_interplay(twins):
    adapter = stir(new_adapter(layer_map(twins.model)))
    face, image = features(adapter)
    ours, theirs = compare(twins, [Person(adapter, face, image)])
    same(ours, theirs)
    plain, _ = compare(twins, [])
    assert (ours - plain).abs().max() > 1e-2 * plain.abs().max(), "the adapter did nothing"


def test_two_people_with_masks_and_curves(twins):
    adapter = stir(new_adapter(layer_map(twins.model)))
    count = len(adapter.config.layer_map.layers)
    left = torch.zeros(64, 96)
    left[:, :40] = 1
    curve = tuple(i / count for i in range(count))
    people = [
        Person(adapter, features(adapter, seed)[0], mask=mask, settings={"face": Stream(0.8, curve, kappa=0.3)})
        for seed, mask in ((5, left), (6, 1 - left))
    ]
    same(*compare(twins, people))


def test_router_with_both_streams_and_with_one(twins):
    adapter = stir(new_adapter(layer_map(twins.model), router=True))
    face, image = features(adapter)
    for shown in (image, None):
        ours, theirs = compare(twins, [Person(adapter, face, shown), Person(adapter, features(adapter, 6)[0])])
        same(ours, theirs)
        with torch.no_grad():
            for stream in adapter.streams.values():
                stream.router.zero_()
        quiet, _ = compare(twins, [Person(adapter, face, shown), Person(adapter, features(adapter, 6)[0])])
        assert (ours - quiet).abs().max() > 1e-3 * quiet.abs().max(), "the router had no effect"
        stir(adapter)


@pytest.mark.parametrize("pictures", [1, 2], ids=["one location for all", "one a picture"])
def test_face_locations(twins, pictures):
    """Two people, one with a face location, in pictures that are not square; two references side by side."""
    adapter = stir(new_adapter(layer_map(twins.model), spatial_tokens=True, face_tokens=4))
    points = torch.tensor(TEMPLATE, dtype=torch.float32)[None] / SIZE
    locations = torch.cat([points * 0.5, points * 0.4 + 0.5])[:pictures]
    shown = Person(adapter, features(adapter)[0], keypoints=locations)
    other = Person(adapter, features(adapter, 6)[0])
    ours, theirs = compare(twins, [shown, other])
    same(ours, theirs)
    anywhere, _ = compare(twins, [replace(shown, keypoints=None), other])
    assert (ours - anywhere).abs().max() > 1e-2 * anywhere.abs().max(), "the face location had no effect"
    wide, _ = compare(twins, [replace(shown, aspects=torch.full((pictures,), 3.0)), other])
    assert (ours - wide).abs().max() > 1e-2 * ours.abs().max(), "the pose's canvas is wider than the picture"
    same(*compare(twins, [replace(shown, aspects=torch.full((pictures,), 3.0)), other]))
    plain = stir(new_adapter(layer_map(twins.model), face_tokens=4))
    placed, free = (compare(twins, [Person(plain, features(plain)[0], keypoints=at)])[0] for at in (locations, None))
    assert torch.equal(placed, free), "an adapter without spatial tokens ignores it"


@pytest.mark.parametrize("people", [1, 2], ids=["one person", "two people with masks"])
def test_locations_that_the_adapter_finds(twins, people):
    """The second U-Net call of a sampling: each host's adapter looks at the first call's clean latents."""
    adapter = finding(twins)
    left, size, batch = torch.zeros(64, 96), (8, 12), 2
    left[:, :48] = 1
    masks = (None,) if people == 1 else (left, 1 - left)
    shown = [Person(adapter, features(adapter, 5 + at)[0], mask=mask) for at, mask in enumerate(masks)]
    torch.manual_seed(3)
    x, text, pooled = torch.randn(batch, 4, *size) * SIGMA, torch.randn(1, 77, twins.context), torch.randn(1, 1280)
    prompt, model = conditioning(text, pooled, height=size[0] * 8, width=size[1] * 8), twins.model
    plain = predict(model, x, SIGMA, prompt)
    for person in shown:
        model = apply_person(model, person)
    first, second = (predict(model, x, SIGMA, prompt, times=times) for times in (1, 2))
    assert torch.equal(first, plain), "nothing is found before the first step"
    assert (second - plain).abs().max() > 1e-2 * plain.abs().max(), "the face that was found has no effect"

    host, level = DiffusersHost(twins.unet), torch.tensor([SIGMA])
    spans = [Span(person, 0, batch, text) for person in shown]
    with torch.no_grad(), host.people(spans, level, size):
        same(first, twins.diffusers(x, SIGMA, text, pooled))
    before = Prediction(x - SIGMA * first, level)
    with torch.no_grad(), host.people(spans, level, size, before):
        same(second, twins.diffusers(x, SIGMA, text, pooled))
    if people == 2:
        where = [adapter.locate(before.clean, level, mask_region(mask, size))[0] for mask in masks]
        assert where[0][..., 0].max() < 0.55 and where[1][..., 0].min() > 0.45, "each in its own half"


def test_a_head_for_other_latents_is_refused(twins):
    adapter = finding(twins, location_channels=48)
    with pytest.raises(Mismatch, match="48 channels"):
        apply_person(twins.model, Person(adapter, features(adapter)[0]))
    given = torch.tensor(TEMPLATE, dtype=torch.float32)[None] / SIZE
    apply_person(twins.model, Person(adapter, features(adapter)[0], keypoints=given))


def finding(twins, **sizes):
    """An adapter with a location head whose random heat maps are narrow, and which trusts itself."""
    sizes = {"spatial_tokens": True, "face_tokens": 4, "location_channels": 4} | sizes
    adapter = stir(new_adapter(layer_map(twins.model), **sizes))
    adapter.location_head.heat.weight.mul_(100)
    adapter.location_head.spread.bias.fill_(-6.0)
    return adapter


def mask_region(mask, size):
    return torch.nn.functional.interpolate(mask[None, None], size, mode="area")


@pytest.mark.slow
def test_full_size_sd15(in_comfy):
    twins = make_twins(FULL_SD15)
    assert name_of(layer_map(twins.model)) == "SD1.5"
    adapter = stir(new_adapter(layer_map(twins.model), image_width=1024))
    face, image = features(adapter)
    same(*compare(twins, [Person(adapter, face, image)], batch=1, size=(16, 16)))

"""Person Regions and Apply FaceCDM to People as ComfyUI runs them."""

import pytest
import torch
from twins import conditioning, predict, stir

SETTINGS = {"face_strength": 1.0, "image_strength": 1.0, "keep_prompt": 0.0, "start_at": 0.0, "end_at": 1.0}


@pytest.fixture(scope="module")
def errors(in_comfy):
    return in_comfy.module("facecdm.errors")


@pytest.fixture(scope="module")
def adapter(sd15, vision, make_adapter):
    return stir(make_adapter(sd15, clip_vision=vision))


@pytest.fixture
def regions(in_comfy):
    def run(**changes):
        inputs = {"width": 64, "height": 32, "boxes": "0 0 0.5 1\n0.5 0 1 1", "shape": "box", "grow": 1.0,
                  "softness": 0.1, "fill": "regions only"}
        return in_comfy.run("FaceCDMPersonRegions", **inputs | changes)

    return run


def noise(model) -> torch.Tensor:
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(1, 4, 8, 16, generator=generator) * 2
    return predict(model, x, 2.0, conditioning(torch.randn(1, 77, 96, generator=generator)))


def test_regions_as_batch_and_one_by_one(regions):
    masks, one, two, three, four, background, preview = regions()
    assert masks.shape == (2, 32, 64) and preview.shape == (1, 32, 64, 3)
    assert torch.equal(torch.cat([one, two]), masks) and not three.any() and not four.any()
    torch.testing.assert_close(masks.sum(0) + background[0], torch.ones(32, 64))


def test_a_layout_picture_says_where_the_people_are(regions):
    layout = torch.zeros(1, 20, 40, 3)
    layout[:, :, :12, 1] = layout[:, :, 28:, 0] = 1
    masks = regions(layout=layout)[0]
    assert masks.shape == (2, 32, 64) and masks[0, 16, 4] == 1 and masks[1, 16, 60] == 1


def test_faces_of_a_layout_picture(regions, make_faces, errors):
    assert regions(faces=make_faces(1))[0].shape == (1, 32, 64)
    with pytest.raises(errors.FaceCDMError, match="both connected"):
        regions(faces=make_faces(1), layout=torch.ones(1, 8, 8, 3))


def test_people_are_one_apply_each(in_comfy, sd15, adapter, make_faces, vision, regions):
    """The node gives the same noise as a chain of Apply FaceCDM with a mask each."""
    masks, *_ = regions()
    picture = torch.rand(1, 40, 32, 3, generator=torch.Generator().manual_seed(0))
    together = in_comfy.run("FaceCDMApplyPeople", model=sd15, adapter=adapter, masks=masks, faces_1=make_faces(1),
                            faces_2=make_faces(2), image_2=picture, clip_vision=vision, **SETTINGS)[0]
    chain = sd15
    for faces, mask, more in ((make_faces(1), masks[:1], {}),
                              (make_faces(2), masks[1:], {"clip_vision": vision, "image": picture})):
        chain = in_comfy.run("FaceCDMApply", model=chain, adapter=adapter, faces=faces, mask=mask, references="mean",
                             curve="flat", **SETTINGS, **more)[0]
    assert torch.equal(noise(together), noise(chain)) and not torch.equal(noise(together), noise(sd15))


def test_a_person_may_be_left_out(in_comfy, sd15, adapter, make_faces, regions):
    """faces_3 is in the third region, also where faces_2 is nobody."""
    three = regions(boxes="0 0 0.3 1\n0.3 0 0.6 1\n0.6 0 1 1")[0]
    model = in_comfy.run("FaceCDMApplyPeople", model=sd15, adapter=adapter, masks=three, faces_1=make_faces(1),
                         faces_3=make_faces(2), **SETTINGS)[0]
    people = model.model_options["transformer_options"][in_comfy.module("facecdm.hosts.comfy_run").PEOPLE]
    assert len(people) == 2 and torch.equal(people[1].mask, three[2])


def test_more_people_than_regions(in_comfy, sd15, adapter, make_faces, regions, errors):
    with pytest.raises(errors.FaceCDMError, match="faces_2 is connected, and masks has 1 mask"):
        in_comfy.run("FaceCDMApplyPeople", model=sd15, adapter=adapter, masks=regions(boxes="0 0 1 1")[0],
                     faces_1=make_faces(1), faces_2=make_faces(2), **SETTINGS)


def test_a_wrong_word_is_refused_before_it_runs(in_comfy):
    node = in_comfy.nodes["FaceCDMPersonRegions"]
    assert "shape must be one of" in node.validate_inputs(shape="star")
    assert "fill must be one of" in node.validate_inputs(fill="some")

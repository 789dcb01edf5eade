"""Person Regions and Apply FaceCDM to People as ComfyUI runs them."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from published import SMALL, published_state
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
        inputs = {
            "width": 64,
            "height": 32,
            "boxes": "0 0 0.5 1\n0.5 0 1 1",
            "shape": "box",
            "grow": 1.0,
            "softness": 0.1,
            "fill": "regions only",
        }
        return in_comfy.run("FaceCDMPersonRegions", **inputs | changes)

    return run


def noise(model, cfg: float = 1.0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(1, 4, 8, 16, generator=generator) * 2
    prompts = [conditioning(torch.randn(1, 77, 96, generator=generator)) for _ in range(1 if cfg == 1 else 2)]
    return predict(model, x, 2.0, *prompts, cfg=cfg)


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


def test_settings_that_a_painted_layout_ignores(in_comfy):
    inputs = {"width": 64, "height": 32, "boxes": "", "shape": "ellipse", "grow": 2.0, "softness": 0.2}
    layout = torch.zeros(1, 20, 40, 3)
    layout[:, :, :12, 1] = 1

    def warnings(**changes):
        shown = in_comfy.node_output("FaceCDMPersonRegions", **inputs | {"fill": "regions only"} | changes)
        return (
            shown.ui.as_dict().get("facecdm_warnings", [])
            if hasattr(shown.ui, "as_dict")
            else shown.ui["facecdm_warnings"]
        )

    assert [text.split()[0] for text in warnings(layout=layout)] == ["shape", "grow"]
    assert not warnings(layout=layout, shape="box", grow=1.0) and not warnings(boxes="0 0 1 1")


def test_faces_of_a_layout_picture(regions, make_faces, errors):
    assert regions(faces=make_faces(1))[0].shape == (1, 32, 64)
    with pytest.raises(errors.FaceCDMError, match="both connected"):
        regions(faces=make_faces(1), layout=torch.ones(1, 8, 8, 3))


def test_people_are_one_apply_each(in_comfy, sd15, adapter, make_faces, vision, regions):
    """The node gives the same noise as a chain of Apply FaceCDM with a mask each."""
    masks, *_ = regions()
    picture = torch.rand(1, 40, 32, 3, generator=torch.Generator().manual_seed(0))
    together = in_comfy.run(
        "FaceCDMApplyPeople",
        model=sd15,
        adapter=adapter,
        masks=masks,
        faces_1=make_faces(1),
        faces_2=make_faces(2),
        image_2=picture,
        clip_vision=vision,
        **SETTINGS,
    )[0]
    chain = sd15
    for faces, mask, more in (
        (make_faces(1), masks[:1], {}),
        (make_faces(2), masks[1:], {"clip_vision": vision, "image": picture}),
    ):
        chain = in_comfy.run(
            "FaceCDMApply",
            model=chain,
            adapter=adapter,
            faces=faces,
            mask=mask,
            references="mean",
            curve="flat",
            **SETTINGS,
            **more,
        )[0]
    assert torch.equal(noise(together), noise(chain)) and not torch.equal(noise(together), noise(sd15))


def test_a_person_may_be_left_out(in_comfy, sd15, adapter, make_faces, regions):
    """faces_3 is in the third region, also if faces_2 is not connected."""
    three = regions(boxes="0 0 0.3 1\n0.3 0 0.6 1\n0.6 0 1 1")[0]
    model = in_comfy.run(
        "FaceCDMApplyPeople",
        model=sd15,
        adapter=adapter,
        masks=three,
        faces_1=make_faces(1),
        faces_3=make_faces(2),
        **SETTINGS,
    )[0]
    people = model.model_options["transformer_options"][in_comfy.module("facecdm.hosts.comfy.sampling.run").PEOPLE]
    assert len(people) == 2 and torch.equal(people[1].mask, three[2])


@pytest.fixture(scope="module")
def published(in_comfy, sd15):
    """family → its ADAPTER for the small base."""
    layer_map = in_comfy.module("facecdm.hosts.comfy.unet").layer_map(sd15)
    sizes = replace(SMALL, states=32, pooled=8)

    def published(family: str):
        state = published_state(family, layer_map, sizes)
        given = in_comfy.module("facecdm.formats.read").Published(
            state["image_proj"], state["ip_adapter"], {}, Path("made-up.bin")
        )
        with pytest.MonkeyPatch.context() as patch:
            bases = in_comfy.module("facecdm.bases")
            patch.setitem(bases.BASES, "small SD1.5", bases.Base("small SD1.5", layer_map))
            return in_comfy.module("facecdm.formats.imported").import_adapter(given, family)

    return published


@pytest.fixture
def options(in_comfy):
    rest = {
        spec.id: spec.default
        for spec in in_comfy.nodes["FaceCDMApplyOptions"].define_schema().inputs
        if getattr(spec, "default", None) is not None
    }
    return lambda **changes: in_comfy.run("FaceCDMApplyOptions", **rest | changes)[0]


def test_options_are_for_everybody(in_comfy, sd15, published, make_faces, regions, options):
    """As for a chain of Apply FaceCDM, and CFG is rescaled once."""
    masks, faceid = regions()[0], published("faceid")
    given = options(balance=0.5, lora_strength=0.3, over_steps="0.5", cfg_rescale=0.7, noise=0.2)
    people = [make_faces(count, recogniser="buffalo_l/w600k_r50.onnx") for count in (1, 2)]
    together = in_comfy.run(
        "FaceCDMApplyPeople",
        model=sd15,
        adapter=faceid,
        masks=masks,
        faces_1=people[0],
        faces_2=people[1],
        options=given,
        **SETTINGS,
    )[0]
    chain = sd15
    for faces, mask in zip(people, masks):
        chain = in_comfy.run(
            "FaceCDMApply",
            model=chain,
            adapter=faceid,
            faces=faces,
            mask=mask,
            references="mean",
            curve="flat",
            options=given,
            **SETTINGS,
        )[0]
    assert torch.equal(noise(together, 4.0), noise(chain, 4.0))
    plain = in_comfy.run(
        "FaceCDMApplyPeople", model=sd15, adapter=faceid, masks=masks, faces_1=people[0], faces_2=people[1], **SETTINGS
    )[0]
    assert not torch.equal(noise(together, 4.0), noise(plain, 4.0))
    assert len(together.model_options["sampler_post_cfg_function"]) == 1


def test_an_adapter_for_images_needs_no_faces(in_comfy, sd15, published, vision, regions):
    picture = torch.rand(2, 40, 32, 3, generator=torch.Generator().manual_seed(0))
    masks, plus = regions()[0], published("ip-adapter-plus")
    given = {"adapter": plus, "clip_vision": vision, **SETTINGS}
    together = in_comfy.run(
        "FaceCDMApplyPeople", model=sd15, masks=masks, image_1=picture[:1], image_2=picture[1:], **given
    )[0]
    chain = sd15
    for n in range(2):
        chain = in_comfy.run(
            "FaceCDMApply",
            model=chain,
            mask=masks[n],
            image=picture[n : n + 1],
            references="mean",
            curve="flat",
            **given,
        )[0]
    assert torch.equal(noise(together), noise(chain)) and not torch.equal(noise(together), noise(sd15))


def test_an_error_names_the_person(in_comfy, sd15, published, make_faces, regions, vision, errors):
    given = {"model": sd15, "masks": regions()[0], **SETTINGS}
    faces = make_faces(recogniser="buffalo_l/w600k_r50.onnx")
    for adapter, people, message in (
        (published("faceid"), {"faces_1": faces, "image_2": torch.rand(1, 8, 8, 3)}, "person 2: .* connect faces"),
        (published("faceid"), {"faces_1": make_faces()}, "person 1: FaceID was trained with the recogniser"),
        (published("ip-adapter"), {"faces_1": faces, "clip_vision": vision}, "person 1: .*connect a picture"),
        (published("ip-adapter"), {}, "no person is connected: connect faces_1"),
    ):
        with pytest.raises(errors.FaceCDMError, match=message):
            in_comfy.run("FaceCDMApplyPeople", adapter=adapter, **given, **people)


def test_more_people_than_regions(in_comfy, sd15, adapter, make_faces, regions, errors):
    with pytest.raises(errors.FaceCDMError, match="faces_2 is connected, and masks has 1 mask"):
        in_comfy.run(
            "FaceCDMApplyPeople",
            model=sd15,
            adapter=adapter,
            masks=regions(boxes="0 0 1 1")[0],
            faces_1=make_faces(1),
            faces_2=make_faces(2),
            **SETTINGS,
        )

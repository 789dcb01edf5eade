"""Apply FaceCDM as ComfyUI runs it: what it shows, and what it refuses and why."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from twins import stir


@pytest.fixture
def apply_output(in_comfy, sd15, adapter, make_faces):
    """The NodeOutput of Apply FaceCDM."""

    def apply(**changes):
        inputs = {
            "model": sd15,
            "adapter": adapter,
            "faces": make_faces(),
            "face_strength": 1.0,
            "image_strength": 1.0,
            "keep_prompt": 0.0,
            "start_at": 0.0,
            "end_at": 1.0,
            "references": "mean",
            "curve": "flat",
            "custom_curve": "1, 1, 1",
        }
        return in_comfy.node_output("FaceCDMApply", **inputs | changes)

    return apply


@pytest.fixture
def apply(apply_output):
    return lambda **changes: apply_output(**changes).result[0]


@pytest.fixture
def warnings(apply_output):
    """What the node shows of its warnings."""
    return lambda **changes: (apply_output(**changes).ui or {}).get("facecdm_warnings", [])


def person(in_comfy, model):
    people = in_comfy.module("facecdm.hosts.comfy.sampling.run").PEOPLE
    return model.model_options["transformer_options"][people][-1]


# ---- what it shows ----


def test_face_and_image_change_the_picture(sd15, apply, vision, noise, picture):
    plain, face = noise(sd15), noise(apply())
    both = noise(apply(clip_vision=vision, image=picture()))
    other = noise(apply(clip_vision=vision, image=picture(1)))
    assert len({value.sum().item() for value in (plain, face, both, other)}) == 4
    assert noise(sd15).equal(plain), "the MODEL that came in stays as it was"


def test_strength_zero_is_the_base(sd15, apply, vision, noise, picture):
    plain = noise(sd15)
    assert noise(apply(face_strength=0.0)).equal(plain)
    assert noise(apply(face_strength=0.0, image_strength=0.0, clip_vision=vision, image=picture())).equal(plain)
    assert not noise(apply(face_strength=0.0, clip_vision=vision, image=picture())).equal(plain)


def test_an_untrained_adapter_is_the_base(sd15, apply, make_adapter, vision, noise, picture):
    new = make_adapter(sd15, clip_vision=vision)
    assert noise(apply(adapter=new, clip_vision=vision, image=picture())).equal(noise(sd15))


def test_an_encoded_image_gives_the_same_as_the_image(apply, vision, noise, picture):
    with torch.inference_mode():
        output = vision.encode_image(picture())
    assert noise(apply(clip_vision_output=output)).equal(noise(apply(clip_vision=vision, image=picture())))


def test_several_faces_as_one_mean_or_side_by_side(in_comfy, apply, make_faces, noise):
    faces = make_faces(3)
    mean, row = apply(faces=faces), apply(faces=faces, references="side by side")
    shown = person(in_comfy, mean).face, person(in_comfy, row).face
    assert shown[0].shape == (1, 512) and shown[1].shape == (3, 512)
    assert torch.allclose(shown[0][0], torch.nn.functional.normalize(faces.normed.mean(0), dim=0), atol=1e-6)
    assert torch.allclose(shown[1].norm(dim=1), torch.ones(3))
    assert not noise(mean).equal(noise(row))


def test_an_image_beside_an_encoded_one_is_not_used(apply, warnings, vision, picture):
    with torch.inference_mode():
        encoded = vision.encode_image(picture())
    (text,) = warnings(clip_vision_output=encoded, clip_vision=vision, image=picture(1))
    assert text.startswith("image is connected and is not used, because clip_vision_output")
    assert not warnings(clip_vision_output=encoded)


def test_one_face_is_its_own_mean(apply, noise):
    assert torch.allclose(noise(apply()), noise(apply(references="side by side")), atol=1e-6)


def test_a_mask_or_the_first_of_a_batch(apply, sd15, noise):
    half = torch.zeros(1, 16, 16)
    half[:, :, :8] = 1
    masked = noise(apply(mask=half))
    assert not masked.equal(noise(apply())) and not masked.equal(noise(sd15))
    assert noise(apply(mask=half[0])).equal(masked)
    assert noise(apply(mask=torch.cat([half, 1 - half]))).equal(masked)
    assert noise(apply(mask=torch.zeros(1, 16, 16))).equal(noise(sd15))


def test_a_black_mask_is_a_warning(warnings):
    (text,) = warnings(mask=torch.zeros(2, 8, 8))
    assert text.startswith("mask is black, so the person has no effect")
    assert not warnings(mask=torch.eye(8)[None])


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_masks_and_pictures_with_nan_are_named(errors, apply, vision, picture, bad):
    mask, pictures = torch.ones(8, 8), picture(count=3)
    mask[2, 3] = pictures[1, 4, 5, 0] = bad
    with pytest.raises(errors.FaceCDMError, match="mask holds NaN or infinity: check"):
        apply(mask=mask)
    with pytest.raises(errors.FaceCDMError, match="image holds NaN or infinity in picture 1 "):
        apply(clip_vision=vision, image=pictures)


def test_the_person_acts_between_start_and_end(sd15, apply, noise):
    model = apply(start_at=0.3, end_at=0.7)
    sampling = sd15.get_model_object("model_sampling")
    for percent, acts in ((0.1, False), (0.5, True), (0.9, False)):
        sigma = float(sampling.percent_to_sigma(percent))
        assert noise(model, sigma).equal(noise(sd15, sigma)) != acts, f"at {percent} of the sampling"


@pytest.mark.parametrize("times", [{"start_at": 0.5}, {"end_at": 0.5}, {"over_steps": (0.0, 1.0)}], ids=str)
def test_a_later_node_that_changes_the_noise_schedule(in_comfy, sd15, apply, noise, times):
    """Times are shares of the sampling with the schedule that it has, as those of core's nodes."""
    from comfy_extras.nodes_model_advanced import ModelSamplingContinuousEDM

    def changed(model):
        return ModelSamplingContinuousEDM().patch(model, "eps", 120.0, 0.002)[0]

    options = in_comfy.module("nodes.apply_options").ApplyOptions(over_steps=times.get("over_steps", (1.0,)))
    more = {name: value for name, value in times.items() if name != "over_steps"} | {"options": options}
    before, after, plain = apply(model=changed(sd15), **more), changed(apply(**more)), changed(sd15)
    acts = []
    for percent in (0.1, 0.4, 0.6, 0.9):
        sigma = float(plain.get_model_object("model_sampling").percent_to_sigma(percent))
        found = noise(after, sigma)
        assert found.equal(noise(before, sigma)), f"at {percent} of the sampling"
        acts.append(not found.equal(noise(plain, sigma)))
    expected = {"start_at": [False, False, True, True], "end_at": [True, True, False, False]}
    assert acts == expected.get(next(iter(times)), [True] * 4)


def test_curves_weigh_the_depth(in_comfy, apply, noise):
    assert noise(apply(curve="custom", custom_curve="1")).equal(noise(apply()))
    assert noise(apply(curve="custom", custom_curve="0, 1, 0")).equal(noise(apply(curve="strong middle")))
    factors = person(in_comfy, apply(curve="ease in")).settings["face"].curve
    assert factors[0] == 0.0 and max(factors) == 1.0 and factors[-1] == pytest.approx(6 / 15), "the middle is last"


def test_two_people_applied_one_after_the_other(apply, sd15, make_faces, noise):
    one = apply()
    both = apply(model=one, faces=make_faces(2))
    assert len({value.sum().item() for value in map(noise, (sd15, one, both))}) == 3


# ---- what it refuses ----


@pytest.mark.parametrize(
    "text,right",
    [
        ("0, 0.5, 1", True),
        ("1", True),
        ("-1; 2", True),
        ("1,,2,", True),
        ("", False),
        (", ;", False),
        ("a", False),
        ("1 2", False),
        ("nan", False),
        ("inf", False),
        ("1e9", False),
    ],
)
def test_a_custom_curve_is_a_list_of_numbers(errors, apply, text, right):
    apply(curve="flat", custom_curve=text)  # it is read for the curve 'custom' alone
    if right:
        apply(curve="custom", custom_curve=text)
    else:
        with pytest.raises(errors.FaceCDMError, match="custom_curve"):
            apply(curve="custom", custom_curve=text)


def test_no_face(errors, apply, in_comfy):
    no_faces = in_comfy.module("facecdm.faces.value").Faces((), "buffalo_s/w600k_mbf.onnx")
    with pytest.raises(errors.NoFace, match="Apply FaceCDM.*no face.*Detect & Embed Faces"):
        apply(faces=no_faces)


def test_the_recogniser_it_was_trained_with(errors, apply, sd15, make_adapter, make_faces):
    from dataclasses import replace

    adapter = stir(make_adapter(sd15))
    adapter.config = replace(adapter.config, recogniser="buffalo_sc/w600k_mbf.onnx")
    assert apply(adapter=adapter), "buffalo_s and buffalo_sc share this recogniser"
    with pytest.raises(errors.Mismatch, match=r"buffalo_sc/w600k_mbf\.onnx.*antelopev2/glintr100\.onnx.*Load Face"):
        apply(adapter=adapter, faces=make_faces(recogniser="antelopev2/glintr100.onnx"))


def test_embeddings_of_another_width(errors, apply, make_faces):
    with pytest.raises(errors.Mismatch, match="faces has 128 features.*other/r.onnx.*reads 512"):
        apply(faces=make_faces(width=128, recogniser="other/r.onnx"))


def test_an_adapter_of_another_base(errors, apply, sdxl):
    with pytest.raises(errors.Mismatch, match="made for U-Net of 16 .* width 96, and the MODEL is U-Net of 28 .* 128"):
        apply(model=sdxl)


def test_bases_are_compared_before_faces_are_asked_for(errors, apply, sdxl, make_adapter, sd15):
    adapter = stir(make_adapter(sd15))
    adapter.config = replace(adapter.config, recogniser="buffalo_l/w600k_r50.onnx")
    with pytest.raises(errors.Mismatch, match="choose the face pack buffalo_l in Load Face Analyzer"):
        apply(adapter=adapter)
    for changes in ({}, {"faces": None}):
        with pytest.raises(errors.Mismatch, match="made for U-Net of 16"):
            apply(adapter=adapter, model=sdxl, **changes)


def test_numbers_over_links_are_checked(errors, apply):
    with pytest.raises(errors.FaceCDMError, match="face_strength must be a number from -2 to 4; got nan"):
        apply(face_strength=float("nan"))


def test_an_image_without_an_encoder(errors, apply, picture):
    with pytest.raises(errors.FaceCDMError, match="image is connected and clip_vision is not: connect"):
        apply(image=picture())


def test_an_encoder_of_another_size(errors, apply, make_vision, picture):
    with pytest.raises(errors.Mismatch, match="gives 64 features, and the adapter reads 32"):
        apply(clip_vision=make_vision(64), image=picture())


def test_an_image_for_an_adapter_without_image_stream(errors, apply, sd15, make_adapter, vision, picture):
    alone = stir(make_adapter(sd15))
    assert apply(adapter=alone, clip_vision=vision), "an encoder alone is no image"
    with pytest.raises(errors.Mismatch, match="no image stream: disconnect"):
        apply(adapter=alone, clip_vision=vision, image=picture())


def test_nan_from_the_encoder(errors, apply):
    states = torch.full((1, 5, 32), float("nan"))
    with pytest.raises(errors.FaceCDMError, match="encoded image holds NaN.*another precision"):
        apply(clip_vision_output=SimpleNamespace(penultimate_hidden_states=states))


@pytest.mark.parametrize("start,end", [(0.5, 0.5), (0.8, 0.2), (0.0, 0.0)])
def test_start_comes_before_end(errors, apply, start, end):
    with pytest.raises(errors.FaceCDMError, match=f"start_at .{start}. must be before end_at .{end}"):
        apply(start_at=start, end_at=end)


def test_a_model_without_cross_attention(errors, apply):
    flux = SimpleNamespace(
        model=SimpleNamespace(diffusion_model=torch.nn.Linear(1, 1)), get_model_object=lambda name: None
    )
    with pytest.raises(errors.UnsupportedModel, match="SD1.5, SD2, SDXL"):
        apply(model=flux)


# ---- face location ----


@pytest.fixture
def pose():
    points = [[38.3, 51.7, 1], [73.5, 51.5, 1], [56.0, 71.7, 1], [41.5, 92.4, 1], [70.7, 92.2, 1]]
    return [{"canvas_width": 112, "canvas_height": 112, "people": [{"face_5_keypoints_2d": sum(points, [])}]}]


def test_a_pose_says_where_the_face_is_to_be(in_comfy, sd15, make_adapter, apply, noise, pose):
    placed = stir(make_adapter(sd15))
    placed.config = replace(placed.config, spatial_tokens=True)
    here = apply(adapter=placed, pose=pose)
    assert person(in_comfy, here).keypoints.shape == (1, 5, 2)
    assert person(in_comfy, here).keypoints[0, 2].tolist() == pytest.approx([56 / 112, 71.7 / 112], abs=1e-5)
    assert not noise(here).equal(noise(apply(adapter=placed)))


@pytest.mark.parametrize(("height", "width"), [(64, 64), (64, 128), (128, 64), (96, 128)])
@pytest.mark.parametrize("canvas", [(120, 120), (100, 130), (160, 120)])
def test_a_pose_of_another_shape_is_where_core_draws_it(
    in_comfy, sd15, make_adapter, apply, pose, canvas, height, width
):
    """A dot on the nose goes through core's own fitting of a ControlNet's picture, and the nose is where the dot is."""
    from comfy.utils import common_upscale

    adapter = stir(make_adapter(sd15))
    pose[0]["canvas_height"], pose[0]["canvas_width"] = canvas
    hint = torch.zeros(1, 1, *canvas)
    hint[..., 67:77, 51:61] = 1.0  # around the nose, 56 × 71.7
    drawn = common_upscale(hint, 8 * width, 8 * height, "bilinear", "center")[0, 0]
    y, x = (drawn > 0.5).nonzero().float().mean(0) + 0.5
    said = person(in_comfy, apply(adapter=adapter, pose=pose)).keypoints_in(height, width)[0, 2]
    assert said.tolist() == pytest.approx([float(x) / (8 * width), float(y) / (8 * height)], abs=0.01)


def test_a_pose_without_effect_is_a_warning_on_the_node(apply, warnings, noise, pose):
    assert noise(apply(pose=pose)).equal(noise(apply()))
    assert len(warnings(pose=pose)) == 1 and "pose is connected and not used" in warnings(pose=pose)[0]
    assert not warnings()


def test_a_missing_pose_is_a_warning_on_the_node(sd15, make_adapter, warnings, pose):
    spatial = stir(make_adapter(sd15))
    spatial.config = replace(spatial.config, spatial_tokens=True)
    assert len(warnings(adapter=spatial)) == 1 and "pose is not connected" in warnings(adapter=spatial)[0]
    assert not warnings(adapter=spatial, pose=pose) and not warnings(adapter=spatial, face_strength=0.0)
    spatial.location_head, spatial.config = torch.nn.Identity(), replace(spatial.config, location_channels=4)
    assert not warnings(adapter=spatial), "it finds the face by itself"


def test_a_pose_of_another_person_is_not_used(in_comfy, sd15, make_adapter, apply, warnings, pose):
    spatial = stir(make_adapter(sd15))
    spatial.config = replace(spatial.config, spatial_tokens=True)
    pose[0]["canvas_width"] = pose[0]["canvas_height"] = 224  # the face is in the upper left quarter
    mask = torch.zeros(1, 8, 8)
    mask[:, 4:] = 1
    assert person(in_comfy, apply(adapter=spatial, pose=pose, mask=mask)).keypoints is None
    outside, missing = warnings(adapter=spatial, pose=pose, mask=mask)
    assert outside.startswith("pose shows no face inside mask") and missing.startswith("pose gives no face location")
    assert not warnings(adapter=spatial, pose=pose, mask=1 - mask)
    spatial.location_head, spatial.config = torch.nn.Identity(), replace(spatial.config, location_channels=4)
    assert warnings(adapter=spatial, pose=pose, mask=mask) == [outside], "it finds the face by itself"


def test_pictures_without_a_face_in_the_pose_are_named(sd15, make_adapter, warnings, pose):
    spatial = stir(make_adapter(sd15))
    spatial.config = replace(spatial.config, spatial_tokens=True)
    nobody = {**pose[0], "people": []}
    (text,) = warnings(adapter=spatial, pose=[*pose, nobody, *pose, *[nobody] * 11])
    assert "no face in picture 1, 3, 4, 5, 6, 7, 8, 9, 10, 11 and 2 more" in text


def test_a_pose_without_a_face_is_refused(in_comfy, apply):
    with pytest.raises(Exception, match="shows no face"):
        apply(pose=[{"canvas_width": 64, "canvas_height": 64, "people": []}])

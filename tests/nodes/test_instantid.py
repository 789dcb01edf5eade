"""InstantID through our nodes: face tokens in the U-Net and in its ControlNet, and five drawn key points.

Against a reference written from instantX-research/InstantID's equations, and diffusers' ControlNetModel.
"""

from pathlib import Path

import numpy as np
import pytest
import torch
from control_twins import make_control_twins
from decoupled import reference
from published import SMALL_XL, published_state
from resampler_reference import resampled
from torch.nn import functional as F
from twins import SMALL_SDXL, conditioning, make_twins, predict

SIGMA, CFG, STRENGTH, CONTROL = 2.0, 3.0, 0.8, 0.6
SIZE = (16, 24)  # of the latents


@pytest.fixture(scope="module")
def twins(in_comfy):
    return make_twins(SMALL_SDXL)


@pytest.fixture(scope="module")
def control(in_comfy):
    return make_control_twins(SMALL_SDXL, seed=1)


@pytest.fixture(scope="module")
def state(in_comfy, twins):
    return published_state("instantid", in_comfy.module("facecdm.hosts.comfy.unet").layer_map(twins.model), SMALL_XL)


@pytest.fixture(scope="module")
def make_imported(in_comfy, twins):
    bases, imported = (in_comfy.module(f"facecdm.{name}") for name in ("bases", "formats.imported"))
    read = in_comfy.module("facecdm.formats.read")

    def make(family: str, nested: dict):
        with pytest.MonkeyPatch.context() as patch:
            patch.setitem(
                bases.BASES,
                "small SDXL",
                bases.Base("small SDXL", in_comfy.module("facecdm.hosts.comfy.unet").layer_map(twins.model)),
            )
            published = read.Published(nested["image_proj"], nested["ip_adapter"], {}, Path("made-up.bin"))
            return imported.import_adapter(published, family)

    return make


@pytest.fixture(scope="module")
def adapter(make_imported, state):
    return make_imported("instantid", state)


@pytest.fixture(scope="module")
def faces(make_faces):
    return make_faces(2, recogniser="antelopev2/glintr100.onnx")


@pytest.fixture(scope="module")
def key_points(in_comfy):
    """The picture of a face's five points, as the pose worker draws it."""
    poses, draw = in_comfy.module("facecdm.pose.faces"), in_comfy.module("facecdm.pose.draw")
    person = poses.person_of_points(np.float32([[70, 50], [120, 52], [96, 78], [76, 100], [116, 101]]))
    pose = in_comfy.module("facecdm.pose.value").Pose((person,), (8 * SIZE[0], 8 * SIZE[1]))
    canvas = draw.draw_five(pose)
    picture = torch.from_numpy(canvas.copy()).float()[None] / 255
    assert picture.shape == (1, 8 * SIZE[0], 8 * SIZE[1], 3) and picture.any()
    return picture


@pytest.fixture(scope="module")
def apply_control(in_comfy, adapter, control, faces, key_points):
    def apply_control(positive, negative, **changes):
        inputs = {
            "control_net": control.net,
            "image": key_points,
            "adapter": adapter,
            "faces": faces,
            "strength": CONTROL,
            "start_at": 0.0,
            "end_at": 1.0,
            "references": "mean",
            "noise": 0.0,
        }
        return in_comfy.run("FaceCDMApplyControlNet", positive=positive, negative=negative, **inputs | changes)

    return apply_control


def prompts(twins):
    generator = torch.Generator().manual_seed(3)
    text, pooled = torch.randn(2, 77, twins.context, generator=generator), torch.randn(1, 1280, generator=generator)
    return text, pooled, [conditioning(text[i : i + 1], pooled, height=8 * SIZE[0], width=8 * SIZE[1]) for i in (1, 0)]


def test_a_black_mask_is_a_warning(in_comfy, twins, adapter, control, faces, key_points):
    _, _, (positive, negative) = prompts(twins)
    inputs = {"control_net": control.net, "image": key_points, "adapter": adapter, "faces": faces, "strength": CONTROL}
    more = {"start_at": 0.0, "end_at": 1.0, "references": "mean", "noise": 0.0, "positive": positive}
    shown = in_comfy.node_output(
        "FaceCDMApplyControlNet", **inputs, **more, negative=negative, mask=torch.zeros(1, 8, 8)
    )
    (text,) = shown.ui["facecdm_warnings"]
    assert text.startswith("mask is black, so the ControlNet has no effect")


def test_the_tokens_are_instantids(adapter, state, faces, in_comfy):
    shown = in_comfy.module("facecdm.adapter.features").Features(faces.raw)
    torch.testing.assert_close(
        adapter.project(shown, None)["face"], resampled(state["image_proj"], faces.raw), rtol=1e-4, atol=1e-4
    )


def test_unet_and_controlnet_together(in_comfy, twins, control, adapter, state, faces, key_points, apply_control):
    x = torch.randn(1, 4, *SIZE, generator=torch.Generator().manual_seed(5)) * SIGMA
    text, pooled, both = prompts(twins)
    mean = faces.raw.mean(0, keepdim=True)
    tokens = resampled(state["image_proj"], torch.cat([torch.zeros_like(mean), mean]))
    with torch.no_grad(), reference(twins, state["ip_adapter"], tokens, STRENGTH):
        negative, positive = control.diffusers(
            twins, x.expand(2, -1, -1, -1), SIGMA, text, tokens, key_points, pooled, CONTROL
        )
    theirs = (negative + CFG * (positive - negative))[None]
    model = apply(in_comfy, twins.model, adapter, faces)
    ours = predict(model, x, SIGMA, *apply_control(*both), cfg=CFG)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-4 * theirs.abs().max().item())
    for less in (
        predict(model, x, SIGMA, *both, cfg=CFG),
        predict(twins.model, x, SIGMA, *apply_control(*both), cfg=CFG),
    ):
        assert (less - theirs).abs().max() > 0.01 * theirs.abs().max(), "each half has an effect"


def apply(in_comfy, model, adapter, faces):
    inputs = {
        spec.id: spec.default
        for spec in in_comfy.nodes["FaceCDMApply"].define_schema().inputs
        if getattr(spec, "default", None) is not None
    }
    return in_comfy.run(
        "FaceCDMApply", **inputs | {"model": model, "adapter": adapter, "faces": faces, "face_strength": STRENGTH}
    )[0]


def tokens_in(conditioning):
    ((_, options),) = conditioning
    (cond,) = [value for key, value in options["model_conds"].items() if key.startswith("facecdm_")]
    return cond.cond


def test_noise_is_in_the_empty_face_and_repeatable(twins, apply_control, state, faces):
    _, _, both = prompts(twins)
    (plain_p, plain_n), (p, n), (_, again) = (
        apply_control(*both),
        apply_control(*both, noise=0.35),
        apply_control(*both, noise=0.35),
    )
    assert tokens_in(p).equal(tokens_in(plain_p)) and tokens_in(n).equal(tokens_in(again))
    mean = faces.raw.mean(0, keepdim=True)
    generator = torch.Generator().manual_seed(int(mean.sum()) % 1_000_000_007)
    noisy = resampled(state["image_proj"], 0.35 * torch.rand(1, 512, generator=generator))
    torch.testing.assert_close(tokens_in(n), noisy, rtol=1e-4, atol=1e-4)
    assert not tokens_in(n).equal(tokens_in(plain_n))


def test_references_side_by_side(twins, apply_control, state, faces):
    _, _, both = prompts(twins)
    positive, negative = apply_control(*both, references="side by side")
    expected = resampled(state["image_proj"], faces.raw).flatten(0, 1)[None]
    torch.testing.assert_close(tokens_in(positive), expected, rtol=1e-4, atol=1e-4)
    assert tokens_in(negative).shape == expected.shape


def test_a_weighted_mean(twins, apply_control, state, faces):
    _, _, both = prompts(twins)
    positive, negative = apply_control(*both, reference_weights="3, 1")
    mean = (faces.raw * torch.tensor([[0.75], [0.25]])).sum(0, keepdim=True)
    torch.testing.assert_close(tokens_in(positive), resampled(state["image_proj"], mean), rtol=1e-4, atol=1e-4)
    assert tokens_in(negative).equal(tokens_in(apply_control(*both)[1]))


def test_weights_side_by_side_interpolate_from_the_empty_face(twins, apply_control, state, faces):
    _, _, both = prompts(twins)
    positive, _ = apply_control(*both, references="side by side", reference_weights="0.5, 0", noise=0.3)
    one, empty = (resampled(state["image_proj"], given) for given in (faces.raw[:1], torch.zeros(1, 512)))
    torch.testing.assert_close(tokens_in(positive), torch.cat([(one + empty) / 2, empty], 1), rtol=1e-4, atol=1e-4)


def test_each_picture_of_a_batch_reads_its_own_face(in_comfy, twins, apply_control, faces):
    """In both halves of CFG; the last face stays."""
    x = torch.randn(3, 4, *SIZE, generator=torch.Generator().manual_seed(5)) * SIGMA
    _, _, both = prompts(twins)
    together = predict(twins.model, x, SIGMA, *apply_control(*both, references="one per picture"), cfg=CFG)
    single = [type(faces)((face,), faces.recogniser) for face in faces]
    alone = [
        predict(twins.model, x[row : row + 1], SIGMA, *apply_control(*both, faces=single[face]), cfg=CFG)
        for row, face in enumerate((0, 1, 1))
    ]
    torch.testing.assert_close(together, torch.cat(alone), rtol=0, atol=1e-4 * together.abs().max().item())
    mixed = predict(twins.model, x, SIGMA, *apply_control(*both), cfg=CFG)
    assert all((mixed - together)[row].abs().max() > 1e-3 * together.abs().max() for row in range(3))


def test_a_window_of_a_video_reads_its_own_faces(twins, apply_control, faces):
    """AnimateDiff reports which pictures of the batch it samples."""
    x = torch.randn(1, 4, *SIZE, generator=torch.Generator().manual_seed(5)) * SIGMA
    _, _, both = prompts(twins)
    positive, negative = apply_control(*both, references="one per picture")
    model = twins.model.clone()
    model.model_options["transformer_options"]["ad_params"] = {"sub_idxs": [1]}
    second = apply_control(*both, faces=type(faces)(faces.faces[1:], faces.recogniser))
    torch.testing.assert_close(
        predict(model, x, SIGMA, positive, negative, cfg=CFG), predict(twins.model, x, SIGMA, *second, cfg=CFG)
    )


def test_a_weight_for_each_frame(twins, apply_control, state, faces):
    """One face that fades in over three frames."""
    _, _, both = prompts(twins)
    one = type(faces)(faces.faces[:1], faces.recogniser)
    positive, negative = apply_control(*both, faces=one, references="one per picture", reference_weights="0, 0.5, 1")
    shown, empty = (resampled(state["image_proj"], given) for given in (faces.raw[:1], torch.zeros(1, 512)))
    torch.testing.assert_close(
        tokens_in(positive), torch.cat([empty, (empty + shown) / 2, shown]), rtol=1e-4, atol=1e-4
    )
    torch.testing.assert_close(tokens_in(negative), empty.expand(3, -1, -1), rtol=1e-4, atol=1e-4)


def test_weights_are_checked(in_comfy, errors, apply_control):
    check = in_comfy.nodes["FaceCDMApplyControlNet"].validate_inputs
    assert check() is True and check("1, 0.5") is True and "reference_weights" in check("1, b")
    with pytest.raises(errors.FaceCDMError, match="reference_weights has 3 numbers for 2 references"):
        apply_control([], [], reference_weights="1, 1, 1")


def test_an_own_adapter(in_comfy, twins, apply_control, make_adapter, faces):
    """Its face tokens after the interplay with each prompt."""
    from twins import stir

    own = stir(make_adapter(twins.model))
    text, _, both = prompts(twins)
    positive, negative = apply_control(*both, adapter=own)
    with torch.no_grad():
        mean = F.normalize(faces.normed.mean(0, keepdim=True), dim=1)
        tokens_for_text = [
            own.apply_interplay(own.project(face, None), prompt[None])["face"]
            for face, prompt in ((mean, text[1]), (torch.zeros_like(mean), text[0]))
        ]
    torch.testing.assert_close(tokens_in(positive), tokens_for_text[0])
    torch.testing.assert_close(tokens_in(negative), tokens_for_text[1])
    positive, _ = apply_control(*both, adapter=own, references="one per picture")
    with torch.no_grad():
        frames = own.apply_interplay(own.project(faces.normed, None), text[1:2])["face"]
    torch.testing.assert_close(tokens_in(positive), frames)


# ---- errors ----


@pytest.fixture(scope="module")
def errors(in_comfy):
    return in_comfy.module("facecdm.errors")


def test_an_adapter_that_reads_pictures(errors, twins, apply_control, make_imported, in_comfy):
    layer_map = in_comfy.module("facecdm.hosts.comfy.unet").layer_map(twins.model)
    for family, name in (("ip-adapter-plus", "IP-Adapter Plus"), ("faceid-plusv2", "FaceID PlusV2")):
        adapter = make_imported(family, published_state(family, layer_map, SMALL_XL, lora_rank=0))
        with pytest.raises(errors.UnsupportedModel, match=f"{name} makes no tokens.*core's Apply ControlNet"):
            apply_control([], [], adapter=adapter)


def test_a_controlnet_for_another_base(errors, apply_control, in_comfy, make_adapter):
    from twins import SMALL_SD15

    small = make_adapter(make_twins(SMALL_SD15).model)
    with pytest.raises(errors.Mismatch, match="face tokens have 96 features, and control_net reads 128"):
        apply_control([], [], adapter=small)


def test_a_t2i_adapter_is_refused(errors, apply_control, in_comfy):
    import comfy.controlnet

    t2i = comfy.controlnet.T2IAdapter(torch.nn.Linear(1, 1), 3, 8, "nearest-exact", torch.device("cpu"))
    with pytest.raises(errors.UnsupportedModel, match="T2I-Adapter, which cannot read face tokens"):
        apply_control([], [], control_net=t2i)


def test_start_comes_before_end(errors, apply_control):
    with pytest.raises(errors.FaceCDMError, match="start_at .0.5. must be before end_at .0.5."):
        apply_control([], [], start_at=0.5, end_at=0.5)


def test_no_face(errors, apply_control, make_faces):
    with pytest.raises(errors.NoFace, match="holds no face"):
        apply_control([], [], faces=make_faces(0))

"""Detail Faces with the demo model and the real detector."""

from types import SimpleNamespace

import flux
import numpy as np
import pytest
import qwen_image
import torch
from PIL import Image
from twins import stir

SETTINGS = {
    "seed": 1,
    "steps": 2,
    "cfg": 1.0,
    "sampler_name": "euler",
    "scheduler": "karras",
    "denoise": 0.4,
    "guide_size": 128,
    "padding": 0.5,
    "mask_grow": 1.25,
    "feather": 0.3,
    "noise_mask": True,
    "min_score": 0.5,
    "min_size": 8,
    "max_size": 4096,
}
DETECTION = {
    "min_score": 0.5,
    "no_face": "skip",
    "crop_size": 112,
    "crop_margin": 0.0,
    "mask_grow": 1.0,
    "mask_feather": 0.1,
    "detection_size": 640,
    "search_harder": True,
}


@pytest.fixture(scope="module")
def demo(in_comfy):
    if not in_comfy.module("facecdm.demo.weights").default_path().is_file():
        pytest.skip("no demo weights")
    model, clip, vae, vision = in_comfy.run("FaceCDMLoadDemoModel")
    with torch.inference_mode():
        conditioning = clip.encode_from_tokens_scheduled(clip.tokenize("a young man, smiling, plain blue background"))
    return SimpleNamespace(model=model, vae=vae, vision=vision, conditioning=conditioning)


@pytest.fixture(scope="module")
def analyzer(in_comfy):
    return in_comfy.run("FaceCDMLoadFaceAnalyzer", pack="buffalo_s", provider="CPU", landmarks=False)[0]


@pytest.fixture(scope="module")
def group(faceworld_val) -> torch.Tensor:
    """Two people of 64 pixels on grey, [1, 160, 256, 3]; and a picture without people."""
    picture = torch.full((2, 160, 256, 3), 0.5)
    for x, person in ((20, "0005"), (160, "0006")):
        small = Image.open(faceworld_val / person / "00.webp").convert("RGB").resize((80, 80), Image.Resampling.LANCZOS)
        picture[0, 40:120, x : x + 80] = torch.from_numpy(np.asarray(small, np.float32) / 255)
    return picture


@pytest.fixture
def find(in_comfy, analyzer, group):
    """Return faces of the group's first picture."""

    def run(**changes):
        inputs = {"analyzer": analyzer, "image": group[:1]} | DETECTION | changes
        return in_comfy.run("FaceCDMDetectFaces", **inputs)[0]

    return run


@pytest.fixture
def detail(in_comfy, demo, group):
    def run(image=group[:1], **changes):
        inputs = {
            "image": image,
            "model": demo.model,
            "positive": demo.conditioning,
            "negative": demo.conditioning,
            "vae": demo.vae,
        } | SETTINGS
        return in_comfy.run("FaceCDMDetailFaces", **inputs | changes)

    return run


@pytest.fixture(scope="module")
def window_host(in_comfy):
    return in_comfy.module("facecdm.hosts.comfy.sampling.window")


@pytest.fixture(scope="module")
def left_window(in_comfy):
    """The upper left 64 × 64 pixels of a picture of 256 × 128, sampled at 128 × 128."""
    window_around = in_comfy.module("facecdm.faces.window").window_around
    return window_around(torch.tensor([0.0, 0, 64, 64]), 128, 256, 0, 128)


@pytest.fixture(scope="module")
def net(in_comfy):
    """The class of a ControlNet that has a picture and nothing else."""
    from comfy.controlnet import ControlBase

    class Net(ControlBase):
        def copy(self):
            net = Net()
            self.copy_to(net)
            return net

    return Net


def test_faces_are_sampled_again_and_nothing_else_changes(detail, analyzer, group):
    image, mask, pairs, report = detail(group, analyzer=analyzer)
    changed = (image != group).any(-1)
    assert not (changed & (mask == 0)).any(), "outside of the mask every bit stays"
    for x in (20, 160):
        assert changed[0, 60:100, x + 20 : x + 60].float().mean() > 0.5
    assert not changed[1].any() and "Picture 1: no face, left as it is" in report
    assert report.count("sampled at") == 2 and pairs.shape == (2, 128, 256, 3)


def test_only_the_faces_that_are_connected(find, detail, group):
    faces = find(choice="left to right", index=1)
    image, mask, *_ = detail(faces=faces)
    assert torch.equal(image[:, :, :128], group[:1, :, :128]) and not torch.equal(image, group[:1])


def test_a_model_whose_latents_have_frames(in_comfy, find, detail, group):
    with torch.inference_mode():
        own = {"model": qwen_image.make_model(), "vae": qwen_image.make_vae()}
    text = flux.prompt(own["model"])
    faces = find(choice="left to right", index=1)
    image, *_ = detail(faces=faces, **own, positive=text, negative=text, scheduler="simple")
    assert image.shape == group[:1].shape and torch.equal(image[:, :, :128], group[:1, :, :128])
    assert torch.isfinite(image).all() and not torch.equal(image, group[:1])


def test_sizes_that_are_skipped(detail, analyzer, group):
    image, mask, pairs, report = detail(analyzer=analyzer, min_size=100)
    assert (
        torch.equal(image, group[:1])
        and not mask.any()
        and not pairs.any()
        and report.count("skipped, not within") == 2
    )


def test_missing_or_foreign_faces_are_refused(in_comfy, detail, analyzer, make_faces):
    errors = in_comfy.module("facecdm.errors")
    with pytest.raises(errors.FaceCDMError, match="connect an analyzer"):
        detail()
    with pytest.raises(errors.FaceCDMError, match="another picture"):
        detail(faces=make_faces(1))


def test_each_window_has_its_own_person(in_comfy, demo, make_adapter, make_faces, group):
    """In a window of the left half, the mask of the left person is everywhere, and that of the right one nowhere."""
    adapter = stir(make_adapter(demo.model, clip_vision=demo.vision))
    window_around = in_comfy.module("facecdm.faces.window").window_around
    host, run = (
        in_comfy.module("facecdm.hosts.comfy.sampling.window"),
        in_comfy.module("facecdm.hosts.comfy.sampling.run"),
    )
    masks = torch.zeros(2, 80, 128)
    masks[0, :, :64] = masks[1, :, 64:] = 1
    model = in_comfy.run(
        "FaceCDMApplyPeople",
        model=demo.model,
        adapter=adapter,
        masks=masks,
        faces_1=make_faces(1),
        faces_2=make_faces(1),
        face_strength=1.0,
        image_strength=1.0,
        keep_prompt=0.0,
        start_at=0.0,
        end_at=1.0,
    )[0]
    window = window_around(torch.tensor([30.0, 50, 80, 100]), 160, 256, 0.2, 128)
    left, right = host.model_in(model, window).model_options["transformer_options"][run.PEOPLE]
    assert left.mask.eq(1).all() and right.mask.eq(0).all()
    assert model.model_options["transformer_options"][run.PEOPLE][0].mask.shape == (80, 128), "the given one stays"


def test_every_frame_keeps_its_own_reference(in_comfy, sd15, adapter, make_faces, noise):
    """One face a picture: the cut-out of the second frame is sampled with the second face, as the frame was."""
    faces = make_faces(2)
    window = in_comfy.module("facecdm.faces.window").window_around(torch.tensor([9.0, 9, 80, 80]), 160, 256, 0.2, 128)
    model_in = in_comfy.module("facecdm.hosts.comfy.sampling.window").model_in
    defaults = {
        spec.id: spec.default
        for spec in in_comfy.nodes["FaceCDMApply"].define_schema().inputs
        if getattr(spec, "default", None) is not None
    }

    def apply(shown, references):
        return in_comfy.run(
            "FaceCDMApply", **defaults | {"model": sd15, "adapter": adapter, "faces": shown, "references": references}
        )[0]

    video = apply(faces, "one per picture")
    alone = [noise(apply(type(faces)((face,), faces.recogniser), "mean")) for face in faces]
    for picture, expected in ((0, alone[0]), (1, alone[1]), (5, alone[1])):
        torch.testing.assert_close(noise(model_in(video, window, picture)), expected)
    assert not torch.allclose(*alone)


def test_prompts_of_other_regions_are_left_out(in_comfy):
    window = in_comfy.module("facecdm.faces.window").window_around(torch.tensor([0.0, 0, 64, 64]), 128, 256, 0, 128)
    cut = in_comfy.module("facecdm.hosts.comfy.sampling.window").conditioning_in
    left, right = torch.zeros(2, 1, 128, 256)
    left[..., :128], right[..., 128:] = 1, 1
    kept = cut([["left", {"mask": left}], ["right", {"mask": right}], ["all", {}]], window)
    assert [text for text, _ in kept] == ["left", "all"] and kept[0][1]["mask"].shape == (1, 64, 64)
    assert [text for text, _ in cut([["right", {"mask": right}]], window)] == ["right"], "if none is left, all are kept"
    inner, none = (8, 4, 0, 0), (8, 8, 0, 24)  # height, width, y, x in eighths of pixels
    areas = cut([["inner", {"area": inner}], ["none", {"area": none}]], window)
    assert areas == [["inner", {"area": ("percentage", 1.0, 0.5, 0.0, 0.0)}]]


def test_controlnets_use_the_window_of_their_picture(in_comfy, net):
    first, second = net(), net()
    first.cond_hint_original, second.cond_hint_original = torch.rand(1, 3, 128, 256), torch.rand(1, 3, 256, 512)
    second.set_previous_controlnet(first)
    window = in_comfy.module("facecdm.faces.window").window_around(torch.tensor([0.0, 0, 64, 64]), 128, 256, 0, 128)
    own = in_comfy.module("facecdm.hosts.comfy.sampling.window").control_in(second, window)
    assert torch.equal(own.previous_controlnet.cond_hint_original, first.cond_hint_original[..., :64, :64])
    assert torch.equal(own.cond_hint_original, second.cond_hint_original[..., :128, :128])
    assert second.previous_controlnet is first and first.cond_hint_original.shape == (1, 3, 128, 256)
    first.cond_hint_original = torch.rand(3, 3, 128, 256)
    for picture, turn in ((0, 0), (2, 2), (4, 1)):
        own = in_comfy.module("facecdm.hosts.comfy.sampling.window").control_in(second, window, picture)
        expected = first.cond_hint_original[turn : turn + 1, :, :64, :64]
        assert torch.equal(own.previous_controlnet.cond_hint_original, expected)


def test_a_face_location_is_relative_to_the_window(in_comfy, sd15, adapter):
    """Of a picture of 256 × 160 pixels, the window's own corners are 0 and 1."""
    person = in_comfy.module("facecdm.adapter.person").Person
    comfy, run = (
        in_comfy.module("facecdm.hosts.comfy.sampling.apply"),
        in_comfy.module("facecdm.hosts.comfy.sampling.run"),
    )
    around = in_comfy.module("facecdm.faces.window").window_around
    window = around(torch.tensor([30.0, 50, 80, 100]), 160, 256, 0.2, 128)
    corners = torch.tensor([[window.x0, window.y0], [window.x1, window.y1]]) / torch.tensor([256.0, 160.0])
    model = comfy.apply_person(sd15, person(adapter, torch.zeros(1, 512), keypoints=corners[[0, 1, 0, 1, 0]][None]))
    cut = in_comfy.module("facecdm.hosts.comfy.sampling.window").model_in(model, window)
    keypoints = cut.model_options["transformer_options"][run.PEOPLE][0].keypoints
    torch.testing.assert_close(keypoints[0, :2], torch.tensor([[0.0, 0.0], [1.0, 1.0]]))


def test_a_window_of_a_pose_of_another_shape(in_comfy, sd15, adapter):
    """A square pose in a picture of 256 × 160: its middle fills the picture, and the window shows a part of that."""
    person = in_comfy.module("facecdm.adapter.person").Person
    comfy, run = (
        in_comfy.module("facecdm.hosts.comfy.sampling.apply"),
        in_comfy.module("facecdm.hosts.comfy.sampling.run"),
    )
    around = in_comfy.module("facecdm.faces.window").window_around
    window = around(torch.tensor([30.0, 50, 80, 100]), 160, 256, 0.2, 128)
    corners = torch.tensor([[window.x0, window.y0], [window.x1, window.y1]]) / 256 + torch.tensor([0, 48 / 256])
    model = comfy.apply_person(
        sd15, person(adapter, torch.zeros(1, 512), keypoints=corners[[0, 1, 0, 1, 0]][None], aspects=torch.ones(1))
    )
    cut = in_comfy.module("facecdm.hosts.comfy.sampling.window").model_in(model, window)
    located = cut.model_options["transformer_options"][run.PEOPLE][0]
    torch.testing.assert_close(located.keypoints_in(7, 9)[0, :2], torch.tensor([[0.0, 0.0], [1.0, 1.0]]))


def test_the_face_location_is_that_of_the_sampled_face(in_comfy, demo, group, analyzer, find, detail, monkeypatch):
    """Every face by its own key points, as the detector found them, whatever pose the whole picture had."""
    host, run = (
        in_comfy.module("facecdm.hosts.comfy.sampling.window"),
        in_comfy.module("facecdm.hosts.comfy.sampling.run"),
    )
    person = in_comfy.module("facecdm.adapter.person").Person
    shipped = in_comfy.module("facecdm.hosts.comfy.demo.adapter")
    with torch.inference_mode():
        model, adapter = shipped.load(demo.model)
    located = person(adapter, torch.eye(1, 512), keypoints=torch.zeros(1, 5, 2), aspects=torch.ones(1))
    model = in_comfy.module("facecdm.hosts.comfy.sampling.apply").apply_person(model, located)
    windows, model_in = [], host.model_in

    def watched(*given):
        windows.append((given[1], model_in(*given)))
        return windows[-1][1]

    monkeypatch.setattr(host, "model_in", watched)
    assert not torch.equal(detail(analyzer=analyzer, model=model)[0], group[:1])
    found = find(choice="all", index=0)
    assert len(windows) == len(found) == 2
    for (window, cut), face in zip(windows, found):
        (own,) = cut.model_options["transformer_options"][run.PEOPLE]
        side = torch.tensor([window.x1 - window.x0, window.y1 - window.y0])
        pixels = own.keypoints_in(*window.size)[0] * side + torch.tensor([window.x0, window.y0])
        torch.testing.assert_close(pixels, face.keypoints)


def test_control_pictures_are_cut_where_no_regional_prompt_covers_the_face(window_host, left_window, net):
    """All prompts are then kept without their regions, and their ControlNets are cut to the window."""
    right = torch.zeros(1, 128, 256)
    right[..., 128:] = 1
    hint = torch.rand(1, 3, 128, 256)
    for region in ({"mask": right}, {"area": (8, 8, 0, 24)}):
        control = net()
        control.cond_hint_original = hint
        ((_, options),) = window_host.conditioning_in([["right", {**region, "control": control}]], left_window)
        assert not options.keys() & region.keys()
        assert torch.equal(options["control"].cond_hint_original, hint[..., :64, :64])


def test_areas_in_shares_are_cut_to_the_window(window_host, left_window):
    """The window is the upper half of the left quarter."""
    upper_left = ("percentage", 0.25, 0.5, 0.0, 0.0)
    ((_, own),) = window_host.conditioning_in([["left", {"area": upper_left}]], left_window)
    assert own["area"] == ("percentage", 0.5, 1.0, 0.0, 0.0)


def test_gligen_boxes_are_cut_to_the_window(window_host, left_window):
    """A window of 64 × 64 pixels at the top left, sampled at 128 × 128: 16 latents a side."""
    inside, across, outside = (("in", 4, 4, 2, 2), ("across", 8, 8, 4, 4), ("out", 4, 4, 0, 20))
    options = {"gligen": ("position", "model", [inside, across, outside])}
    ((_, own),) = window_host.conditioning_in([["all", options]], left_window)
    assert own["gligen"] == ("position", "model", [("in", 8, 8, 4, 4), ("across", 8, 8, 8, 8)])
    ((_, own),) = window_host.conditioning_in([["all", {"gligen": ("position", "model", [outside])}]], left_window)
    assert "gligen" not in own
    assert len(options["gligen"][2]) == 3, "the given conditioning stays"


@pytest.mark.parametrize("key", ["concat_latent_image", "concat_mask"])
def test_inpainting_latents_are_cut_to_the_window(window_host, left_window, key):
    """At the window's own size in latents, and those of the picture that the face is in."""
    ramp = torch.arange(32.0).expand(2, 4, 16, 32) * torch.tensor([1.0, 10.0]).view(2, 1, 1, 1)
    ((_, own),) = window_host.conditioning_in([["all", {key: ramp}]], left_window, 1)
    assert own[key].shape == (1, 4, 16, 16)
    expected = ((torch.arange(16) + 0.5) / 2 - 0.5).clamp(min=0) * 10  # 8 of the 32 columns
    torch.testing.assert_close(own[key][0, 0, 0], expected)


@pytest.mark.parametrize("colours", [1, 4])
def test_grey_and_rgba_pictures(detail, analyzer, group, colours):
    picture = (
        group[:1].mean(-1, keepdim=True) if colours == 1 else torch.cat([group[:1], torch.rand(1, 160, 256, 1)], -1)
    )
    image, mask, pairs, _ = detail(picture, analyzer=analyzer)
    assert image.shape == picture.shape and pairs.shape[-1] == 3 and not torch.equal(image, picture)
    if colours == 4:
        assert torch.equal(image[..., 3], picture[..., 3]), "alpha stays"


def test_no_picture_at_all_and_one_with_nan(detail, analyzer, group, errors):
    image, mask, *_ = detail(group[:0], analyzer=analyzer)
    assert image.shape == group[:0].shape and mask.shape == (0, 160, 256)
    spoilt = group[:1].clone()
    spoilt[0, 0, 0, 0] = float("nan")
    with pytest.raises(errors.FaceCDMError, match="image holds NaN"):
        detail(spoilt, analyzer=analyzer)
    both = torch.cat([spoilt, group[:1]])
    image, mask, _, report = detail(both, analyzer=analyzer)
    assert "Picture 0: skipped, it holds NaN or infinity" in report and "Picture 0: no face" not in report
    assert image[0].equal(spoilt[0]) or image[0].isnan().any()
    assert not mask[0].any() and mask[1].any(), "the good picture is sampled"


def test_the_search_for_faces_has_progress(in_comfy, detail, analyzer, group, monkeypatch):
    """ComfyUI's progress bar also raises at an interrupt."""
    import comfy.utils

    done = []
    monkeypatch.setattr(comfy.utils.ProgressBar, "update_absolute", lambda self, value, *more: done.append(value))
    detail(group[1:].expand(2, -1, -1, -1), analyzer=analyzer)
    assert done == [1, 2]


def test_faces_of_another_picture_of_the_same_size_are_a_warning(detail, find, group):
    faces = find(choice="largest", index=0)
    warning = "image does not show the face of faces at"
    assert warning not in detail(faces=faces, max_size=8)[3]
    assert warning in detail(group[:1].flip(2), faces=faces, max_size=8)[3]


def test_a_picture_without_a_face_is_a_warning_on_the_node(in_comfy, demo, analyzer, group):
    prompts = {"positive": demo.conditioning, "negative": demo.conditioning}
    inputs = {"image": group[1:], "model": demo.model, "vae": demo.vae, "analyzer": analyzer}
    shown = in_comfy.node_output("FaceCDMDetailFaces", **inputs | prompts | SETTINGS).ui
    assert shown["facecdm_warnings"] == ["Picture 0: no face, left as it is"] and shown["images"]

"""Published adapters from their folders to a MODEL: what each family is shown, and what is told where it cannot be."""

import copy
from dataclasses import replace

import pytest
import torch
from published import SMALL, flat, published_state
from safetensors.torch import save_file
from twins import conditioning, predict

SIZES = replace(SMALL, states=32, pooled=8)  # of the small CLIP vision model
FACES = ("faceid", "faceid-plus", "faceid-plusv2", "faceid-portrait")
IMAGES = ("ip-adapter", "ip-adapter-plus", "ip-adapter-full-face")
ARCFACE = "buffalo_l/w600k_r50.onnx"


@pytest.fixture(scope="module", autouse=True)
def small_base(in_comfy, sd15):
    """The small U-Net has a name among the bases."""
    bases = in_comfy.module("facecdm.adapter.layers").BASES
    bases["small SD1.5"] = in_comfy.module("facecdm.hosts.comfy").layer_map(sd15)
    yield
    del bases["small SD1.5"]


@pytest.fixture(scope="module")
def states(in_comfy, sd15):
    layer_map = in_comfy.module("facecdm.hosts.comfy").layer_map(sd15)
    return {family: published_state(family, layer_map, SIZES, seed) for seed, family in enumerate(FACES + IMAGES)}


@pytest.fixture
def load(in_comfy, folder, states):
    """family → its ADAPTER, from a file in models/ipadapter with the name that it was published under."""
    import folder_paths

    def load(family: str, choice: str = "auto"):
        place = folder_paths.get_folder_paths("ipadapter")[0]
        save_file(flat(states[family]), f"{place}/ip-adapter-{family}_sd15.safetensors")
        return in_comfy.run("FaceCDMLoadAdapter", name=f"ipadapter/ip-adapter-{family}_sd15.safetensors",
                            family=choice)[0]

    return load


@pytest.fixture
def faces(make_faces):
    return make_faces(1, recogniser=ARCFACE)


@pytest.fixture
def apply(in_comfy, sd15, faces, vision, picture):
    """Apply FaceCDM with everything connected; `options` as a dict of Apply Options' inputs."""

    def apply(adapter, **changes):
        inputs = {"model": sd15, "adapter": adapter, "faces": faces, "face_strength": 1.0, "image_strength": 1.0,
                  "keep_prompt": 0.0, "start_at": 0.0, "end_at": 1.0, "references": "mean", "curve": "flat",
                  "clip_vision": vision, "image": picture()} | changes
        if isinstance(inputs.get("options"), dict):
            inputs["options"] = make_options(in_comfy, **inputs["options"])
        return in_comfy.run("FaceCDMApply", **inputs)[0]

    return apply


def make_options(in_comfy, **changes):
    rest = {widget.id: widget.default for widget in in_comfy.nodes["FaceCDMApplyOptions"].define_schema().inputs
            if widget.id != "negative_image"}
    return in_comfy.run("FaceCDMApplyOptions", **rest | changes)[0]


def person(in_comfy, model):
    return model.model_options["transformer_options"][in_comfy.module("facecdm.hosts.comfy_run").PEOPLE][-1]


# ---- loading ----


def test_their_folders_are_listed_beside_ours(in_comfy, load):
    load("faceid")
    node = in_comfy.nodes["FaceCDMLoadAdapter"]
    assert node.define_schema().inputs[0].options == ["ipadapter/ip-adapter-faceid_sd15.safetensors"]
    assert node.validate_inputs("ipadapter/ip-adapter-faceid_sd15.safetensors") is True
    assert "models/ipadapter" in node.validate_inputs("ipadapter/gone.bin")
    assert "leaves its folder" in node.validate_inputs("ipadapter/../../x.bin")
    assert "family must be auto or one of" in node.validate_inputs("a", "wavy")


def test_the_door_adds_folders_and_leaves_those_of_others(in_comfy):
    import folder_paths

    for key in ("ipadapter", "instantid", "pulid"):
        assert ".bin" in folder_paths.folder_names_and_paths[key][1]
    before = folder_paths.folder_names_and_paths
    theirs = (["/elsewhere/ipadapter"], {".bin"})
    folder_paths.folder_names_and_paths = copy.copy(before) | {"ipadapter": theirs}
    try:
        in_comfy.pack.__loader__.exec_module(in_comfy.pack)
        assert folder_paths.folder_names_and_paths["ipadapter"] is theirs and theirs[1] == {".bin"}
    finally:
        folder_paths.folder_names_and_paths = before


@pytest.mark.parametrize("family", FACES + IMAGES)
def test_every_family_acts_on_both_prompts(in_comfy, load, apply, sd15, noise, family):
    adapter = load(family, family if family in ("faceid-plus", "ip-adapter-plus") else "auto")
    assert next(iter(adapter.config.parts.values())).family.key == family
    model = apply(adapter, **{"options": {"lora_strength": 0.0}})
    for cfg in (1.0, 4.0):
        assert not noise(model, cfg=cfg).equal(noise(sd15, cfg=cfg))
    shown = person(in_comfy, model)
    negatives = replace(shown, negative={})
    alone = in_comfy.module("facecdm.hosts.comfy").apply_person(sd15, negatives)
    assert noise(model).equal(noise(alone)), "without a negative prompt there is no difference"
    assert not noise(model, cfg=4.0).equal(noise(alone, cfg=4.0)), "the negative prompt sees nobody, and hears of it"


# ---- what each family is shown ----


def test_an_aligned_face_is_cut_as_insightface_does(in_comfy, load, apply, vision, make_faces, found_in):
    from insightface.utils import face_align

    generator = torch.Generator().manual_seed(5)
    picture = torch.nn.functional.interpolate(torch.rand(1, 3, 30, 40, generator=generator), (300, 400),
                                              mode="bicubic").clamp(0, 1).movedim(1, -1)
    points = torch.tensor([[150.0, 110], [215, 118], [180, 160], [150, 190], [205, 196]])
    face = replace(make_faces(1, recogniser=ARCFACE)[0], keypoints=points, image_size=(300, 400))
    faces = found_in(in_comfy.module("facecdm.faces.value").Faces((face,), ARCFACE), picture)
    shown = person(in_comfy, apply(load("faceid-plusv2"), image=picture, faces=faces))
    pixels = (picture[0].numpy() * 255).round().astype("uint8")
    # The small base's text is not SD1.5's, so it counts as a larger one.
    crop = torch.from_numpy(face_align.norm_crop(pixels, points.numpy(), 256)).float()[None] / 255
    expected = vision.encode_image(crop).penultimate_hidden_states
    torch.testing.assert_close(shown.face.states, expected, rtol=0, atol=2e-2 * expected.abs().max().item())
    assert shown.face.embedding.norm().item() == pytest.approx(1.0)
    from_crop = person(in_comfy, apply(load("faceid-plusv2"), image=None, faces=faces)).face.states
    expected = vision.encode_image(faces[0].crop[None]).penultimate_hidden_states
    torch.testing.assert_close(from_crop, expected)


def test_frames_of_the_two_sizes_are_insightfaces(in_comfy):
    from insightface.utils import face_align

    align = in_comfy.module("facecdm.faces.align")
    points = torch.tensor([[150.0, 110], [215, 118], [180, 160], [150, 190], [205, 196]]).numpy()
    for size in (112, 224, 256):
        ours = align.similarity(points, align.upstream_template(size))
        assert abs(ours - face_align.estimate_norm(points, size)).max() < 1e-3


def test_no_picture_is_zeroed_normalised_pixels(in_comfy, load, apply, vision):
    nothing = person(in_comfy, apply(load("ip-adapter-plus"))).negative["image"].states
    with torch.no_grad():
        grey = vision.model(pixel_values=torch.zeros(1, 3, 32, 32), intermediate_output=-2)[1]
    assert nothing.equal(grey)
    black = vision.encode_image(torch.zeros(1, 32, 32, 3)).penultimate_hidden_states
    assert not torch.allclose(nothing, black), "a black picture is something else"
    assert not person(in_comfy, apply(load("ip-adapter"))).negative["image"].embedding.any()
    assert not person(in_comfy, apply(load("faceid"))).negative["face"].embedding.any()


def test_a_negative_picture_is_seen_by_the_negative_prompt_alone(in_comfy, load, apply, noise, picture, vision):
    adapter = load("ip-adapter-plus")
    plain, avoiding = apply(adapter), apply(adapter, options={"negative_image": picture(9)})
    assert noise(plain).equal(noise(avoiding)) and not noise(plain, cfg=4.0).equal(noise(avoiding, cfg=4.0))
    expected = vision.encode_image(picture(9)).penultimate_hidden_states
    assert person(in_comfy, avoiding).negative["image"].states.equal(expected)


def test_faceid_plus_looks_away_from_a_negative_picture(in_comfy, load, apply, noise, picture, vision):
    """As IPAdapter_plus has it: an empty face, with the look of that picture."""
    adapter = load("faceid-plusv2")
    plain, avoiding = apply(adapter), apply(adapter, options={"negative_image": picture(9)})
    assert noise(plain).equal(noise(avoiding)) and not noise(plain, cfg=4.0).equal(noise(avoiding, cfg=4.0))
    nobody = person(in_comfy, avoiding).negative["face"]
    assert nobody.states.equal(vision.encode_image(picture(9)).penultimate_hidden_states)
    assert not nobody.embedding.any()


def test_beside_an_image_stream_a_negative_picture_is_for_that_alone(in_comfy, load, apply, picture):
    both, _ = in_comfy.run("FaceCDMCombineAdapters", adapter=load("faceid-plusv2"), other=load("ip-adapter-plus"))
    plain, avoiding = (person(in_comfy, apply(both, options=options)).negative
                       for options in ({}, {"negative_image": picture(9)}))
    assert not plain["image"].states.equal(avoiding["image"].states)
    assert plain["face"].states.equal(avoiding["face"].states)
    without = person(in_comfy, apply(both, image=None, options={"negative_image": picture(9)})).negative
    assert without["face"].states.equal(avoiding["image"].states), "where no picture is shown, the face looks away"


def test_of_several_negative_pictures_the_mean(in_comfy, load, apply, picture, vision):
    two = picture(9, 2)
    seen = vision.encode_image(two).penultimate_hidden_states
    for kind, expected in (("mean", seen.mean(0, keepdim=True)), ("side by side", seen)):
        model = apply(load("ip-adapter-plus"), image=picture(1, 2), references=kind, options={"negative_image": two})
        torch.testing.assert_close(person(in_comfy, model).negative["image"].states, expected)


def test_noise_is_in_the_empty_face(in_comfy, load, apply, noise):
    for family in ("faceid", "faceid-plusv2"):
        adapter = load(family)
        plain, noisy = apply(adapter), apply(adapter, options={"noise": 0.4})
        assert noise(plain).equal(noise(noisy)) and not noise(plain, cfg=4.0).equal(noise(noisy, cfg=4.0))
        nobody = person(in_comfy, noisy).negative["face"].embedding
        assert 0.3 < nobody.max() <= 0.4 and nobody.min() >= 0


@pytest.mark.parametrize("family,options,told", [
    ("faceid", "negative_image", "FaceID shows the negative prompt an empty face.*Combine Adapters. Adapters that"),
    ("ip-adapter", "noise", "noise is 0.4.*IP-Adapter shows no face: set it to 0; for a picture.*FaceID and its kin"),
    ("native", "negative_image", "FaceCDM's own adapters show the negative prompt no picture: disconnect it"),
    ("native", "noise", "noise is 0.4.*FaceCDM's own adapters show the negative prompt nobody.*set it to 0")])
def test_what_nobody_would_hear_is_refused(errors, load, apply, adapter, make_faces, picture, family, options, told):
    given = {"negative_image": {"negative_image": picture(9)}, "noise": {"noise": 0.4}}[options]
    one, faces = (adapter, make_faces()) if family == "native" else (load(family), make_faces(1, recogniser=ARCFACE))
    apply(one, faces=faces)
    with pytest.raises(errors.Mismatch, match=told):
        apply(one, faces=faces, options=given)


def test_a_negative_picture_needs_one_to_stand_against(errors, in_comfy, load, apply, picture):
    both, _ = in_comfy.run("FaceCDMCombineAdapters", adapter=load("faceid"), other=load("ip-adapter-plus"))
    apply(both, options={"negative_image": picture(9)})
    with pytest.raises(errors.Mismatch, match="image stream .IP-Adapter Plus. shows no picture.*connect image, too"):
        apply(both, image=None, options={"negative_image": picture(9)})


def test_a_face_is_found_in_its_picture(in_comfy, load, apply, vision, picture, make_faces, found_in):
    """Plus-Face looks at a square around the face, where the picture is the one that the face was found in."""
    face = replace(make_faces(1)[0], box=torch.tensor([4.0, 6, 14, 16]), image_size=(40, 32),
                   keypoints=torch.tensor([[7.0, 10], [12, 10], [9, 12], [7, 14], [11, 14]]))
    faces = found_in(in_comfy.module("facecdm.faces.value").Faces((face,), ARCFACE), picture())
    adapter = load("ip-adapter-plus", "ip-adapter-plus-face")
    close = person(in_comfy, apply(adapter, faces=faces)).image.states
    square = picture()[:, 2:20, 0:18]
    expected = vision.encode_image(square).penultimate_hidden_states
    torch.testing.assert_close(close, expected, rtol=0, atol=0.1 * expected.abs().max().item())
    whole = person(in_comfy, apply(adapter, faces=None)).image.states
    assert whole.equal(vision.encode_image(picture()).penultimate_hidden_states)
    assert (close - expected).abs().max() < (whole - expected).abs().max()


# ---- several references ----


def test_mean_side_by_side_and_weights(in_comfy, load, apply, make_faces, noise):
    adapter, three = load("faceid"), make_faces(3, recogniser=ARCFACE)
    kinds = {kind: noise(apply(adapter, faces=three, references=kind)) for kind in ("mean", "side by side")}
    assert not kinds["mean"].equal(kinds["side by side"])
    weighed = {kind: apply(adapter, faces=three, references=kind, options={"reference_weights": "1, 0, 0"})
               for kind in kinds}
    first = in_comfy.module("facecdm.faces.value").Faces(three.faces[:1], ARCFACE)
    torch.testing.assert_close(noise(weighed["mean"]), noise(apply(adapter, faces=first)), rtol=0, atol=1e-4)
    assert not noise(weighed["side by side"]).equal(kinds["side by side"])
    even = apply(adapter, faces=three, references="side by side", options={"reference_weights": "1, 1, 1"})
    assert noise(even).equal(kinds["side by side"])


def test_weights_must_count_the_references(errors, load, apply, make_faces):
    for kind in ("mean", "side by side"):
        with pytest.raises(errors.FaceCDMError, match="reference_weights has 2 numbers for 3 references"):
            apply(load("faceid"), faces=make_faces(3, recogniser=ARCFACE), references=kind,
                  options={"reference_weights": "1, 2"})


def test_weights_may_sum_to_zero_where_nothing_is_divided(errors, load, apply, make_faces, noise):
    adapter, two = load("faceid"), make_faces(2, recogniser=ARCFACE)
    rest = {"lora_strength": 0.0}
    away = noise(apply(adapter, faces=two, references="side by side", options=rest | {"reference_weights": "1, -1"}))
    both = noise(apply(adapter, faces=two, references="side by side", options=rest))
    assert torch.isfinite(away).all() and not away.equal(both)
    for weights in ("1, -1", "0, 0", "0.3, -0.3"):
        with pytest.raises(errors.FaceCDMError, match="reference_weights sum to 0, and a mean .* 'side by side'"):
            apply(adapter, faces=two, options={"reference_weights": weights})


def test_one_reference_has_a_weight_too(errors, load, apply, noise):
    adapter, rest = load("faceid"), {"lora_strength": 0.0}
    half = apply(adapter, references="side by side", options=rest | {"reference_weights": "0.5"})
    torch.testing.assert_close(noise(half), noise(apply(adapter, face_strength=0.5, options=rest)))
    with pytest.raises(errors.FaceCDMError, match="has 2 numbers for 1 reference:"):
        apply(adapter, options={"reference_weights": "1, 2"})


def test_three_faces_and_one_picture_share_no_weights(in_comfy, load, apply, make_faces):
    both, _ = in_comfy.run("FaceCDMCombineAdapters", adapter=load("faceid"), other=load("ip-adapter-plus"))
    shown = person(in_comfy, apply(both, faces=make_faces(3, recogniser=ARCFACE), references="side by side",
                                   options={"reference_weights": "1, 2, 3"})).settings
    assert shown["face"].weights == (1, 2, 3) and not shown["image"].weights


def test_one_reference_for_each_picture_of_a_batch(in_comfy, load, apply, make_faces):
    """Frames of a video: each row of the batch, in both halves of CFG, is what it would be alone; the last stays."""
    adapter, two = load("faceid"), make_faces(2, recogniser=ARCFACE)
    value = in_comfy.module("facecdm.faces.value")
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(3, 4, 8, 8, generator=generator) * 2
    prompts = [conditioning(torch.randn(1, 77, 96, generator=generator)) for _ in range(2)]
    together = predict(apply(adapter, faces=two, references="one per picture"), x, 2.0, *prompts, cfg=3.0)
    for row, reference in enumerate((0, 1, 1)):
        alone = apply(adapter, faces=value.Faces((two[reference],), ARCFACE))
        torch.testing.assert_close(together[row:row + 1], predict(alone, x[row:row + 1], 2.0, *prompts, cfg=3.0),
                                   rtol=0, atol=1e-4)


def test_a_weight_for_each_frame(load, apply, faces):
    """One face that comes in over three frames."""
    adapter, none = load("faceid"), {"lora_strength": 0.0}
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(3, 4, 8, 8, generator=generator) * 2
    prompts = [conditioning(torch.randn(1, 77, 96, generator=generator)) for _ in range(2)]
    coming = apply(adapter, references="one per picture", options=none | {"reference_weights": "0, 0.5, 1"})
    together = predict(coming, x, 2.0, *prompts, cfg=3.0)
    for row, strength in enumerate((0.0, 0.5, 1.0)):
        alone = apply(adapter, face_strength=strength, options=none)
        torch.testing.assert_close(together[row:row + 1], predict(alone, x[row:row + 1], 2.0, *prompts, cfg=3.0),
                                   rtol=0, atol=1e-4)


@pytest.fixture
def frames(in_comfy, make_faces):
    """FACES with a face found in each of the pictures `numbers`, so wide as `widths` say."""
    value = in_comfy.module("facecdm.faces.value")

    def frames(numbers, widths=None):
        faces = make_faces(len(numbers), recogniser=ARCFACE)
        return value.Faces(tuple(
            replace(face, image_index=number, box=torch.tensor([0.0, 0, width, 9]))
            for face, number, width in zip(faces, numbers, widths or [9] * len(numbers))), ARCFACE)

    return frames


def test_each_frame_gets_a_face_of_its_own_picture(in_comfy, load, apply, frames):
    """Picture 1 shows two faces (choice "all"), picture 2 none."""
    given = frames((0, 1, 1, 3), widths=(9, 8, 5, 9))
    shown = person(in_comfy, apply(load("faceid"), faces=given, references="one per picture")).face.embedding
    torch.testing.assert_close(shown, given.normed[[0, 1, 1, 3]])


def test_frames_without_a_face_keep_the_one_before(in_comfy, make_faces, frames):
    one_a_picture = in_comfy.module("facecdm.adapter.references").one_a_picture
    assert [face.image_index for face in one_a_picture(frames((1, 2, 5)))] == [1, 1, 2, 2, 2, 5]
    for photos in (make_faces(3), frames((0, 1, 0, 1))):
        assert one_a_picture(photos) is photos, "photos of several nodes come in their order"


# ---- two files ----


def test_two_files_make_one_triplet(in_comfy, load, apply, sd15, noise):
    face, image = load("faceid-plusv2"), load("ip-adapter-plus")
    both, report = in_comfy.run("FaceCDMCombineAdapters", adapter=image, other=face)
    assert "FaceID PlusV2 for small SD1.5" in report and "IP-Adapter Plus for small SD1.5" in report
    one = apply(both)
    assert len(one.model_options["transformer_options"][in_comfy.module("facecdm.hosts.comfy_run").PEOPLE]) == 1
    two = apply(image, model=apply(face))
    torch.testing.assert_close(noise(one, cfg=4.0), noise(two, cfg=4.0), rtol=0, atol=1e-4)
    assert noise(apply(both, image=None)).equal(noise(apply(face, image=None))), "without a picture, the face alone"


def test_what_cannot_be_combined(errors, in_comfy, load, adapter):
    face, image = load("faceid"), load("ip-adapter")
    for one, other, told in ((face, face, "both adapters have a face stream .FaceID and FaceID.*one after the other"),
                             (image, image, "both adapters have an image stream"),
                             (face, adapter, "FaceCDM's own.*one after the other")):
        with pytest.raises(errors.Mismatch, match=told):
            in_comfy.run("FaceCDMCombineAdapters", adapter=one, other=other)


# ---- the LoRA inside ----


def test_the_lora_inside_has_a_strength_and_counts_once(in_comfy, load, apply, noise, make_faces):
    adapter = load("faceid")
    none, some, all_ = (apply(adapter, options={"lora_strength": strength}) for strength in (0.0, 0.6, 1.0))
    assert len({noise(model).sum().item() for model in (none, some, all_)}) == 3
    assert noise(apply(adapter)).equal(noise(some)), "0.6 without options"
    assert len(none.patches) == 0 and len(some.patches) == 32 * 4
    second = {"faces": make_faces(2, recogniser=ARCFACE)}
    chained, larger = apply(adapter, model=some, **second), apply(adapter, model=some, options={"lora_strength": 1.0})
    alone = apply(adapter, model=apply(adapter, options={"lora_strength": 0.0}, **second))
    torch.testing.assert_close(noise(chained), noise(alone), rtol=0, atol=1e-4)
    weight = "diffusion_model.middle_block.1.transformer_blocks.0.attn2.to_k.weight"
    assert sum(patch[0] for patch in larger.patches[weight]) == pytest.approx(1.0)
    assert not apply(adapter, face_strength=0.0).patches, "who is not shown needs no LoRA"


# ---- settings ----


def test_options_at_rest_change_nothing(load, apply, noise):
    adapter = load("ip-adapter-plus")
    assert noise(apply(adapter, options={}), cfg=4.0).equal(noise(apply(adapter), cfg=4.0))


def test_balance_moves_between_prompt_and_likeness(in_comfy, load, apply):
    setting = {balance: person(in_comfy, apply(load("faceid"), options={"balance": balance})).settings["face"]
               for balance in (-1.0, -0.5, 0.0, 0.5, 1.0)}
    strengths = [setting[balance].strength for balance in sorted(setting)]
    assert strengths == sorted(strengths) and strengths[2] == 1.0 and strengths[0] == 0.5 and strengths[-1] == 1.5
    assert [setting[balance].kappa for balance in sorted(setting)] == [0.5, 0.25, 0, 0, 0]


def test_strength_over_the_steps(load, apply, sd15, noise):
    adapter = load("faceid", "auto")
    rest = {"lora_strength": 0.0}
    fading, full = apply(adapter, options=rest | {"over_steps": "1, 0"}), apply(adapter, options=rest)
    half = apply(adapter, options=rest, face_strength=0.5)
    sampling = sd15.get_model_object("model_sampling")
    for percent, same in ((0.0, full), (0.5, half), (1.0, sd15)):
        sigma = float(sampling.percent_to_sigma(percent)) if 0 < percent < 1 else float(
            sampling.sigma_min if percent else sampling.sigma_max)
        torch.testing.assert_close(noise(fading, sigma), noise(same, sigma), rtol=0, atol=2e-3)
    assert noise(apply(adapter, options=rest | {"over_steps": "flat"})).equal(noise(full))


def test_a_curve_for_the_image_alone(in_comfy, load, apply):
    both, _ = in_comfy.run("FaceCDMCombineAdapters", adapter=load("faceid"), other=load("ip-adapter-plus"))
    settings = person(in_comfy, apply(both, curve="ease in", options={"image_curve": "custom",
                                                                      "image_custom_curve": "0.5"})).settings
    assert settings["face"].curve[0] == 0.0 and set(settings["image"].curve) == {0.5}


def test_cfg_rescale_is_cores(in_comfy, load, apply, noise):
    from comfy_extras.nodes_model_advanced import RescaleCFG

    adapter = load("ip-adapter-plus")
    core = RescaleCFG().patch(apply(adapter), 0.7)[0]
    ours = apply(adapter, options={"cfg_rescale": 0.7})
    torch.testing.assert_close(noise(ours, cfg=7.0), noise(core, cfg=7.0), rtol=0, atol=1e-3)
    assert not noise(ours, cfg=7.0).equal(noise(apply(adapter), cfg=7.0))


def test_cfg_is_rescaled_once_by_the_largest(load, apply, noise):
    adapter = load("ip-adapter-plus")

    def chain(*amounts):
        model = None
        for amount in amounts:
            more = {} if model is None else {"model": model}
            model = apply(adapter, options={"cfg_rescale": amount}, **more)
        return model

    once = noise(chain(0.0, 0.7), cfg=7.0)
    for amounts in ((0.7, 0.7), (0.7, 0.3), (0.3, 0.7)):
        model = chain(*amounts)
        torch.testing.assert_close(noise(model, cfg=7.0), once)
        assert len(model.model_options["sampler_post_cfg_function"]) == 1
    assert not noise(chain(0.0, 0.3), cfg=7.0).equal(once)
    first = chain(0.3)
    apply(adapter, model=first, options={"cfg_rescale": 0.7})
    assert first.model_options["sampler_post_cfg_function"][0].amount == 0.3, "the model that came in is unchanged"


def test_options_are_checked_before_anything_runs(in_comfy):
    check = in_comfy.nodes["FaceCDMApplyOptions"].validate_inputs
    assert check() is True and check(over_steps="0, 1", reference_weights="1; 2", image_curve="style") is True
    assert "over_steps 'x'" in check(over_steps="x")
    assert "reference_weights" in check(reference_weights="1, b")
    assert "got 'wavy'" in check(image_curve="wavy") and "got 'wavy'" in check(projection="wavy")
    assert "custom_curve" in check(image_curve="custom", image_custom_curve="3:a")


# ---- what is told ----


def test_what_is_not_connected(errors, load, apply):
    for family, without, told in (
            ("faceid", {"faces": None}, "connect faces"),
            ("faceid-plusv2", {"clip_vision": None}, "FaceID PlusV2 looks at the aligned face.*clip_vision is not"),
            ("ip-adapter-plus", {"image": None}, "IP-Adapter Plus looks at the whole image: connect a picture"),
            ("ip-adapter", {"clip_vision": None}, "clip_vision is not connected")):
        with pytest.raises(errors.FaceCDMError, match=told):
            apply(load(family), **without)


def test_the_wrong_encoder_is_named_with_the_right_file(errors, load, apply, make_vision, in_comfy, monkeypatch):
    families = in_comfy.module("facecdm.formats.families")
    small = families.Encoder("ViT-small", 32, 8, "small.safetensors")
    other = families.Encoder("ViT-other", 64, 8, "other.safetensors")
    for module in ("facecdm.formats.families", "facecdm.hosts.comfy_features"):
        monkeypatch.setattr(in_comfy.module(module), "ENCODERS", (small, other))
    for family in ("ip-adapter-plus", "faceid-plusv2"):
        with pytest.raises(errors.Mismatch, match=r"gives 64 features \(ViT-other\).*reads 32: load small.safetensors"):
            apply(load(family), clip_vision=make_vision(64))


def test_the_wrong_encoder_for_the_empty_picture(errors, load, apply, make_vision, vision, picture):
    """The picture was encoded by the right one; the negative prompt's is looked at by another."""
    encoded = vision.encode_image(picture())
    for family in ("ip-adapter-plus", "ip-adapter-full-face"):
        with pytest.raises(errors.Mismatch, match="the CLIP vision model gives 64 features.*reads 32"):
            apply(load(family), image=None, clip_vision_output=encoded, clip_vision=make_vision(64))


def test_the_wrong_recogniser_is_named_with_the_right_pack(errors, load, apply, make_faces):
    with pytest.raises(errors.Mismatch, match="FaceID was trained with.*w600k_r50.*from buffalo_s.*pack buffalo_l"):
        apply(load("faceid"), faces=make_faces())


def test_an_adapter_of_another_base(errors, load, apply, sdxl):
    with pytest.raises(errors.Mismatch, match="made for small SD1.5, and the MODEL is U-Net of 28"):
        apply(load("faceid"), model=sdxl)


def test_an_image_for_a_face_adapter(errors, load, apply, vision, picture):
    with pytest.raises(errors.Mismatch, match="no image stream: disconnect clip_vision_output.*Combine Adapters"):
        apply(load("faceid"), clip_vision_output=vision.encode_image(picture()))


def test_save_adapter_says_what_to_do_with_others(errors, in_comfy, load):
    with pytest.raises(errors.FaceCDMError, match="Export as IP-Adapter"):
        in_comfy.run("FaceCDMSaveAdapter", adapter=load("faceid"), name="x", overwrite=False)

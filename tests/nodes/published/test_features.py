"""The features that each family's recipe computes, for the prompt and for the negative prompt."""

from dataclasses import replace

import pytest
import torch
from published_nodes import ARCFACE, FACES, person


@pytest.mark.parametrize("family", FACES)
def test_the_embedding_is_raw_for_unnorm_alone(in_comfy, load, apply, make_faces, family):
    faces = make_faces(2, recogniser=ARCFACE)
    shown = person(in_comfy, apply(load(family), faces=faces, references="side by side")).face.embedding
    assert not torch.allclose(faces.raw, faces.normed)
    torch.testing.assert_close(shown, faces.raw if family == "faceid-portrait-unnorm" else faces.normed)


@pytest.mark.parametrize("text,size", [(768, 224), (2048, 256)])
def test_the_aligned_face_is_insightfaces(in_comfy, load, apply, vision, make_faces, found_in, text, size):
    """224 pixels for SD1.5, 256 for SDXL; the text width decides."""
    from insightface.utils import face_align

    generator = torch.Generator().manual_seed(5)
    picture = (
        torch.nn.functional.interpolate(torch.rand(1, 3, 30, 40, generator=generator), (300, 400), mode="bicubic")
        .clamp(0, 1)
        .movedim(1, -1)
    )
    points = torch.tensor([[150.0, 110], [215, 118], [180, 160], [150, 190], [205, 196]])
    face = replace(make_faces(1, recogniser=ARCFACE)[0], keypoints=points, image_size=(300, 400))
    faces = found_in(in_comfy.module("facecdm.faces.value").Faces((face,), ARCFACE), picture)
    adapter = load("faceid-plusv2")
    part = adapter.config.parts["face"]
    adapter.config.parts["face"] = replace(part, layer_map=replace(part.layer_map, context=text))
    shown = person(in_comfy, apply(adapter, image=picture, faces=faces))
    pixels = (picture[0].numpy() * 255).round().astype("uint8")
    crop = torch.from_numpy(face_align.norm_crop(pixels, points.numpy(), size)).float()[None] / 255
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
        ours = align.similarity(points, align.insightface_template(size))
        assert abs(ours - face_align.estimate_norm(points, size)).max() < 1e-3


def test_the_empty_picture_has_normalised_pixels_of_zero(in_comfy, load, apply, vision):
    empty = person(in_comfy, apply(load("ip-adapter-plus"))).negative["image"].states
    with torch.no_grad():
        grey = vision.model(pixel_values=torch.zeros(1, 3, 32, 32), intermediate_output=-2)[1]
    assert empty.equal(grey)
    black = vision.encode_image(torch.zeros(1, 32, 32, 3)).penultimate_hidden_states
    assert not torch.allclose(empty, black), "a black picture differs"
    assert not person(in_comfy, apply(load("ip-adapter"))).negative["image"].embedding.any()
    assert not person(in_comfy, apply(load("faceid"))).negative["face"].embedding.any()


@pytest.mark.parametrize("family", ["ip-adapter", "ip-adapter-plus", "ip-adapter-full-face"])
def test_a_negative_picture_acts_on_the_negative_prompt_only(in_comfy, load, apply, noise, picture, vision, family):
    adapter = load(family)
    plain, avoiding = apply(adapter), apply(adapter, options={"negative_image": picture(9)})
    assert noise(plain).equal(noise(avoiding)) and not noise(plain, cfg=4.0).equal(noise(avoiding, cfg=4.0))
    output, negative = vision.encode_image(picture(9)), person(in_comfy, avoiding).negative["image"]
    if family == "ip-adapter":
        assert negative.embedding.equal(output.image_embeds)
    else:
        assert negative.states.equal(output.penultimate_hidden_states)


def test_faceid_plus_uses_a_negative_picture(in_comfy, load, apply, noise, picture, vision):
    """As in IPAdapter_plus: a zero embedding, with the states of that picture."""
    adapter = load("faceid-plusv2")
    plain, avoiding = apply(adapter), apply(adapter, options={"negative_image": picture(9)})
    assert noise(plain).equal(noise(avoiding)) and not noise(plain, cfg=4.0).equal(noise(avoiding, cfg=4.0))
    negative = person(in_comfy, avoiding).negative["face"]
    assert negative.states.equal(vision.encode_image(picture(9)).penultimate_hidden_states)
    assert not negative.embedding.any()


def test_with_an_image_stream_a_negative_picture_is_for_that_stream(in_comfy, load, apply, picture):
    both, _ = in_comfy.run("FaceCDMCombineAdapters", adapter=load("faceid-plusv2"), other=load("ip-adapter-plus"))
    plain, avoiding = (
        person(in_comfy, apply(both, options=options)).negative for options in ({}, {"negative_image": picture(9)})
    )
    assert not plain["image"].states.equal(avoiding["image"].states)
    assert plain["face"].states.equal(avoiding["face"].states)
    without = person(in_comfy, apply(both, image=None, options={"negative_image": picture(9)})).negative
    assert without["face"].states.equal(avoiding["image"].states), "without a picture, for the face stream"


def test_several_negative_pictures(in_comfy, load, apply, picture, vision):
    two = picture(9, 2)
    output = vision.encode_image(two).penultimate_hidden_states
    for kind, expected in (("mean", output.mean(0, keepdim=True)), ("side by side", output)):
        model = apply(load("ip-adapter-plus"), image=picture(1, 2), references=kind, options={"negative_image": two})
        torch.testing.assert_close(person(in_comfy, model).negative["image"].states, expected)


def test_noise_is_added_to_the_empty_face(in_comfy, load, apply, noise):
    for family in ("faceid", "faceid-plusv2"):
        adapter = load(family)
        plain, noisy = apply(adapter), apply(adapter, options={"noise": 0.4})
        assert noise(plain).equal(noise(noisy)) and not noise(plain, cfg=4.0).equal(noise(noisy, cfg=4.0))
        negative = person(in_comfy, noisy).negative["face"].embedding
        assert 0.3 < negative.max() <= 0.4 and negative.min() >= 0


@pytest.mark.parametrize(
    "family,options,message",
    [
        (
            "faceid",
            "negative_image",
            "FaceID uses an empty face for the neg.*Combine FaceCDM Adapters. Adapters that",
        ),
        (
            "ip-adapter",
            "noise",
            "noise is 0.4.*IP-Adapter has no face stream: set it to 0; for a picture.*the FaceID families",
        ),
        ("native", "negative_image", "FaceCDM's own adapters use no picture for the negative prompt: disconnect it"),
        ("native", "noise", "noise is 0.4.*FaceCDM's own adapters use no face for the negative prompt.*set it to 0"),
    ],
)
def test_negative_inputs_without_a_use_are_refused(
    errors, load, apply, adapter, make_faces, picture, family, options, message
):
    given = {"negative_image": {"negative_image": picture(9)}, "noise": {"noise": 0.4}}[options]
    one, faces = (adapter, make_faces()) if family == "native" else (load(family), make_faces(1, recogniser=ARCFACE))
    apply(one, faces=faces)
    with pytest.raises(errors.Mismatch, match=message):
        apply(one, faces=faces, options=given)


def test_a_negative_picture_needs_a_positive_one(errors, in_comfy, load, apply, picture):
    both, _ = in_comfy.run("FaceCDMCombineAdapters", adapter=load("faceid"), other=load("ip-adapter-plus"))
    apply(both, options={"negative_image": picture(9)})
    with pytest.raises(errors.Mismatch, match="image stream .IP-Adapter Plus. has no image.*connect image as well"):
        apply(both, image=None, options={"negative_image": picture(9)})


def test_the_empty_picture_has_both_outputs_of_the_tower(in_comfy, vision):
    empty = in_comfy.module("facecdm.hosts.comfy.vision").ComfyVision(vision).encode_empty()
    assert empty.pooled.shape == (1, 8) and empty.states.shape == (1, 5, 32)


def test_plus_face_cuts_out_the_face(in_comfy, load, apply, vision, picture, make_faces, found_in):
    """Plus-Face encodes a square around the face if the picture is the one that the face was found in."""
    face = replace(
        make_faces(1)[0],
        box=torch.tensor([4.0, 6, 14, 16]),
        image_size=(40, 32),
        keypoints=torch.tensor([[7.0, 10], [12, 10], [9, 12], [7, 14], [11, 14]]),
    )
    faces = found_in(in_comfy.module("facecdm.faces.value").Faces((face,), ARCFACE), picture())
    adapter = load("ip-adapter-plus", "ip-adapter-plus-face")
    close = person(in_comfy, apply(adapter, faces=faces)).image.states
    square = picture()[:, 2:20, 0:18]
    expected = vision.encode_image(square).penultimate_hidden_states
    torch.testing.assert_close(close, expected, rtol=0, atol=0.1 * expected.abs().max().item())
    whole = person(in_comfy, apply(adapter, faces=None)).image.states
    assert whole.equal(vision.encode_image(picture()).penultimate_hidden_states)
    close_ups = in_comfy.module("facecdm.formats.crops").close_ups
    assert close_ups(faces, picture()).shape == (1, 448, 448, 3)
    assert (close - expected).abs().max() < (whole - expected).abs().max()


@pytest.mark.parametrize(
    "family,choice",
    [("faceid-plusv2", "auto"), ("ip-adapter-plus", "ip-adapter-plus-face"), ("ip-adapter-full-face", "auto")],
)
def test_each_photo_of_a_batch_gives_its_own_face(in_comfy, load, apply, picture, make_faces, found_in, family, choice):
    """After Combine Faces each face has picture index 0, and the batch has its own order."""
    faces_of, pictures = in_comfy.module("facecdm.faces.value").Faces, picture(1, 2)
    points = torch.tensor([[7.0, 10], [12, 10], [9, 12], [7, 14], [11, 14]])
    separate = [
        found_in(
            faces_of((replace(face, keypoints=points, box=torch.tensor([4.0, 6, 14, 16])),), ARCFACE),
            pictures[number : number + 1],
        )
        for number, face in enumerate(make_faces(2, recogniser=ARCFACE))
    ]
    together = faces_of((separate[0][0], separate[1][0]), ARCFACE)
    assert [face.image_index for face in together] == [0, 0]
    adapter = load(family, choice)

    def states(faces, image):
        shown = person(in_comfy, apply(adapter, faces=faces, image=image, references="side by side"))
        return (shown.face or shown.image).states

    single = torch.cat([states(faces, pictures[n : n + 1]) for n, faces in enumerate(separate)])
    assert not torch.allclose(single[0], single[1])
    for order in ([0, 1], [1, 0]):
        torch.testing.assert_close(states(together, pictures[order]), single)

"""Inputs without effect give one warning each, and the MODEL is made."""

from dataclasses import replace

import pytest
import torch
from published_nodes import ARCFACE, person


@pytest.fixture
def warnings(apply_output):
    """Apply's inputs → the warnings that the node shows."""
    return lambda adapter, **inputs: (apply_output(adapter, **inputs).ui or {}).get("facecdm_warnings", [])


@pytest.mark.parametrize("family", ["faceid", "faceid-portrait", "faceid-portrait-unnorm"])
def test_a_picture_that_no_stream_encodes(load, warnings, family):
    adapter = load(family)
    name = adapter.config.parts["face"].family.name
    assert warnings(adapter) == [
        f"image and clip_vision are connected and are not used: {name} encodes no picture. Disconnect them, "
        "or add an image stream with Combine FaceCDM Adapters."
    ]
    assert "clip_vision is connected and is not used" in warnings(adapter, image=None)[0]
    assert not warnings(adapter, image=None, clip_vision=None)


def test_a_picture_that_the_image_stream_encodes(in_comfy, load, warnings):
    both, _ = in_comfy.run("FaceCDMCombineAdapters", adapter=load("faceid"), other=load("ip-adapter"))
    assert not warnings(both) and not warnings(load("ip-adapter"), faces=None)


@pytest.mark.parametrize("family", ["ip-adapter", "ip-adapter-plus"])
def test_faces_that_no_stream_reads(load, warnings, family):
    (text,) = warnings(load(family))
    assert text.startswith("faces is connected and is not used: IP-Adapter") and "reads no faces" in text


def test_an_image_beside_clip_vision_output(load, warnings, vision, picture):
    adapter, encoded = load("ip-adapter"), vision.encode_image(picture())
    (text,) = warnings(adapter, faces=None, clip_vision_output=encoded)
    assert text.startswith("image is connected and is not used, because clip_vision_output takes its place")
    assert not warnings(adapter, faces=None, image=None, clip_vision_output=encoded)


def test_options_that_the_adapter_lacks(in_comfy, load, warnings):
    options = {"lora_strength": 0.8, "structure": 2.0, "image_curve": "weak input"}
    found = warnings(load("faceid-portrait"), image=None, clip_vision=None, options=options)
    assert [text.split(" is ")[0] for text in found] == list(options), found
    assert not warnings(load("faceid-portrait"), image=None, clip_vision=None, options={})
    plus = {"image": None, "options": {"structure": 2.0, "image_curve": "weak input"}}
    (text,) = warnings(load("faceid-plusv2"), **plus)
    assert text.startswith("image_curve is weak input")
    assert not warnings(load("ip-adapter"), faces=None, options={"image_curve": "weak input"})


def test_the_strength_of_a_stream_that_the_adapter_lacks(load, warnings):
    (text,) = warnings(load("ip-adapter-plus"), faces=None, face_strength=0.2)
    assert text.endswith("has no effect: this adapter has no face stream; its strength is image_strength")
    (text,) = warnings(load("faceid"), image=None, clip_vision=None, image_strength=0.2)
    assert text.startswith("image_strength is 0.2 and has no effect")
    assert not warnings(load("faceid"), image=None, clip_vision=None, face_strength=0.2)


def test_keep_prompt_without_a_projection(load, warnings):
    adapter = load("ip-adapter")
    (text,) = warnings(adapter, faces=None, keep_prompt=0.5, options={"projection": "none"})
    assert text.startswith("keep_prompt is 0.5 and has no effect: projection is none")
    assert not warnings(adapter, faces=None, options={"projection": "none"})


def test_the_warning_names_the_person(in_comfy, sd15, load, make_faces, picture):
    masks = in_comfy.run(
        "FaceCDMPersonRegions",
        width=64,
        height=32,
        boxes="0 0 0.5 1\n0.5 0 1 1",
        shape="box",
        grow=1.0,
        softness=0.1,
        fill="regions only",
    )[0]
    people = {f"faces_{n}": make_faces(n, recogniser=ARCFACE) for n in (1, 2)}
    shown = in_comfy.node_output(
        "FaceCDMApplyPeople",
        model=sd15,
        adapter=load("faceid"),
        masks=masks,
        face_strength=1.0,
        image_strength=1.0,
        keep_prompt=0.0,
        start_at=0.0,
        end_at=1.0,
        image_2=picture(),
        **people,
    )
    found = shown.ui["facecdm_warnings"]
    assert len(found) == 1 and found[0].startswith("person 2: image is connected and is not used: FaceID ")


@pytest.mark.parametrize(
    "family,choice,instead",
    [
        ("ip-adapter-plus", "ip-adapter-plus-face", "the whole image"),
        ("ip-adapter-full-face", "auto", "the whole image"),
        ("faceid-plus", "auto", "the crops of Detect & Embed Faces"),
        ("faceid-plusv2", "auto", "the crops of Detect & Embed Faces"),
    ],
)
def test_faces_that_are_not_in_the_picture(
    in_comfy, load, apply, warnings, make_faces, found_in, picture, vision, family, choice, instead
):
    face = replace(
        make_faces(1)[0],
        box=torch.tensor([4.0, 6, 14, 16]),
        image_size=(40, 32),
        keypoints=torch.tensor([[7.0, 10], [12, 10], [9, 12], [7, 14], [11, 14]]),
    )
    faces = found_in(in_comfy.module("facecdm.faces.value").Faces((face,), ARCFACE), picture())
    adapter = load(family, choice)
    part = next(iter(adapter.config.parts.values()))
    assert not warnings(adapter, faces=faces)
    found = warnings(adapter, faces=faces, image=picture(7))
    assert len(found) == 1 and found[0].startswith(
        f"not all of the 1 face(s) were found in image (1 picture(s) of 32 × 40), so {part.family.name} uses {instead}"
    ), found
    shown = person(in_comfy, apply(adapter, faces=faces, image=picture(7)))
    encoded = picture(7) if part.family.stream == "image" else faces[0].crop[None]
    assert (shown.face or shown.image).states.equal(vision.encode_image(encoded).penultimate_hidden_states)
    if part.family.stream == "image":
        assert not warnings(adapter, faces=None)
        assert not warnings(adapter, faces=faces, image=None, clip_vision_output=vision.encode_image(picture(7)))
    else:
        assert not warnings(adapter, faces=faces, image=None)

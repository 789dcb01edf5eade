"""Errors for inputs that are missing or do not fit."""

import pytest


def test_a_needed_input_is_not_connected(errors, load, apply):
    for family, without, message in (
        ("faceid", {"faces": None}, "connect faces"),
        ("faceid-plusv2", {"clip_vision": None}, "FaceID PlusV2 encodes the aligned face.*clip_vision is not"),
        ("ip-adapter-plus", {"image": None}, "IP-Adapter Plus needs the whole image: connect a picture"),
        ("ip-adapter", {"clip_vision": None}, "clip_vision is not connected"),
    ):
        with pytest.raises(errors.FaceCDMError, match=message):
            apply(load(family), **without)


def test_the_wrong_encoder_is_named_with_the_right_file(errors, load, apply, make_vision, in_comfy, monkeypatch):
    encoders = in_comfy.module("facecdm.formats.encoders")
    small = encoders.Encoder("ViT-small", 32, 8, "small.safetensors")
    other = encoders.Encoder("ViT-other", 64, 8, "other.safetensors")
    monkeypatch.setattr(encoders, "ENCODERS", (small, other))
    for family in ("ip-adapter-plus", "faceid-plusv2"):
        with pytest.raises(errors.Mismatch, match=r"gives 64 features \(ViT-other\).*reads 32: .*small.safetensors"):
            apply(load(family), clip_vision=make_vision(64))


def test_the_wrong_encoder_for_the_empty_picture(errors, load, apply, make_vision, vision, picture):
    """The picture was encoded by the right tower; the empty picture would be by another."""
    encoded = vision.encode_image(picture())
    for family in ("ip-adapter-plus", "ip-adapter-full-face"):
        with pytest.raises(errors.Mismatch, match="the CLIP vision model gives 64 features.*reads 32"):
            apply(load(family), image=None, clip_vision_output=encoded, clip_vision=make_vision(64))


def test_the_wrong_recogniser_is_named_with_the_right_pack(errors, load, apply, make_faces):
    with pytest.raises(errors.Mismatch, match="FaceID was trained with.*w600k_r50.*from buffalo_s.*pack buffalo_l"):
        apply(load("faceid"), faces=make_faces())


def test_an_adapter_for_another_base_model(errors, load, apply, sdxl):
    with pytest.raises(errors.Mismatch, match="made for small SD1.5, and the MODEL is U-Net of 28"):
        apply(load("faceid"), model=sdxl)


def test_an_image_for_a_face_adapter(errors, load, apply, vision, picture):
    with pytest.raises(errors.Mismatch, match="no image stream: disconnect clip_vision_output.*Combine FaceCDM"):
        apply(load("faceid"), clip_vision_output=vision.encode_image(picture()))


def test_save_adapter_refuses_published_adapters(errors, in_comfy, load):
    with pytest.raises(errors.FaceCDMError, match="Export FaceCDM as IP-Adapter"):
        in_comfy.run("FaceCDMSaveAdapter", adapter=load("faceid"), name="x", overwrite=False)

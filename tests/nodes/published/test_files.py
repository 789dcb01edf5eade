"""Published files: listed, loaded, two as one triplet, and the LoRA inside."""

import copy
from dataclasses import replace

import pytest
import torch
from published_nodes import ARCFACE, FACES, IMAGES, person


def test_published_folders_are_listed(in_comfy, load):
    load("faceid")
    node = in_comfy.nodes["FaceCDMLoadAdapter"]
    assert node.define_schema().inputs[0].options == ["ipadapter/ip-adapter-faceid_sd15.safetensors"]
    assert node.validate_inputs("ipadapter/ip-adapter-faceid_sd15.safetensors") is True
    assert "models/ipadapter" in node.validate_inputs("ipadapter/gone.bin")
    assert "leaves its folder" in node.validate_inputs("ipadapter/../../x.bin")
    with pytest.raises(in_comfy.module("facecdm.errors").FaceCDMError, match="family must be one of auto, .*'wavy'"):
        load("faceid", "wavy")


def test_the_pack_adds_folders_and_keeps_those_of_others(in_comfy):
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
    alone = in_comfy.module("facecdm.hosts.comfy.sampling.apply").apply_person(sd15, negatives)
    assert noise(model).equal(noise(alone)), "without a negative prompt there is no difference"
    assert not noise(model, cfg=4.0).equal(noise(alone, cfg=4.0)), "the negative prompt has its own tokens"


def test_two_files_make_one_triplet(in_comfy, load, apply, sd15, noise):
    face, image = load("faceid-plusv2"), load("ip-adapter-plus")
    both, report = in_comfy.run("FaceCDMCombineAdapters", adapter=image, other=face)
    assert "FaceID PlusV2 for small SD1.5" in report and "IP-Adapter Plus for small SD1.5" in report
    one = apply(both)
    assert (
        len(one.model_options["transformer_options"][in_comfy.module("facecdm.hosts.comfy.sampling.run").PEOPLE]) == 1
    )
    two = apply(image, model=apply(face))
    torch.testing.assert_close(noise(one, cfg=4.0), noise(two, cfg=4.0), rtol=0, atol=1e-4)
    assert noise(apply(both, image=None)).equal(noise(apply(face, image=None))), "without a picture, the face alone"


def test_what_cannot_be_combined(errors, in_comfy, load, adapter):
    face, image = load("faceid"), load("ip-adapter")
    for one, other, message in (
        (face, face, "both adapters have a face stream .FaceID and FaceID.*one after the other"),
        (image, image, "both adapters have an image stream"),
        (face, adapter, "FaceCDM's own.*one after the other"),
    ):
        with pytest.raises(errors.Mismatch, match=message):
            in_comfy.run("FaceCDMCombineAdapters", adapter=one, other=other)


def test_the_lora_inside_has_a_strength_and_is_applied_once(in_comfy, load, apply, noise, make_faces):
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
    assert not apply(adapter, face_strength=0.0).patches, "a face strength of 0 needs no LoRA"

"""Prepare FaceCDM Data Set in ComfyUI: the demo model's sockets, the real analyzer, a folder and a batch."""

import shutil

import pytest
import torch

from facecdm.bases.demo import DEMO


@pytest.fixture(scope="module")
def sockets(in_comfy):
    demo = in_comfy.module("facecdm.hosts.comfy.demo.model").load()
    analyzer = in_comfy.run("FaceCDMLoadFaceAnalyzer", pack="buffalo_s", provider="CPU", landmarks=True)[0]
    return {
        "model": demo.model,
        "clip": demo.clip,
        "vae": demo.vae,
        "analyzer": analyzer,
        "clip_vision": demo.clip_vision,
    }


@pytest.fixture(scope="module")
def prepared(in_comfy, sockets, faceworld_val):
    """The data set of a folder in ComfyUI's input folder, its report and its sheet."""
    family = in_comfy.base / "input" / "family"
    for person in ("0005", "0006"):
        shutil.copytree(faceworld_val / person, family / person)
    (family / "0005" / "00.txt").write_text("a person smiling")
    return in_comfy.run("FaceCDMPrepareDataSet", **sockets, **choices(name="my family", folder="family"))


def choices(**more) -> dict:
    return {
        "resolution": 0,
        "aspect": 1.0,
        "framing": "whole",
        "several_faces": "largest",
        "no_caption": "empty",
        "identities": "auto",
        "same_person": 0.4,
        "pose": "five points",
        "augmented": 2,
        "min_score": 0.5,
        "min_face": 0.05,
    } | more


def test_a_folder(in_comfy, sockets, prepared):
    data, report, sheet = prepared
    rows = data.load([0, 5])
    side, channels = DEMO.resolution, sockets["vae"].latent_channels
    assert rows.latents.shape == (2, channels, side // 8, side // 8) and rows.control.shape == (2, 3, side, side)
    assert rows.vision.shape == (2, 37, 192) and rows.identity.tolist() == [0, 1]
    assert not rows.latents.is_inference() and not data.empty_prompt.states.is_inference()
    assert [data.entries[n].caption for n in (0, 1)] == ["a person smiling", ""]
    assert "6 of 6 pictures kept, 2 people" in report and sheet.ndim == 4 and sheet.max() <= 1
    assert data.folder == in_comfy.base / "output" / "facecdm_data_sets" / "my family"


def test_a_batch_and_captions(in_comfy, sockets, astronaut):
    images = torch.cat([astronaut, astronaut.flip(2)])
    data, _, _ = in_comfy.run(
        "FaceCDMPrepareDataSet",
        **sockets,
        images=images,
        captions="an astronaut\nmirrored\n",
        **choices(name="batch", folder="(the images input)", identities="one person"),
    )
    assert [entry.caption for entry in data.entries] == ["an astronaut", "mirrored"] and data.references(0) == [1]


def test_inputs_that_a_folder_replaces_are_warned_of(in_comfy, sockets, astronaut, faceworld_val):
    shutil.copytree(faceworld_val / "0005", in_comfy.base / "input" / "alone")
    both = choices(name="alone", folder="alone") | {"images": astronaut, "captions": "an astronaut"}
    shown = in_comfy.node_output("FaceCDMPrepareDataSet", **sockets, **both).ui
    assert shown["facecdm_warnings"] == [
        "images and captions have no effect: the pictures are those of the folder alone. Choose (the images input) as "
        "folder to use them."
    ]
    assert shown["images"], "the contact sheet"


def test_without_pictures(in_comfy, sockets):
    with pytest.raises(in_comfy.module("facecdm.errors").FaceCDMError, match="choose a folder .* or connect images"):
        in_comfy.run("FaceCDMPrepareDataSet", **sockets, **choices(name="none", folder="(the images input)"))


@pytest.mark.parametrize(
    "folder,message",
    [
        ("../output", "would not lie in input"),
        ("/etc", "would not lie in"),
        ("nowhere", "there is no folder nowhere"),
    ],
)
def test_a_wrong_folder_is_refused_before_anything_runs(in_comfy, folder, message):
    assert message in in_comfy.nodes["FaceCDMPrepareDataSet"].validate_inputs(folder)


def test_a_data_set_stays_in_its_folder(in_comfy, sockets):
    with pytest.raises(in_comfy.module("facecdm.errors").UnsafeName, match="cannot be the name"):
        in_comfy.run("FaceCDMPrepareDataSet", **sockets, **choices(name="../x", folder="(the images input)"))


def test_a_changed_file_makes_it_run_again(in_comfy, prepared):
    node = in_comfy.nodes["FaceCDMPrepareDataSet"]
    before = node.fingerprint_inputs(folder="family", name="x")
    assert before == node.fingerprint_inputs(folder="family")
    (in_comfy.base / "input" / "family" / "0006" / "00.txt").write_text("words")
    assert before != node.fingerprint_inputs(folder="family")


def test_folders_are_offered(in_comfy, prepared):
    inputs = in_comfy.nodes["FaceCDMPrepareDataSet"].define_schema().inputs
    assert {"family", "family/0005"} < set(next(one for one in inputs if one.id == "folder").options)

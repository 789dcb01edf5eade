"""The options of `python -m facecdm dataset`, and the encoders and face finder that it opens."""

import argparse

import pytest

from facecdm import comfyui_folders
from facecdm.commands import dataset
from facecdm.errors import FaceCDMError, MissingModel
from facecdm.training.dataset.faceworld import FaceWorldSource
from facecdm.training.dataset.settings import Settings


@pytest.fixture
def parse():
    parser = argparse.ArgumentParser()
    dataset.add_arguments(parser)
    return lambda *arguments: parser.parse_args([*map(str, arguments), "pictures", "out"])


def test_comfyui_is_needed_only_for_what_is_not_given(parse, comfyui, face_models, monkeypatch, tmp_path):
    for name in ("FACECDM_COMFYUI", "FACECDM_BASE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(comfyui_folders, "REPOSITORY", tmp_path / "a" / "b")
    monkeypatch.setattr(comfyui_folders, "QUICKSTART", tmp_path)
    monkeypatch.chdir(tmp_path)
    packs = ("--faces", face_models / "models" / "insightface", "--pack", "buffalo_s")
    tokenizer = ("--tokenizer", comfyui / "comfy" / "sd1_tokenizer")
    given = parse(*packs, *tokenizer)
    assert dataset._encoders(given) and dataset._finder(given, Settings())
    with pytest.raises(MissingModel, match="CLIP's tokenizer.*--tokenizer"):
        dataset._encoders(parse(*packs))
    with pytest.raises(MissingModel, match="InsightFace's packs.*--faces"):
        dataset._finder(parse(*tokenizer), Settings())


def test_tokenizer_and_packs_are_those_of_comfyui(parse, comfyui, face_models, monkeypatch):
    monkeypatch.setenv("FACECDM_COMFYUI", str(comfyui))
    monkeypatch.setenv("FACECDM_BASE", str(face_models))
    assert dataset._encoders(parse()) and dataset._finder(parse("--pack", "buffalo_s"), Settings())


def test_a_device_that_is_none_is_refused(parse):
    with pytest.raises(FaceCDMError, match="device 'gpu' is not one that torch knows"):
        dataset._encoders(parse("--device", "gpu"))
    with pytest.raises(FaceCDMError, match="device 'cuda:99' cannot be used here"):
        dataset._encoders(parse("--device", "cuda:99"))


def test_a_folder_without_faceworld_is_named(tmp_path):
    """The message is for `dataset --splits` and for `demo --data`."""
    with pytest.raises(MissingModel, match=r"\(train.jsonl is missing\): name the folder that has it$"):
        FaceWorldSource(tmp_path, ("train",)).items()


def test_overwrite_is_off_by_default(parse):
    assert parse("--overwrite").overwrite and not parse().overwrite

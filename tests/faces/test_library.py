import json
import os
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from facecdm.errors import BadFile, FaceCDMError, MissingModel, NoFace, UnsafeName
from facecdm.faces import Faces
from facecdm.faces.library import find_faces_file, load_faces, safe_name, save_faces


@given(
    count=st.integers(1, 5),
    seed=st.integers(0, 99),
    dim=st.sampled_from([1, 128, 512]),
    name=st.text(max_size=20),
)
def test_round_trip(make_faces, tmp_path_factory, count, seed, dim, name):
    faces = make_faces(count, seed, dim).named(name)
    back = load_faces(save_faces(faces, tmp_path_factory.mktemp("faces"), "a"))
    assert back.recogniser == faces.recogniser and len(back) == count
    for old, new in zip(faces, back, strict=True):
        for key in ("embedding", "keypoints", "box", "crop"):
            assert getattr(new, key).equal(getattr(old, key)), key
        assert (new.landmarks is None) == (old.landmarks is None)
        assert (new.name, new.score, new.image_size, new.image_index) == (
            old.name, old.score, old.image_size, old.image_index)  # fmt: skip


@given(st.text(max_size=60))
def test_no_name_leaves_the_folder(make_faces, tmp_path_factory, name):
    home = tmp_path_factory.mktemp("home")
    folder = home / "faces"
    try:
        path = save_faces(make_faces(), folder, name)
    except UnsafeName:
        assert not folder.exists()
        return
    assert path.parent == folder and path.is_file()
    assert [entry.name for entry in home.iterdir()] == ["faces"]
    assert [entry.name for entry in folder.iterdir()] == [path.name]


@pytest.mark.parametrize(
    "name",
    ["", " ", ".", "..", "../x", "a/b", "a\\b", "/etc/passwd", "C:x", "C:\\x", "con", "NUL.safetensors",
     "com1.x", ".hidden", "a.", "a\0b", "a\nb", "x" * 101, "~root", "a:b", "é" * 101, "字" * 90],
)  # fmt: skip
def test_names_that_are_refused(name):
    with pytest.raises(UnsafeName, match="cannot be the name"):
        safe_name(name)


@pytest.mark.parametrize(
    "name", ["Ada", "Ada Lovelace (1843), v1.2", "josé_2", "名前", "a.safetensors", "console"]
)
def test_names_that_are_fine(name):
    assert safe_name(name) == name.removesuffix(".safetensors")


def test_nothing_is_overwritten_unasked(make_faces, tmp_path: Path):
    paths = [save_faces(make_faces(seed=i), tmp_path, "Ada") for i in range(3)]
    assert [path.name for path in paths] == ["Ada.safetensors", "Ada_2.safetensors", "Ada_3.safetensors"]
    assert [load_faces(path)[0].name for path in paths] == ["person 0.0", "person 1.0", "person 2.0"]
    assert save_faces(make_faces(seed=7), tmp_path, "Ada", overwrite=True) == paths[0]
    assert load_faces(paths[0])[0].name == "person 7.0" and len(list(tmp_path.iterdir())) == 3


@pytest.mark.parametrize("overwrite", [True, False])
def test_a_write_that_fails_leaves_everything_as_it_was(make_faces, tmp_path: Path, monkeypatch, overwrite):
    path = save_faces(make_faces(seed=1), tmp_path, "Ada")
    before = path.read_bytes()

    def full(*_):
        raise OSError("No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(FaceCDMError, match="No space left"):
        save_faces(make_faces(seed=2), tmp_path, "Ada", overwrite)
    assert [entry.name for entry in tmp_path.iterdir()] == ["Ada.safetensors"] and path.read_bytes() == before


def test_empty_faces_are_not_saved(tmp_path: Path):
    with pytest.raises(NoFace, match="Save Faces"):
        save_faces(Faces((), "p/r.onnx"), tmp_path / "new", "Ada")
    assert not (tmp_path / "new").exists()


def test_metadata_can_be_read_by_any_tool(make_faces, tmp_path: Path):
    with safe_open(save_faces(make_faces(2), tmp_path, "Ada"), "pt") as file:
        metadata = file.metadata()
    assert metadata["format"] == "facecdm.faces" and metadata["recogniser"] == "pack/r.onnx"
    assert json.loads(metadata["names"]) == ["person 0.0", "person 0.1"]


def test_a_truncated_file_is_a_bad_file_at_every_length(make_faces, tmp_path: Path):
    path = save_faces(make_faces(2), tmp_path, "Ada")
    data = path.read_bytes()
    for length in [*range(0, 64), *range(64, len(data), 97), len(data) - 1]:
        path.write_bytes(data[:length])
        with pytest.raises(BadFile, match="Ada.safetensors"):
            load_faces(path)


def spoil(path: Path, change, **metadata) -> None:
    with safe_open(path, "pt") as file:
        header = file.metadata()
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path, {**header, **metadata})


@pytest.mark.parametrize(
    "change",
    [
        lambda t: t["embeddings"].fill_(float("nan")),
        lambda t: t["embeddings"].zero_(),
        lambda t: t["keypoints"][0, 0].fill_(float("inf")),
        lambda t: t.pop("crop.1"),
        lambda t: t.pop("boxes"),
        lambda t: t.update(scores=torch.ones(1)),
        lambda t: t.update(embeddings=torch.zeros(0, 16)),
        lambda t: t.update(embeddings=torch.ones(2, 16, dtype=torch.float16)),
        lambda t: t.update(image_sizes=torch.ones(2)),
    ],
    ids=["nan", "zero", "inf", "no crop", "no boxes", "few scores", "no face", "half", "flat sizes"],
)
def test_spoilt_content_is_a_bad_file(make_faces, tmp_path: Path, change):
    path = save_faces(make_faces(2), tmp_path, "Ada")
    spoil(path, change)
    with pytest.raises(BadFile, match="Ada.safetensors"):
        load_faces(path)


def test_foreign_and_newer_files(make_faces, tmp_path: Path):
    save_file({"w": torch.ones(2)}, tmp_path / "lora.safetensors")
    with pytest.raises(BadFile, match="no face file"):
        load_faces(tmp_path / "lora.safetensors")
    path = save_faces(make_faces(), tmp_path, "Ada")
    spoil(path, lambda tensors: None, version="2")
    with pytest.raises(BadFile, match="Update FaceCDM"):
        load_faces(path)
    with pytest.raises(BadFile):
        spoil(path, lambda tensors: None, version="1", names="[")
        load_faces(path)
    with pytest.raises(MissingModel, match="Save Faces"):
        load_faces(tmp_path / "nobody.safetensors")


def test_finding_a_file_of_the_list(make_faces, tmp_path: Path):
    first, second = tmp_path / "a", tmp_path / "b"
    save_faces(make_faces(), first, "Ada")
    save_faces(make_faces(), second, "Ada")
    save_faces(make_faces(), second / "friends", "Bob")
    (tmp_path / "secret.safetensors").write_bytes(b"")
    folders = [first, second]
    assert find_faces_file(folders, "Ada.safetensors") == first / "Ada.safetensors"
    assert find_faces_file(folders, "friends\\Bob.safetensors") == second / "friends" / "Bob.safetensors"
    with pytest.raises(MissingModel, match="Eve"):
        find_faces_file(folders, "Eve")
    for name in (
        "../secret.safetensors",
        "friends/../../secret.safetensors",
        str(tmp_path / "secret"),
        "C:x",
        "a\0b",
    ):
        with pytest.raises(UnsafeName):
            find_faces_file(folders, name)

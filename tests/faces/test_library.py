import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from facecdm.errors import BadFile, MissingModel, NoFace
from facecdm.faces import Faces, library
from facecdm.faces.library import find_faces_file, load_faces, save_faces


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


def test_the_pictures_are_kept_and_those_of_older_files_concluded(make_faces, tmp_path: Path, monkeypatch):
    """Rising indices in a file without their number are taken for a video's."""
    faces = replace(make_faces(3), pictures=7)
    assert load_faces(save_faces(faces, tmp_path, "new")).pictures == 7
    new = library._metadata
    monkeypatch.setattr(library, "_metadata", lambda faces: {k: v for k, v in new(faces).items() if k != "pictures"})
    assert load_faces(save_faces(faces, tmp_path, "old")).pictures == 3
    assert load_faces(save_faces(make_faces(1), tmp_path, "one")).pictures == 0


def test_a_new_file_does_not_replace_an_old_one(make_faces, tmp_path: Path):
    old, new = (save_faces(make_faces(seed=i), tmp_path, "Ada") for i in range(2))
    assert load_faces(old)[0].name == "person 0.0" and load_faces(new)[0].name == "person 1.0"
    assert save_faces(make_faces(seed=7), tmp_path, "Ada", overwrite=True) == old
    assert load_faces(old)[0].name == "person 7.0"


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
def test_damaged_content_is_a_bad_file(make_faces, tmp_path: Path, change):
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


def test_the_error_for_a_missing_file_says_how_to_make_one(make_faces, tmp_path: Path):
    path = save_faces(make_faces(), tmp_path, "Ada")
    assert find_faces_file([tmp_path], "Ada.safetensors") == path
    with pytest.raises(MissingModel, match="Eve.*Save Faces"):
        find_faces_file([tmp_path], "Eve")

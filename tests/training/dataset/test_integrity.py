"""Damaged data sets are named and not trained on; data sets from before checksums still load."""

import json

import numpy as np
import pytest
import torch
from datasets import SETTINGS, StubEncoders, StubFinder, colourful, save
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from facecdm.errors import BadFile, FaceCDMError
from facecdm.training.dataset.data_set import DataSet
from facecdm.training.dataset.pipeline import prepare
from facecdm.training.dataset.shard import Shard, _index_sum
from facecdm.training.dataset.sources import FolderSource
from facecdm.training.dataset.store import Store, digest, digest_with_list

STAGES = ("faces", "latents", "text", "vision", "augmented")


@pytest.fixture
def folder(tmp_path):
    """Three people with two, two and one pictures, and a black picture without a face."""
    for number, person in enumerate(["anna", "anna", "ben", "ben", "cleo"]):
        save(tmp_path / "in" / person / f"{number}.png", colourful(number), f"caption {number}")
    save(tmp_path / "in" / "black.png", np.zeros((64, 64, 3), np.uint8))
    prepare(FolderSource(tmp_path / "in"), tmp_path / "out", StubEncoders(), StubFinder(), SETTINGS)
    return tmp_path / "out"


def shard_of(folder, stage):
    (path,) = (folder / stage).glob("*.safetensors")
    return path


def everything(data: DataSet) -> list[torch.Tensor]:
    rows, varied = data.load(range(len(data))), data.features([4] * 3, [0.0, 0.5, 1.0])
    references = [torch.tensor(data.references(index)) for index in range(len(data))]
    prompts = [rows.prompt.states, data.empty_prompt.states]
    return [rows.latents, *prompts, rows.face, rows.vision, rows.box, rows.keypoints, *varied, *references]


def read_all(path) -> None:
    for name in load_file(path):
        Store(path.parent).rows(keys_of(path), name)


def keys_of(path) -> list[str]:
    return Shard(path).keys


def flip(path, position):
    content = bytearray(path.read_bytes())
    content[position] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("stage", STAGES)
def test_a_flipped_bit_in_any_tensor_is_named(folder, stage):
    path = shard_of(folder, stage)
    start = path.stat().st_size - sum(value.nbytes for value in load_file(path).values())
    for position in np.linspace(start, path.stat().st_size - 1, 12).astype(int):
        flip(path, position)
        with pytest.raises(BadFile, match=f"{path.name} is damaged .*checksum.* prepare the data set again"):
            read_all(path)
        flip(path, position)
    read_all(path)


@pytest.mark.parametrize("stage", STAGES)
def test_a_flipped_bit_in_any_header_changes_no_number(folder, stage):
    path, before = shard_of(folder, stage), everything(DataSet(folder))
    start = path.stat().st_size - sum(value.nbytes for value in load_file(path).values())
    refused = 0
    for position in range(0, start, max(start // 120, 1)):
        flip(path, position)
        try:
            after = everything(DataSet(folder))
        except FaceCDMError:
            refused += 1
        else:
            assert all(torch.equal(a, b) for a, b in zip(before, after)), position
        flip(path, position)
    assert refused > 80


@pytest.mark.parametrize(
    "old, new",
    [(b"[5,3,8,8]", b"[5,3,9,8]"), (b'"F16"', b'"F32"'), (b'"F16"', b'"X16"'), (b"[0,1920]", b"[9,1920]")],
)
def test_a_header_that_claims_other_sizes_is_refused(folder, old, new):
    path = shard_of(folder, "latents")
    content = path.read_bytes()
    assert old in content
    path.write_bytes(content.replace(old, new, 1))
    with pytest.raises(BadFile, match="lacks a record of .*prepare the data set again"):
        DataSet(folder)


@pytest.mark.parametrize("stage", ["faces", "latents", "vision"])
def test_swapped_rows_are_named(folder, stage):
    path = shard_of(folder, stage)
    with safe_open(path, "pt") as file:
        metadata = file.metadata()
    save_file({name: value.flip(0).contiguous() for name, value in load_file(path).items()}, path, metadata)
    with pytest.raises(BadFile, match="checksum"):
        everything(DataSet(folder))


def test_a_changed_note_is_named(folder):
    """The notes of faces hold scores and sizes."""
    path = shard_of(folder, "faces")
    content = path.read_bytes()
    changed = content.replace(b"0.9", b"0.8", 1)
    assert changed != content
    path.write_bytes(changed)
    with pytest.raises(BadFile, match="lacks a record of .*prepare the data set again"):
        DataSet(folder)


def test_rows_under_other_keys_are_named(folder):
    """Also where the index is whole: a row's checksum covers its key."""
    path = shard_of(folder, "latents")
    with safe_open(path, "pt") as file:
        metadata = dict(file.metadata())
    metadata["keys"] = json.dumps(json.loads(metadata["keys"])[::-1])
    del metadata["index"]
    save_file(load_file(path), path, metadata | {"index": _index_sum(metadata)})
    with pytest.raises(BadFile, match="row 0 belongs to another record"):
        everything(DataSet(folder))
    with pytest.raises(BadFile, match="row 0 of latents does not match its checksum"):
        read_all(path)


def test_a_shard_that_is_cut_while_it_is_open_is_named(folder):
    data = DataSet(folder)
    everything(data)
    path = shard_of(folder, "latents")
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size - 100)
    with pytest.raises(BadFile, match=f"{path.name} is damaged .it was cut short"):
        everything(data)


def test_a_damaged_shard_is_named_and_then_made_again(folder):
    path, before = shard_of(folder, "vision"), everything(DataSet(folder))
    flip(path, path.stat().st_size - 1)
    path.unlink()  # as the message asks
    source = FolderSource(folder.parent / "in")
    data = prepare(source, folder, StubEncoders(), StubFinder(), SETTINGS)
    assert all(torch.equal(a, b) for a, b in zip(before, everything(data)))


@pytest.mark.parametrize(
    "file, place",
    [
        ("manifest.json", '"resolution":64'),
        ("manifest.json", '"pictures":5'),
        ("pictures.jsonl", "caption 3"),
        ("pictures.jsonl", "0.25"),
        ("pictures.jsonl", '"identity":1'),
    ],
)
def test_a_changed_manifest_is_named(folder, file, place):
    path = folder / file
    text = path.read_text()
    assert place in text
    path.write_text(text.replace(place, place[:-1] + "9", 1))
    with pytest.raises(BadFile, match="checksum does not match.*prepare the data set again"):
        DataSet(folder)


def test_a_cut_list_of_pictures_is_named(folder):
    path = folder / "pictures.jsonl"
    path.write_bytes(b"".join(path.read_bytes().splitlines(True)[:-1]))
    with pytest.raises(BadFile, match="pictures.jsonl: its checksum does not match.*prepare the data set again"):
        DataSet(folder)
    path.unlink()
    with pytest.raises(BadFile, match="pictures.jsonl is missing.*prepare the data set again"):
        DataSet(folder)


def test_a_hash_over_a_list_needs_no_list_in_memory():
    for values in ([], ["a"], ["ü", {"b": [1, None]}, []]):
        parts = "first", {"settings": {"none": []}, "entries": values}
        assert digest_with_list(iter(values), "first", parts[1] | {"entries": []}) == digest(*parts)


def test_the_fingerprint_covers_the_bytes(folder):
    first = DataSet(folder).fingerprint
    store = Store(folder / "latents")
    keys = keys_of(shard_of(folder, "latents"))
    values = torch.stack(store.rows(keys, "latents"))
    store.add(keys, {"latents": values})
    assert DataSet(folder).fingerprint == first
    values[2, 0, 0, 0] += 1
    store.add(keys, {"latents": values})
    assert DataSet(folder).fingerprint != first


def as_before(folder):
    """Rewrite the data set's list of pictures as earlier versions did: all in manifest.json, without locations."""
    manifest, pictures = folder / "manifest.json", folder / "pictures.jsonl"
    plain = json.loads(manifest.read_text())
    for name in ("checksum", "pictures", "pictures_checksum", "empty_at"):
        del plain[name]
    plain |= {"format": "facecdm.dataset/1", "entries": [json.loads(line) for line in pictures.open()]}
    for entry in plain["entries"]:
        del entry["at"]
    without = {name: value for name, value in plain.items() if name != "format"}
    manifest.write_text(json.dumps(plain | {"checksum": digest(without)}))
    pictures.unlink()


def test_a_data_set_with_all_pictures_in_its_manifest_loads_with_its_fingerprint(folder):
    new = DataSet(folder)
    as_before(folder)
    old = DataSet(folder)
    assert all(torch.equal(a, b) for a, b in zip(everything(new), everything(old)))
    assert old.fingerprint == new.fingerprint and old.people == new.people and old.buckets == new.buckets
    shard_of(folder, "vision").unlink()
    with pytest.raises(BadFile, match="vision lacks a record of anna/0.png: prepare the data set again"):
        DataSet(folder)
    manifest = json.loads((folder / "manifest.json").read_text())
    del manifest["checksum"]
    (folder / "manifest.json").write_text(json.dumps(manifest | {"entries": [], "empty": "another key"}))
    with pytest.raises(BadFile, match="text lacks a record of the empty prompt: prepare the data set again"):
        DataSet(folder)
    source = FolderSource(folder.parent / "in")
    made = prepare(source, folder, StubEncoders(), StubFinder(), SETTINGS)
    assert made.fingerprint == new.fingerprint and (folder / "pictures.jsonl").is_file()


def test_a_data_set_from_before_checksums_loads_with_its_old_fingerprint(folder):
    new = DataSet(folder)
    before = everything(new)
    for path in folder.rglob("*.safetensors"):
        with safe_open(path, "pt") as file:
            metadata = {name: value for name, value in file.metadata().items() if name in ("format", "keys", "notes")}
        save_file(load_file(path), path, metadata)
    as_before(folder)
    manifest = json.loads((folder / "manifest.json").read_text())
    del manifest["checksum"]
    (folder / "manifest.json").write_text(json.dumps(manifest))
    old = DataSet(folder)
    assert all(torch.equal(a, b) for a, b in zip(before, everything(old)))
    assert old.fingerprint == old.manifest.fingerprint == new.manifest.fingerprint != new.fingerprint

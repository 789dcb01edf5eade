"""Bad names and captions are rejected with a reason before anything is encoded; nothing is replaced unasked."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from datasets import SETTINGS, StubEncoders, StubFinder, colourful, files_of, save
from full_disk import every_write
from PIL import Image

from facecdm.errors import BadFile, FaceCDMError
from facecdm.training.dataset.pipeline import prepare
from facecdm.training.dataset.sources import BatchSource, FolderSource


def make(tmp_path, **options):
    return prepare(FolderSource(tmp_path / "in"), tmp_path / "out", StubEncoders(), StubFinder(), SETTINGS, **options)


def reasons(tmp_path) -> dict[str, str]:
    report = json.loads((tmp_path / "out" / "report.json").read_text(encoding="utf-8"))
    return {drop["name"]: drop["reason"] for drop in report["dropped"]}


@pytest.fixture
def one(tmp_path):
    save(tmp_path / "in" / "one.png", colourful(0), "a caption")
    return tmp_path


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such names")
def test_names_that_no_text_file_can_hold_are_rejected(one):
    for number, name in enumerate([b"caf\xe9.png", b"two\nlines.png", b"\x1b[31mred.png", b"ann\xe9e/3.png"]):
        path = Path(os.fsdecode(os.fsencode(one / "in") + b"/" + name))
        save(path, colourful(number + 1), "a caption")
    save(one / "in" / "Ben's photo\u202f9.41\u00a0AM é 写真.png", colourful(9), "kept")
    assert len(make(one)) == 2
    assert reasons(one) == {
        r"caf\xe9.png": "its name is not UTF-8",
        r"two\nlines.png": "its name holds a line break or another control character",
        r"\x1b[31mred.png": "its name holds a line break or another control character",
        r"ann\xe9e/3.png": "its name is not UTF-8",
    }


def test_captions_that_cannot_be_encoded_are_rejected(one):
    for number, content in enumerate([b"na\xefve", b"x" * 1_000_000, b"word " * 2100, b"fine"]):
        save(one / "in" / f"{number}.png", colourful(number + 1)).with_suffix(".txt").write_bytes(content)
    lines = [
        {"file_name": "4.png", "text": "\ud800"},
        {"file_name": "5.png", "text": "fine", "identity": "two\nlines"},
        {"file_name": "6.png", "text": "fine\u2028still fine"},
    ]
    for line in lines:
        save(one / "in" / line["file_name"], colourful(int(line["file_name"][0]) + 1))
    (one / "in" / "meta.jsonl").write_text("\n".join(map(json.dumps, lines)))
    assert len(make(one)) == 3
    assert reasons(one) == {
        "0.png": "its caption 0.txt is not UTF-8",
        "1.png": "its caption is longer than 10,000 characters",
        "2.png": "its caption is longer than 10,000 characters",
        "4.png": "its caption is not UTF-8",
        "5.png": "the name of its person holds a line break or another control character",
    }


def test_rejected_pictures_are_not_encoded(one):
    save(one / "in" / "long.png", colourful(1), "x" * 20_000)
    encoders, finder = StubEncoders(), StubFinder()
    prepare(FolderSource(one / "in"), one / "out", encoders, finder, SETTINGS)
    assert encoders.asked["latents"] == finder.asked["find"] == 1


@pytest.mark.parametrize("content", [b"\xff\xfe\x00", b"[" * 200_000])
def test_a_list_that_is_no_text_or_nested_too_deeply_is_named(one, content):
    (one / "in" / "meta.jsonl").write_bytes(content)
    with pytest.raises(BadFile, match="meta.jsonl") as raised:
        make(one)
    assert len(str(raised.value)) < 1000


def test_a_caption_of_a_graph_is_checked_too(one):
    images = torch.from_numpy(np.stack([colourful(n) for n in range(2)])).float() / 255
    items = BatchSource(images, ["fine", "x" * 20_000]).items()
    assert [item.problem for item in items] == ["", "its caption is longer than 10,000 characters"]


@pytest.mark.parametrize("orientation,turns", [(1, 0), (3, 2), (6, 3), (8, 1)])
@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "tif"])
def test_exif_orientation_is_honoured(tmp_path, orientation, turns, suffix):
    upright = colourful(1, (40, 60))
    exif = Image.Exif()
    exif[0x0112] = orientation
    lying = Image.fromarray(np.ascontiguousarray(np.rot90(upright, -turns)))
    lying.save(tmp_path / f"1.{suffix}", exif=exif, **({"quality": 95} if suffix == "jpg" else {}))
    (item,) = FolderSource(tmp_path).items()
    assert item.read().pixels.shape == upright.shape and item.read().original == (40, 60)
    assert np.abs(item.read().pixels.astype(int) - upright).mean() < (12 if suffix in ("jpg", "webp") else 0.01)


def test_a_large_photo_on_its_side_keeps_its_original_size(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (6000, 4200), "red").save(tmp_path / "1.jpg", exif=exif)  # decoded at half its size
    picture = FolderSource(tmp_path).items()[0].read()
    assert picture.original == (6000, 4200) and picture.pixels.shape == (2048, 1434, 3)


@pytest.mark.parametrize("name", ["report.md", "contact.jpg", "manifest.json", "report.json"])
def test_files_of_another_program_are_not_replaced_unasked(one, name):
    (one / "out").mkdir()
    (one / "out" / name).write_text("mine")
    with pytest.raises(FaceCDMError, match=f"holds no data set, but {name}, which would be replaced.*--overwrite"):
        make(one)
    assert (one / "out" / name).read_text() == "mine" and len(list((one / "out").iterdir())) == 1
    assert len(make(one, overwrite=True)) == 1
    assert len(make(one)) == 1  # it is a data set now


def test_every_write_on_a_full_disk(one):
    def prepared(out):
        prepare(FolderSource(one / "in"), out, StubEncoders(), StubFinder(), SETTINGS)

    prepared(one / "whole")
    refused = 0
    for _, out, error in every_write(prepared, one, FaceCDMError):
        if error is not None:
            refused += 1
            assert "No space left" in str(error) and "free space" in str(error)
            assert not list(out.rglob("*.part"))
        prepared(out)
        assert files_of(out) == files_of(one / "whole")
    assert refused > 30

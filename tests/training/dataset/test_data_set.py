"""A data set from a folder of pictures: its contents, updates, and rejected pictures."""

import json
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch
from datasets import SETTINGS, StubEncoders, StubFinder, colourful, files_of, prompt_of, save
from PIL import Image

from facecdm.errors import BadFile, FaceCDMError, MissingModel, NoFace
from facecdm.training.dataset.data_set import DataSet
from facecdm.training.dataset.encoders import Fingerprints
from facecdm.training.dataset.pipeline import prepare
from facecdm.training.dataset.sources import BatchSource, FolderSource

LONG = "a caption that is much longer than all of the others"


@pytest.fixture
def folder(tmp_path):
    """Anna with three photos, Ben with two, Cleo with one."""
    root = tmp_path / "pictures"
    for number, (person, caption) in enumerate(
        [("anna", "smiling"), ("anna", "sad"), ("anna", "smiling"), ("ben", LONG), ("ben", "sad"), ("cleo", "angry")]
    ):
        save(root / person / f"{number}.png", colourful(number), caption)
    return root


@pytest.fixture
def made(folder, tmp_path):
    """(folder, out, encoders, finder, data set)"""
    encoders, finder = StubEncoders(), StubFinder()
    return (
        folder,
        tmp_path / "out",
        encoders,
        finder,
        prepare(FolderSource(folder), tmp_path / "out", encoders, finder, SETTINGS),
    )


def again(made, **changes):
    """Prepare once more, with fresh counters."""
    folder, out, encoders, finder, _ = made
    encoders.asked, finder.asked = Counter(), Counter()
    return prepare(
        FolderSource(folder),
        out,
        changes.get("encoders", encoders),
        changes.get("finder", finder),
        changes.get("settings", SETTINGS),
    )


def test_rows_hold_what_the_encoders_made(made):
    folder, _, _, _, data = made
    assert len(data) == 6 and [entry.person for entry in data.entries] == ["anna"] * 3 + ["ben"] * 2 + ["cleo"]
    rows = data.load([3, 0])
    pixels = torch.from_numpy(np.stack([colourful(3), colourful(0)])).float() / 255
    torch.testing.assert_close(rows.latents, StubEncoders().latents(pixels).half().float())
    torch.testing.assert_close(rows.vision[1, 0, :3], pixels[1].mean((0, 1)) * 255, atol=0.1, rtol=0)
    torch.testing.assert_close(
        rows.face, torch.stack([torch.from_numpy(StubFinder().embed(colourful(n)[..., ::-1], None)) for n in (3, 0)])
    )
    assert rows.box.tolist() == [[0.25, 0.25, 0.75, 0.75]] * 2
    torch.testing.assert_close(rows.keypoints[0, :2], torch.tensor([[0.35, 0.4], [0.65, 0.4]]))
    assert rows.identity.tolist() == [1, 0] and rows.control is None
    assert all(value.dtype == torch.float32 for value in (rows.latents, rows.vision, rows.face, rows.prompt.states))
    assert data.latent_shape(0) == (3, 8, 8) and data.face_width == 4 and data.vision_width == 12
    assert data.recogniser == "stub/mean.onnx" and data.identity(5) == 2


def test_prompts_are_repeated_to_equal_length(made):
    rows = made[4].load([3, 0])
    torch.testing.assert_close(rows.prompt.states[0], prompt_of(LONG).states[0].half().float())
    torch.testing.assert_close(rows.prompt.states[1], prompt_of("smiling").states[0].half().float().repeat(2, 1))
    torch.testing.assert_close(made[4].empty_prompt.states, prompt_of("").states.half().float())


def test_equal_captions_are_encoded_once(made):
    assert made[2].asked == {"latents": 6, "vision": 6 + 4, "text": 1 + 4}  # Cleo's variations; the empty text


def test_nothing_is_made_twice(made):
    before = files_of(made[1])
    data = again(made)
    assert not made[2].asked and not made[3].asked
    assert files_of(made[1]) == before and data.fingerprint == made[4].fingerprint


def test_one_changed_picture_is_made_again_and_no_other(made):
    save(made[0] / "anna" / "1.png", colourful(99))
    data = again(made)
    assert made[2].asked == {"latents": 1, "vision": 1} and made[3].asked["find"] == 1
    assert data.fingerprint != made[4].fingerprint
    assert not torch.equal(data.load([1]).latents, made[4].load([1]).latents)
    torch.testing.assert_close(data.load([0]).latents, made[4].load([0]).latents)


def test_one_changed_caption_is_encoded_and_nothing_else(made):
    (made[0] / "ben" / "4.txt").write_text("astonished")
    data = again(made)
    assert made[2].asked == {"text": 1} and not made[3].asked
    torch.testing.assert_close(data.load([4]).prompt.states, prompt_of("astonished").states.half().float())
    assert data.fingerprint != made[4].fingerprint


@pytest.mark.parametrize("which,count", [("latents", 6), ("text", 5), ("vision", 10)])
def test_another_encoder_makes_its_own_records_again(made, which, count):
    other = StubEncoders(
        fingerprints=replace(Fingerprints("a vae", "a text encoder", "a vision tower"), **{which: "another"})
    )
    data = again(made, encoders=other)
    assert other.asked == {which: count} and made[3].asked["find"] == 0
    assert data.fingerprint != made[4].fingerprint


def test_another_recogniser_finds_again_and_encodes_nothing(made):
    finder = StubFinder(fingerprint="another")
    again(made, finder=finder)
    assert finder.asked["find"] == 6 and made[2].asked["latents"] == 0


def test_a_damaged_shard_is_made_again(made, caplog):
    folder, out, encoders, _, data = made
    shard = next((out / "latents").glob("*.safetensors"))
    shard.write_bytes(shard.read_bytes()[:-50])
    again(made)
    assert encoders.asked == {"latents": 6} and "cannot be read" in caplog.text
    torch.testing.assert_close(DataSet(out).load([0]).latents, data.load([0]).latents)


def test_a_missing_shard_is_named(made):
    next((made[1] / "latents").glob("*.safetensors")).unlink()
    with pytest.raises(BadFile, match="prepare the data set again"):
        DataSet(made[1])
    with pytest.raises(MissingModel, match="holds no data set"):
        DataSet(made[0])


def test_prune_deletes_what_other_settings_left(made):
    folder, out, encoders, finder, _ = made
    other = replace(SETTINGS, resolution=32)
    prepare(FolderSource(folder), out, encoders, finder, other)
    assert len(list((out / "latents").iterdir())) == 2
    save(folder / "anna" / "black.png", np.zeros((64, 64, 3), np.uint8))
    data = prepare(FolderSource(folder), out, encoders, finder, other, prune=True)
    assert len(list((out / "latents").iterdir())) == 1 and data.latent_shape(0) == (3, 4, 4)
    finder.asked.clear()
    prepare(FolderSource(folder), out, encoders, finder, other)
    assert not finder.asked, "the picture without a face was searched again"


def test_references_are_other_photos_the_most_different_first(made):
    data, middle = made[4], [int(colourful(n)[32, 32, 0]) for n in range(3)]
    wanted = sorted([1, 2], key=lambda n: -abs(middle[n] - middle[0]))
    assert data.references(0) == wanted and data.references(3) == [4]
    face, vision = data.features([1, 3])
    torch.testing.assert_close(face, torch.cat([data.load([1]).face, data.load([3]).face]))
    assert vision.shape == (2, 5, 12)


def test_a_single_photo_has_variations_instead(made):
    data = made[4]
    assert data.references(5) == []
    own, _ = data.features([5])
    varied, states = data.features([5] * 4, [0.0, 0.3, 0.6, 1.0])
    assert len({tuple(row.tolist()) for row in varied}) == 4 and states.shape == (4, 5, 12)
    assert all(not torch.equal(row, own[0]) for row in varied)
    torch.testing.assert_close(data.features([0], [0.5])[0], data.features([0])[0])  # Anna has none


def test_rejected_pictures_are_reported_with_the_reason(folder, tmp_path):
    save(folder / "anna" / "black.png", np.zeros((64, 64, 3), np.uint8), "dark")
    save(folder / "anna" / "crowd.png", np.full((64, 64, 3), 77, np.uint8), "a crowd")
    save(folder / "anna" / "tiny.png", colourful(50, (5, 5)), "tiny")
    save(folder / "ben" / "copy.png", colourful(0), "a copy")
    save(folder / "ben" / "silent.png", colourful(51))
    (folder / "ben" / "words.jpg").write_text("no picture at all")
    whole = save(folder / "ben" / "half.png", colourful(52), "half").read_bytes()
    (folder / "ben" / "half.png").write_bytes(whole[: len(whole) // 2])
    settings = replace(SETTINGS, several="drop", no_caption="drop")
    data = prepare(FolderSource(folder), tmp_path / "out", StubEncoders(), StubFinder(), settings)
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    reasons = {drop["name"]: drop["reason"] for drop in report["dropped"]}
    assert len(data) == report["kept"] == 6 and report["pictures"] == 13
    for name, reason in {
        "anna/black.png": "no face",
        "anna/crowd.png": "2 faces",
        "anna/tiny.png": "too small",
        "ben/copy.png": "the same picture as anna/0.png",
        "ben/silent.png": "no caption",
        "ben/words.jpg": "is no whole picture",
        "ben/half.png": "is no whole picture",
    }.items():
        assert reasons.pop(name).startswith(reason)
    assert not reasons
    text = (tmp_path / "out" / "report.md").read_text()
    assert "6 of 13 pictures kept, 3 people (1 with one photo only)" in text and "ben/half.png: is no whole" in text
    sheet = Image.open(tmp_path / "out" / "contact.jpg")
    assert sheet.width > 1000 and np.asarray(sheet).std() > 10


def test_lines_without_a_picture_and_formats_that_are_not_read_are_reported(folder, tmp_path):
    names = ["anna/0.png", "anna/O.png", "gone.png", "ben/IMG_1.HEIC"]
    (folder / "meta.jsonl").write_text("".join(json.dumps({"file_name": name, "text": "a"}) + "\n" for name in names))
    for name in ("ben/IMG_1.HEIC", "ben/2.heif", "3.gif", "4.jxl"):
        (folder / name).write_bytes(name.encode())
    prepare(FolderSource(folder), tmp_path / "out", StubEncoders(), StubFinder(), SETTINGS)
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    line = "meta.jsonl: no picture for 2 of its lines: anna/O.png, gone.png"
    assert report["notes"] == [line] and line in (tmp_path / "out" / "report.md").read_text()
    assert report["kept"] == 6 and report["reasons"] == {"its format is not read": 4}
    assert report["dropped"][0]["reason"] == "its format is not read: save it as JPEG or PNG"


def test_a_folder_of_formats_that_are_not_read_is_refused_with_the_reason(tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "1.heic").write_bytes(b"1")
    with pytest.raises(NoFace, match="its format is not read: save it as JPEG or PNG"):
        prepare(FolderSource(tmp_path / "in"), tmp_path / "out", StubEncoders(), StubFinder(), SETTINGS)


class FarFinder(StubFinder):
    """The face is a tenth as wide as the picture, in its middle."""

    def find(self, item):
        face, half = super().find(item), np.float32([item.read().pixels.shape[1] / 2] * 2)
        box = (half + (face.box.reshape(2, 2) - half) / 5).reshape(4)
        return replace(face, keypoints=half + (face.keypoints - half) / 5, box=box)


def test_a_small_face_is_dropped_in_the_whole_and_kept_as_a_portrait(tmp_path):
    picture = colourful(1, (400, 400))
    save(tmp_path / "in" / "0.png", picture)
    settings, source = replace(SETTINGS, min_face=0.2), FolderSource(tmp_path / "in")
    with pytest.raises(NoFace, match="none of 1 pictures.*the face is too small"):
        prepare(source, tmp_path / "out", StubEncoders(), FarFinder(), settings)
    assert json.loads((tmp_path / "out" / "report.json").read_text())["kept"] == 0
    encoders = StubEncoders()
    data = prepare(source, tmp_path / "out", encoders, FarFinder(), replace(settings, framing="portrait"))
    entry, rows = data.entries[0], data.load([0])
    x0, y0, x1, y1 = entry.part
    assert (x1 - x0, y1 - y0) == (120, 120)
    assert rows.box[0, 0] == pytest.approx(1 / 3, abs=0.01) and rows.box[0, 2] == pytest.approx(2 / 3, abs=0.01)
    torch.testing.assert_close(rows.vision, encoders.vision([picture[y0:y1, x0:x1]]), atol=0.1, rtol=0)
    assert data.features([0], [0.5])[0].shape == (1, 4)  # a variation of the portrait


def test_another_person_among_the_photos_is_reported(tmp_path):
    for number, colour in enumerate([(230, 20, 20), (220, 30, 25), (225, 25, 30), (20, 20, 230)]):
        save(tmp_path / "in" / "anna" / f"{number}.png", np.full((64, 64, 3), colour, np.uint8))
    prepare(FolderSource(tmp_path / "in"), tmp_path / "out", StubEncoders(), StubFinder(), SETTINGS)
    assert json.loads((tmp_path / "out" / "report.json").read_text())["doubtful"] == ["anna/3.png"]
    assert "Look at these: 1" in (tmp_path / "out" / "report.md").read_text()


def test_without_names_people_are_clustered(tmp_path):
    rng = np.random.default_rng(0)
    people = [np.uint8([230, 20, 20]), np.uint8([20, 230, 20])]
    for number in range(6):
        noise = rng.integers(0, 12, (64, 64, 3), np.uint8)
        save(tmp_path / "in" / f"{number}.png", people[number % 2] + noise, "words")
    data = prepare(FolderSource(tmp_path / "in"), tmp_path / "out", StubEncoders(), StubFinder(), SETTINGS)
    assert [entry.identity for entry in data.entries] == [0, 1] * 3
    one = replace(SETTINGS, identities="one person")
    data = prepare(FolderSource(tmp_path / "in"), tmp_path / "out", StubEncoders(), StubFinder(), one)
    assert set(data.people) == {0}


def test_pictures_of_other_shapes_get_their_own_buckets(tmp_path):
    for number, size in enumerate([(64, 64), (64, 128), (64, 120), (120, 64)]):
        save(tmp_path / "in" / f"{number}.png", colourful(number, size), f"words {number}")
    data = prepare(
        FolderSource(tmp_path / "in"), tmp_path / "out", StubEncoders(), StubFinder(), replace(SETTINGS, aspect=2.0)
    )
    assert sorted(map(sorted, data.buckets)) == [[0], [1, 2], [3]]
    assert data.entries[1].bucket == (48, 80)  # the widest within 64² pixels and twice its height: 40 × 96 is wider
    assert data.load([1, 2]).latents.shape == (2, 3, 6, 10)
    with pytest.raises(FaceCDMError, match="one bucket"):
        data.load([0, 1])


def test_sdxl_has_pooled_embeddings_and_sizes(tmp_path):
    save(tmp_path / "in" / "0.png", colourful(0, (64, 100)), "words")
    data = prepare(FolderSource(tmp_path / "in"), tmp_path / "out", StubEncoders(large=True), StubFinder(), SETTINGS)
    prompt = data.load([0]).prompt
    torch.testing.assert_close(prompt.pooled, prompt_of("words", True).pooled.half().float())
    assert prompt.sizes.tolist() == [[64, 100, 0, 18, 64, 64]]
    assert data.empty_prompt.sizes.tolist() == [[64, 64, 0, 0, 64, 64]]


@pytest.mark.parametrize("pose", ["five points", "openpose"])
def test_the_pose_is_drawn_where_the_face_is(folder, tmp_path, pose):
    data = prepare(FolderSource(folder), tmp_path / "out", StubEncoders(), StubFinder(), replace(SETTINGS, pose=pose))
    rows = data.load([0, 1])
    assert rows.control.shape == (2, 3, 64, 64) and 0 <= rows.control.min() < rows.control.max() <= 1
    lit = rows.control[0].amax(0) > 0.2
    for x, y in rows.keypoints[0, :3].tolist():  # eyes and nose are in both kinds
        place = lit[int(y * 64) - 3 : int(y * 64) + 4, int(x * 64) - 3 : int(x * 64) + 4]
        assert place.any()
    assert not lit[:10].any() and not lit[-10:].any()


def test_an_image_batch(tmp_path):
    images = torch.from_numpy(np.stack([colourful(n) for n in range(3)])).float() / 255
    with torch.inference_mode():
        data = prepare(
            BatchSource(images, ["one", "two", "three"]), tmp_path / "out", StubEncoders(), StubFinder(), SETTINGS
        )
        rows = data.load([2])
    assert [entry.caption for entry in data.entries] == ["one", "two", "three"]
    given = (rows.latents, rows.prompt.states, rows.face, data.empty_prompt.states)
    assert not any(value.is_inference() for value in given)
    with pytest.raises(FaceCDMError, match="3 pictures and 2 captions"):
        BatchSource(images, ["one", "two"]).items()
    damaged = images.clone()
    damaged[1, 0, 0] = float("nan")
    data = prepare(BatchSource(damaged, ["all"]), tmp_path / "nan", StubEncoders(), StubFinder(), SETTINGS)
    assert [entry.caption for entry in data.entries] == ["all", "all"]
    assert "cannot be read: it holds NaN" in (tmp_path / "nan" / "report.md").read_text()


def test_long_captions_of_a_u_net_are_cut_so_that_a_batch_stays_short(made, monkeypatch):
    """Captions of 3, 4, 5 and 7 chunks would have a common length of 420 chunks."""
    data = made[4]
    chunk = data.empty_prompt.states.shape[1]
    rows = [torch.randn(count * chunk, 6) for count in (3, 4, 5, 7)]
    monkeypatch.setattr(data, "_text", lambda entries, name: rows)
    states = data._prompt(list(data.entries)[:4]).states
    assert states.shape == (4, 12 * chunk, 6)
    torch.testing.assert_close(states[3, : 4 * chunk], rows[3][: 4 * chunk])

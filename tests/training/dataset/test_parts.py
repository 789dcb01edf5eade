"""Sources, buckets, shards and clustering."""

import io
import json
import tarfile
from dataclasses import replace

import numpy as np
import pytest
import torch
from datasets import SETTINGS, colourful, save
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from facecdm.errors import BadFile, FaceCDMError, MissingModel, UnsafeName
from facecdm.training.dataset import identities
from facecdm.training.dataset.buckets import bucket_sizes, frame, portrait_window
from facecdm.training.dataset.faceworld import FaceWorldSource
from facecdm.training.dataset.folders import inside, picture_folders
from facecdm.training.dataset.identities import cluster
from facecdm.training.dataset.settings import Settings
from facecdm.training.dataset.sources import FolderSource
from facecdm.training.dataset.store import Store, to_half


def test_captions_and_people_of_a_folder(tmp_path):
    save(tmp_path / "anna" / "one.png", colourful(1), "  a   woman\nlaughing ")
    save(tmp_path / "anna" / "two.png", colourful(2), "beside")
    save(tmp_path / "alone.png", colourful(3))
    save(tmp_path / ".hidden" / "no.png", colourful(4))
    lines = [{"file_name": "two.png", "text": "from the list", "identity": "another"}]
    (tmp_path / "anna" / "meta.jsonl").write_text("\n".join(map(json.dumps, lines)) + "\n\n")
    items = FolderSource(tmp_path).items()
    assert [(item.name, item.caption, item.identity) for item in items] == [
        ("alone.png", None, None),
        ("anna/one.png", "a woman laughing", "anna"),
        ("anna/two.png", "from the list", "another"),
    ]


def test_names_are_matched_whatever_system_wrote_them(tmp_path):
    """macOS writes é as two characters (NFD), Windows writes backslashes, and cameras write capitals."""
    for number, name in enumerate(["Zoe\u0301.png", "Ne\u0301e.png", "sub/c.png", "k.JPG", "l.png"]):
        save(tmp_path / name, colourful(number))
    lines = [{"file_name": "Zo\u00e9.png", "text": "Zoé"}, {"file_name": "sub\\c.png", "text": "Windows"}]
    (tmp_path / "meta.jsonl").write_text("\n".join(map(json.dumps, lines)))
    for name in ("N\u00e9e.txt", "k.TXT", "l.Txt"):
        (tmp_path / name).write_text(name[-3:], encoding="utf-8")
    items = FolderSource(tmp_path).items()
    assert [item.caption for item in items] == ["txt", "Zoé", "TXT", "Txt", "Windows"] and not items.notes


@pytest.mark.parametrize("identity,person", [(0, "0"), ("0", "0"), (None, "anna"), ("", "anna"), (False, "anna")])
def test_a_person_may_be_a_number(tmp_path, identity, person):
    save(tmp_path / "anna" / "one.png", colourful(1))
    (tmp_path / "meta.jsonl").write_text(json.dumps({"file_name": "anna/one.png", "identity": identity}))
    assert [item.identity for item in FolderSource(tmp_path).items()] == [person]


def test_sixteen_bits_of_grey_are_reduced_to_eight(tmp_path):
    grey = colourful(1)[..., 0]
    for name in ("1.png", "2.tif"):
        Image.fromarray(grey.astype(np.uint16) * 256 + 7).save(tmp_path / name)
    for item in FolderSource(tmp_path).items():
        np.testing.assert_array_equal(item.read().pixels, np.stack([grey] * 3, -1))


def test_a_jpeg_may_be_called_jfif(tmp_path):
    save(tmp_path / "one.jpg", colourful(1)).rename(tmp_path / "one.jfif")
    assert [item.read().original for item in FolderSource(tmp_path).items()] == [(64, 64)]


@pytest.mark.parametrize("line", ['{"text": "no name"}', "no json", '{"file_name": "../out.png"}', '["a"]'])
def test_a_bad_line_is_named_with_its_number(tmp_path, line):
    save(tmp_path / "in" / "one.png", colourful(1))
    (tmp_path / "in" / "meta.jsonl").write_text('{"file_name": "one.png", "text": "fine"}\n' + line)
    with pytest.raises(BadFile, match="meta.jsonl, line 2"):
        FolderSource(tmp_path / "in").items()


def test_a_folder_without_pictures(tmp_path):
    with pytest.raises(FaceCDMError, match="holds no picture"):
        FolderSource(tmp_path).items()
    with pytest.raises(MissingModel, match="there is no folder"):
        FolderSource(tmp_path / "nowhere").items()


def test_pictures_are_turned_upright_put_on_white_and_bounded(tmp_path):
    lying = Image.fromarray(colourful(1, (40, 60)))
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90° to see it upright
    lying.save(tmp_path / "1.png", exif=exif)
    Image.new("RGBA", (9, 9), (255, 0, 0, 0)).save(tmp_path / "2.png")
    Image.new("RGB", (5000, 1000), "red").save(tmp_path / "3.jpg")
    turned, clear, large = (item.read() for item in FolderSource(tmp_path).items())
    assert turned.pixels.shape == (60, 40, 3) and turned.original == (60, 40)
    np.testing.assert_array_equal(turned.pixels, np.rot90(colourful(1, (40, 60)), -1))
    assert (clear.pixels == 255).all()
    assert max(large.pixels.shape) <= 2048 and large.original == (1000, 5000)


def test_the_layout_of_faceworld(tmp_path):
    labels = []
    (tmp_path / "val").mkdir()
    with tarfile.open(tmp_path / "val" / "00.tar", "w") as archive:
        for number in range(4):
            file = io.BytesIO()
            Image.fromarray(colourful(number)).save(file, "webp", lossless=True)
            member = tarfile.TarInfo(f"val/{number // 2}/{number % 2}.webp")
            member.size = len(file.getvalue())
            archive.addfile(member, io.BytesIO(file.getvalue()))
            labels.append(
                {
                    "file": member.name,
                    "shard": "val/00.tar",
                    "identity": f"val-{number // 2}",
                    "caption": "c",
                    "view": number % 2,
                    "yaw": number,
                    "pitch": 0.5,
                    "roll": -1.0,
                }
            )
    (tmp_path / "val.jsonl").write_text("\n".join(map(json.dumps, labels)))
    items = FaceWorldSource(tmp_path, ("val",)).items()
    for number, item in enumerate(items):
        np.testing.assert_array_equal(item.read().pixels, colourful(number))
        assert item.identity == f"val-{number // 2}" and item.pose == (number, 0.5, -1.0) and item.caption == "c"
    fewer = [FaceWorldSource(tmp_path, ("val",), people=1), FaceWorldSource(tmp_path, ("val",), views=1)]
    assert [[item.name[4:7] for item in source.items()] for source in fewer] == [["0/0", "0/1"], ["0/0", "1/0"]]
    (tmp_path / "val.jsonl").write_text(json.dumps(labels[0] | {"file": "val/9/9.webp"}))
    with pytest.raises(BadFile, match="val/9/9.webp"):
        FaceWorldSource(tmp_path, ("val",)).items()


@pytest.mark.parametrize("name", ["..", "../x", "a/../../x", "/etc", "C:/x", "", ".", "a\0b", "..\\x"])
def test_no_name_leaves_the_input_folder(tmp_path, name):
    (tmp_path / "in" / "a").mkdir(parents=True)
    (tmp_path / "x").mkdir()
    with pytest.raises(UnsafeName):
        inside(tmp_path / "in", name)


def test_folders_of_pictures(tmp_path):
    save(tmp_path / "family" / "anna" / "one.png", colourful(1))
    save(tmp_path / "one.png", colourful(1))
    (tmp_path / "texts").mkdir()
    assert picture_folders(tmp_path) == ["family", "family/anna"]
    assert inside(tmp_path, "family/anna") == tmp_path / "family" / "anna"
    for absent in ("families", "x" * 2**20, "\ud800"):
        with pytest.raises(MissingModel):
            inside(tmp_path, absent)


def test_buckets_of_the_usual_models():
    for resolution in (512, 768, 1024):
        sizes = bucket_sizes(resolution, 64, 2.0)
        assert (resolution, resolution) in sizes and len(sizes) >= 5
        assert all(h % 64 == 0 == w % 64 and h * w <= resolution**2 and max(h / w, w / h) <= 2 for h, w in sizes)
        assert all((w, h) in sizes for h, w in sizes)
    assert bucket_sizes(128, 8, 1.0) == [(128, 128)]


@settings(max_examples=200)
@given(
    st.integers(40, 3000),
    st.integers(40, 3000),
    st.floats(0, 0.9),
    st.floats(0, 0.9),
    st.floats(0.05, 0.5),
    st.booleans(),
)
def test_a_frame_has_its_buckets_shape_and_contains_the_face(height, width, left, top, side, portrait):
    x0, y0 = left * width, top * height
    side *= min(height, width)
    box = np.array([x0, y0, min(x0 + side, width), min(y0 + side, height)])
    cut = frame((height, width), box, bucket_sizes(512, 64, 2.0), portrait)
    x, y, right, bottom = cut.part
    assert 0 <= x < right <= width and 0 <= y < bottom <= height
    shape = (right - x) / (bottom - y) / (cut.bucket[1] / cut.bucket[0])
    assert abs(shape - 1) < 0.07 or min(right - x, bottom - y) < 40  # pixels are whole
    if side < min(right - x, bottom - y) - 2:
        inside_frame = cut.relative(box.reshape(2, 2))
        slack = 1.5 / min(right - x, bottom - y)
        assert (inside_frame >= -slack).all() and (inside_frame <= 1 + slack).all()


def test_a_portrait_is_about_three_faces_wide():
    box = np.array([400.0, 300, 500, 420])
    x0, y0, x1, y1 = portrait_window((1000, 1000), box)
    assert (x1 - x0, y1 - y0) == (360, 360) and abs((x0 + x1) / 2 - 450) <= 1 and y0 < 300 and y1 > 420


def test_a_shard_returns_its_records(tmp_path):
    store = Store(tmp_path)
    values = torch.randn(3, 4)
    store.add(["a", "b", "c"], {"x": values, "y": torch.arange(3)}, {"a": {"note": 1}, "d": {"problem": "gone"}})
    for opened in (store, Store(tmp_path)):
        assert "a" in opened and "d" in opened and "e" not in opened
        assert torch.equal(torch.stack(opened.rows(["c", "a"], "x")), values[[2, 0]])
        assert opened.note("d") == {"problem": "gone"}
        with pytest.raises(BadFile, match="prepare the data set again"):
            opened.rows(["d"], "x")


def test_what_float16_cannot_hold_stays_float32():
    assert to_half(torch.tensor([1.0, 6e4])).dtype == torch.float16
    assert to_half(torch.tensor([1.0, 7e4])).dtype == torch.float32


def test_clusters_are_those_of_average_linkage_on_all():
    from scipy.cluster.hierarchy import fcluster, linkage
    from scipy.spatial.distance import pdist

    rng = np.random.default_rng(0)
    people = rng.normal(size=(40, 16))
    faces = (people[rng.integers(0, 40, 400)] + 0.5 * rng.normal(size=(400, 16))).astype(np.float32)
    for same in (0.3, 0.5, 0.7):
        plain = fcluster(linkage(pdist(faces.astype(float), "cosine"), "average"), 1 - same, "distance")
        ours = cluster(faces, same)
        assert len({*zip(plain, ours)}) == len({*plain}) == len({*ours}) > 5  # the same groups under other numbers
        assert list(dict.fromkeys(ours)) == sorted({*ours})


def test_too_many_connected_faces_are_refused_and_not_taken_for_one_person(monkeypatch):
    monkeypatch.setattr(identities, "MOST", 3)
    faces = np.eye(4, dtype=np.float32).repeat([3, 3, 2, 1], 0)
    assert cluster(faces, 0.4).tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 3]
    with pytest.raises(FaceCDMError, match="4 faces are connected at same_person 0.4 .*`identity` in meta.jsonl"):
        cluster(faces[[0, 0, *range(1, 9)]], 0.4)


@pytest.mark.parametrize(
    "change", [{"framing": "round"}, {"step": 12}, {"resolution": 4}, {"aspect": 0.5}, {"pose": "x"}, {"augmented": 65}]
)
def test_invalid_settings_are_refused(change):
    with pytest.raises(FaceCDMError):
        replace(SETTINGS, **change)
    assert Settings().resolution == 512

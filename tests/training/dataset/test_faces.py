"""Real pictures, the real InsightFace, the demo model's own encoders, from the command line."""

import json
import shutil

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn.functional import cosine_similarity

from facecdm import cli
from facecdm.demo.autoencoder import build_autoencoder
from facecdm.demo.weights import read
from facecdm.errors import Mismatch
from facecdm.faces.analyzer import open_pack
from facecdm.faces.detect import Options, detect_faces
from facecdm.training.dataset.data_set import DataSet
from facecdm.training.dataset.faces import known_from_npz


@pytest.fixture(scope="module")
def made(tmp_path_factory, faceworld_val, astronaut, face_models, comfyui):
    """(pictures, the data set's folder): two people with three views, and an astronaut with one, no sub-folders."""
    root = tmp_path_factory.mktemp("dataset")
    source, out = root / "pictures", root / "out"
    source.mkdir()
    for person in ("0005", "0006"):
        for view in sorted((faceworld_val / person).glob("*.webp")):
            shutil.copy(view, source / f"{view.stem}-{person}.webp")
            (source / f"{view.stem}-{person}.txt").write_text(f"a person, view {view.stem}")
    Image.fromarray((astronaut[0].numpy() * 255).astype(np.uint8)).save(source / "astronaut.jpg", quality=95)
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (256, 256, 3), np.uint8)).save(source / "noise.png")
    code = cli.main(
        [
            "dataset",
            str(source),
            str(out),
            "--faces",
            str(face_models / "models" / "insightface"),
            "--pack",
            "buffalo_s",
            "--landmarks",
            "--tokenizer",
            str(comfyui / "comfy" / "sd1_tokenizer"),
            "--aspect",
            "1",
            "--augmented",
            "3",
        ]
    )
    assert code == 0
    return source, out


def test_people_are_clustered_and_noise_is_dropped(made):
    data = DataSet(made[1])
    people = {}
    for entry in data.entries:
        people.setdefault(entry.person, set()).add(entry.name.split("-")[-1].split(".")[0])
    assert sorted(people.values(), key=sorted) == [{"0005"}, {"0006"}, {"astronaut"}] and len(data) == 7
    report = json.loads((made[1] / "report.json").read_text())
    assert [drop["name"] for drop in report["dropped"]] == ["noise.png"] and "no face" in report["dropped"][0]["reason"]


def test_embeddings_and_points_are_those_of_the_analyzer(made, face_models, astronaut):
    data = DataSet(made[1])
    index = next(i for i, entry in enumerate(data.entries) if entry.name == "astronaut.jpg")
    picture = torch.from_numpy(np.array(Image.open(made[0] / "astronaut.jpg"))).float()[None] / 255
    analyzer = open_pack([face_models / "models" / "insightface"], "buffalo_s", "CPU")
    face = detect_faces(analyzer, picture, Options()).faces[0]
    rows = data.load([index])
    torch.testing.assert_close(rows.face[0], face.embedding)
    torch.testing.assert_close(rows.keypoints[0] * 512, face.keypoints, atol=1e-3, rtol=0)
    torch.testing.assert_close(rows.box[0] * 512, face.box, atol=1e-3, rtol=0)
    assert data.recogniser == "buffalo_s/w600k_mbf.onnx" == analyzer.recogniser


def test_latents_decode_to_the_picture(made):
    data, weights = DataSet(made[1]), read()
    autoencoder, size = build_autoencoder(weights.sizes), (weights.sizes.image_size,) * 2
    autoencoder.load_state_dict({name: value.float() for name, value in weights.vae.items()})
    with torch.no_grad():
        decoded = autoencoder.decode(data.load([0]).latents)[0].movedim(0, -1) / 2 + 0.5
    picture = Image.open(made[0] / data.entries[0].name).convert("RGB").resize(size, Image.Resampling.LANCZOS)
    error = (decoded.clamp(0, 1) - torch.from_numpy(np.array(picture)).float() / 255).square().mean()
    assert -10 * error.log10() > 25  # dB


def test_variations_of_a_single_photo_are_other_pictures_of_the_same_person(made):
    data = DataSet(made[1])
    index = next(i for i, entry in enumerate(data.entries) if entry.name == "astronaut.jpg")
    assert data.references(index) == [] and all(len(data.references(i)) == 2 for i in range(7) if i != index)
    own, vision = data.features([index])
    varied, states = data.features([index] * 3, [0.1, 0.5, 0.9])
    similarity = cosine_similarity(varied, own)
    assert ((similarity > 0.4) & (similarity < 0.99)).all(), similarity
    others = torch.cat([data.features([i])[0] for i in range(7) if i != index])
    assert cosine_similarity(varied[:, None], others[None], dim=-1).max() < similarity.min()
    assert states.shape == (3, *vision.shape[1:]) and (states - vision).abs().mean() > 0.05 * vision.abs().mean()


def test_known_faces_replace_detection(tmp_path):
    table = {
        "embedding": np.ones((2, 4)),
        "keypoints": np.ones((2, 5, 2)),
        "box": np.ones((2, 4)),
        "score": np.array([0.9, 0]),
    }
    np.savez(tmp_path / "faces.npz", **table)
    finder = known_from_npz([(tmp_path / "faces.npz", ["a", "b"])], (8, 8), "pack/file.onnx")
    item = type("Item", (), {"name": "a"})
    assert finder.find(item).embedding.tolist() == [1] * 4 and finder.recogniser == "pack/file.onnx"
    item.name = "b"
    assert finder.find(item) == "no face in the table" and "from a table, not detected" in finder.describe()
    with pytest.raises(Mismatch, match="2 rows for 3"):
        known_from_npz([(tmp_path / "faces.npz", ["a", "b", "c"])], (8, 8), "pack/file.onnx")

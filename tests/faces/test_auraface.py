"""AuraFace's pack, by its layout: what accepts its embeddings, and what refuses them."""

import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
from headers import header

from facecdm.adapter.config import AdapterConfig
from facecdm.bases import BASES
from facecdm.errors import Mismatch
from facecdm.faces.analyzer import open_pack
from facecdm.faces.combine import Weighted, combine
from facecdm.faces.detect import Options, detect_faces
from facecdm.formats.features import features
from facecdm.formats.imported import import_adapter
from facecdm.formats.sources import Sources
from facecdm.models.needs import needs_of

# fal/AuraFace-v1's files that take part, and files of the same task in the pack of the tests.
FILES = {"scrfd_10g_bnkps.onnx": "det_500m.onnx", "glintr100.onnx": "w600k_mbf.onnx", "2d106det.onnx": "2d106det.onnx"}


@pytest.fixture(scope="module")
def packs(pack_folder: Path, tmp_path_factory) -> Path:
    """AuraFace's pack, and antelopev2's with recognisers of one name."""
    home = tmp_path_factory.mktemp("insightface")
    for pack in ("auraface", "antelopev2"):
        (home / "models" / pack).mkdir(parents=True)
        for name, source in FILES.items():
            shutil.copy(pack_folder / source, home / "models" / pack / name)
    (home / "models" / "auraface" / "LICENSE.md").write_text("Apache-2.0", encoding="utf-8")
    return home


@pytest.fixture(scope="module")
def faces(packs, astronaut):
    """pack → the faces that it finds."""
    return {
        pack: detect_faces(open_pack([packs], pack, "CPU"), astronaut, Options()).faces
        for pack in ("auraface", "antelopev2")
    }


def test_load_face_analyzer_reads_its_folder(packs, faces):
    analyzer = open_pack([packs], "auraface", "CPU", landmarks=True)
    assert analyzer.recogniser == faces["auraface"].recogniser == "auraface/glintr100.onnx" and len(faces["auraface"])
    report = analyzer.report()
    assert "scrfd_10g_bnkps.onnx, glintr100.onnx, 2d106det.onnx" in report and "Apache-2.0" in report
    assert "Apache-2.0" not in open_pack([packs], "antelopev2", "CPU").report()


@pytest.mark.parametrize("family", ["instantid", "faceid"])
def test_published_adapters_refuse_its_embeddings(faces, family):
    adapter = SimpleNamespace(config=import_adapter(header(family, "SDXL")).config)
    pack = "antelopev2" if family == "instantid" else "buffalo_l"
    with pytest.raises(Mismatch, match=f"trained with .* {pack}/.*come from auraface/glintr100.* the face pack {pack}"):
        features(adapter, Sources(faces["auraface"]))
    if family == "instantid":
        assert features(adapter, Sources(faces["antelopev2"])).face.count


def test_an_own_adapter_that_was_trained_with_it_accepts_them_alone(faces):
    adapter = SimpleNamespace(config=AdapterConfig(BASES["SD1.5"].layer_map, recogniser="auraface/glintr100.onnx"))
    assert features(adapter, Sources(faces["auraface"])).face.shape == (1, 512)
    with pytest.raises(Mismatch, match="trained with the recogniser auraface/.*come from antelopev2"):
        features(adapter, Sources(faces["antelopev2"]))


def test_faces_of_both_are_not_combined(faces):
    with pytest.raises(Mismatch, match="auraface/glintr100.onnx; antelopev2/glintr100.onnx"):
        combine([Weighted(one) for one in faces.values()])


def test_get_knows_its_files():
    assert {file.name for file in needs_of("auraface").files} == {f"auraface/{name}" for name in list(FILES)[:2]}

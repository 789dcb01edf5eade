import copy
import logging
import shutil
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from facecdm.errors import BadFile, FaceCDMError, MissingModel, MissingPackage
from facecdm.faces import analyzer as analyzer_module
from facecdm.faces import providers
from facecdm.faces.analyzer import open_pack
from facecdm.faces.detect import detect_faces
from facecdm.faces.providers import CPU, PROVIDERS, choose_providers


def test_every_provider_name_is_one_of_onnx_runtime():
    import onnxruntime

    # ROCMExecutionProvider was dropped from newer versions; older ones still know it.
    known = {*onnxruntime.get_all_providers(), "ROCMExecutionProvider"}
    assert {name for names in PROVIDERS.values() for name in names} <= known


@pytest.mark.parametrize(
    ("wanted", "available", "got"),
    [
        ("auto", [CPU], [CPU]),
        ("auto", ["TensorrtExecutionProvider", "CUDAExecutionProvider", CPU], ["CUDAExecutionProvider", CPU]),
        ("auto", ["DmlExecutionProvider", CPU], ["DmlExecutionProvider", CPU]),
        ("CPU", ["CUDAExecutionProvider", CPU], [CPU]),
        (
            "ROCm",
            ["MIGraphXExecutionProvider", "ROCMExecutionProvider", CPU],
            ["MIGraphXExecutionProvider", CPU],
        ),
        ("ROCm", ["ROCMExecutionProvider", CPU], ["ROCMExecutionProvider", CPU]),
        ("CoreML", ["CoreMLExecutionProvider", CPU], ["CoreMLExecutionProvider", CPU]),
    ],
)
def test_provider_is_mapped_without_a_warning(wanted, available, got):
    assert choose_providers(wanted, available) == (got, "")


def test_a_missing_provider_is_reported_with_what_to_install():
    got, warning = choose_providers("DirectML", ["AzureExecutionProvider", CPU])
    assert got == [CPU]
    assert "DirectML" in warning and "AzureExecutionProvider" in warning and "onnxruntime-directml" in warning
    with pytest.raises(FaceCDMError, match="DirectMLExecutionProvider"):
        choose_providers("DirectMLExecutionProvider", [CPU])


def test_two_runtimes_are_reported(monkeypatch):
    monkeypatch.setattr(providers, "installed_runtimes", lambda: ["onnxruntime", "onnxruntime-gpu"])
    assert "installed together" in choose_providers("auto", [CPU])[1]
    assert choose_providers("CPU", [CPU])[1] == ""


def test_the_report_names_the_provider_that_is_used(insightface_folder, monkeypatch):
    import onnxruntime

    # A runtime that promises CUDA and then starts without it, as onnxruntime-gpu does without cuDNN.
    offers = ["CUDAExecutionProvider", CPU]
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: offers)
    opened = open_pack([insightface_folder], "buffalo_s", "CUDA")
    assert opened.provider_got == CPU
    assert "on CPU" in opened.report() and "CUDAExecutionProvider could not be started" in opened.report()


def test_the_licence_is_shown_once_per_process(analyzer, monkeypatch, caplog):
    import threading

    monkeypatch.setattr(analyzer_module, "_licence_shown", threading.Event())
    with caplog.at_level(logging.WARNING, "facecdm"):
        reports = [analyzer.report(), analyzer.report()]
    assert "non-commercial" in reports[0] and "non-commercial" not in reports[1]
    assert caplog.text.count("non-commercial") == 1


def test_only_the_needed_files_are_opened(insightface_folder, monkeypatch):
    from insightface import model_zoo

    opened, real = [], model_zoo.get_model
    monkeypatch.setattr(model_zoo, "get_model", lambda path, **k: opened.append(Path(path).name) or real(path, **k))
    open_pack([insightface_folder], "buffalo_s", "CPU")
    assert opened == ["det_500m.onnx", "w600k_mbf.onnx"]


def test_unload_frees_and_the_next_use_loads_again(insightface_folder, astronaut):
    analyzer = open_pack([insightface_folder], "buffalo_s", "CPU")
    before = detect_faces(analyzer, astronaut).faces.raw
    analyzer.unload()
    assert not analyzer.loaded
    assert detect_faces(analyzer, astronaut).faces.raw.equal(before) and analyzer.loaded


def test_copies_share_the_sessions(analyzer):
    assert copy.deepcopy(analyzer) is analyzer


def test_threads_may_share_an_analyzer(analyzer, astronaut, faceworld):
    pictures = [astronaut, faceworld["0005"][:1], faceworld["0006"][:1]] * 2
    alone = [detect_faces(analyzer, picture).faces.raw for picture in pictures[:3]]
    with ThreadPoolExecutor(3) as pool:
        together = list(pool.map(lambda picture: detect_faces(analyzer, picture).faces.raw, pictures))
    assert all(raw.equal(alone[i % 3]) for i, raw in enumerate(together))


def test_an_unknown_pack_lists_those_present_and_the_folder(insightface_folder):
    with pytest.raises(MissingModel, match=r"'antelopev2' not found \(found: buffalo_s; searched: .*insightface"):
        open_pack([insightface_folder], "antelopev2")


def test_a_file_damaged_inside_is_a_bad_file(pack_folder, tmp_path):
    """Its outline is whole, so only ONNX Runtime can notice."""
    folder = tmp_path / "models" / "spoilt"
    shutil.copytree(pack_folder, folder)
    data = bytearray((folder / "w600k_mbf.onnx").read_bytes())
    data = data.replace(b"Conv", b"Cxnv")
    (folder / "w600k_mbf.onnx").write_bytes(data)
    with pytest.raises(BadFile, match="w600k_mbf.onnx cannot be opened"):
        open_pack([tmp_path], "spoilt", "CPU")


def test_missing_insightface_tells_the_exact_command(monkeypatch):
    monkeypatch.setitem(sys.modules, "insightface", None)
    with pytest.raises(MissingPackage, match="pip install --no-deps --upgrade insightface") as caught:
        providers.import_insightface()
    assert "install onnxruntime" not in str(caught.value)  # there is one already
    monkeypatch.setattr(providers, "installed_runtimes", list)
    with pytest.raises(MissingPackage, match=r"pip install .*onnxruntime`.*onnxruntime-gpu"):
        providers.import_insightface()

import shutil
from pathlib import Path

import pytest

from facecdm.errors import BadFile, MissingModel
from facecdm.faces.onnxinfo import Signature, read_signature
from facecdm.faces.packs import find_packs, sort_pack, task_of


def test_what_a_model_does_is_read_from_the_file_itself(pack_folder: Path):
    tasks = {path.name: task_of(read_signature(path)) for path in pack_folder.glob("*.onnx")}
    assert tasks == {
        "det_500m.onnx": "detection",
        "w600k_mbf.onnx": "recognition",
        "2d106det.onnx": "landmark_2d_106",
    }


def test_reading_agrees_with_onnx_runtime(pack_folder: Path):
    import onnxruntime

    for path in pack_folder.glob("*.onnx"):
        session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
        sizes = [
            tuple(tuple(d if isinstance(d, int) else None for d in value.shape) for value in values)
            for values in (session.get_inputs(), session.get_outputs())
        ]
        assert read_signature(path) == Signature(*sizes)


def test_weights_listed_as_inputs_are_left_out(tmp_path: Path):
    import numpy as np
    from onnx import TensorProto, helper, numpy_helper, save

    value = helper.make_tensor_value_info
    weight = numpy_helper.from_array(np.ones((3, 3), np.float32), "w")
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"])],
        "old style",
        [value("w", TensorProto.FLOAT, [3, 3]), value("x", TensorProto.FLOAT, ["n", 3])],
        [value("y", TensorProto.FLOAT, ["n", 3])],
        [weight],
    )
    save(helper.make_model(graph), tmp_path / "old.onnx")
    assert read_signature(tmp_path / "old.onnx") == Signature(((None, 3),), ((None, 3),))


@pytest.mark.parametrize(
    ("inputs", "outputs", "task"),
    [
        (((1, 3, None, None),), ((None, 1),) * 6, "detection without key points"),
        (((1, 3, 192, 192),), ((1, 3309),), "landmark_3d_68"),
        (((None, 3, 96, 96),), ((1, 3),), "genderage"),
        (((1, 3, 128, 128), (1, 512)), ((1, 3, 128, 128),), "swap"),
        (((None, 3, 112, 112),), ((None, 512),), "recognition"),
        (((None, 3, 224, 160),), ((None, 512),), "unknown"),
        ((), (), "unknown"),
    ],
)
def test_other_files_of_packs_are_recognised(inputs, outputs, task):
    assert task_of(Signature(inputs, outputs)) == task


@pytest.mark.parametrize("kept", [0, 1, 100, 5000, 0.5, -1])
def test_a_truncated_file_is_a_bad_file_that_is_named(pack_folder: Path, tmp_path: Path, kept):
    data = (pack_folder / "w600k_mbf.onnx").read_bytes()
    cut = tmp_path / "cut.onnx"
    cut.write_bytes(data[: int(len(data) * kept)] if isinstance(kept, float) else data[:kept])
    with pytest.raises(BadFile, match="cut.onnx"):
        read_signature(cut)


def test_a_folder_named_as_onnx_is_a_bad_file(tmp_path: Path):
    (tmp_path / "folder.onnx").mkdir()
    with pytest.raises(BadFile, match="folder.onnx is not a file"):
        read_signature(tmp_path / "folder.onnx")


def test_a_web_page_saved_as_onnx_is_a_bad_file(tmp_path: Path):
    page = tmp_path / "page.onnx"
    page.write_text("<!doctype html><html>404 not found</html>" * 50)
    with pytest.raises(BadFile, match="page.onnx"):
        read_signature(page)


def lay_out(source: Path, target: Path, *files: str) -> Path:
    target.mkdir(parents=True)
    for file in files:
        shutil.copy(source / file, target / file)
    return target


def test_packs_are_found_where_people_put_them(pack_folder: Path, tmp_path: Path):
    nested = lay_out(pack_folder, tmp_path / "a/models/antelopev2/antelopev2", "det_500m.onnx", "w600k_mbf.onnx")
    beside = lay_out(pack_folder, tmp_path / "a/buffalo_s", "det_500m.onnx")
    extra = lay_out(pack_folder, tmp_path / "b/models/mine", "det_500m.onnx")
    lay_out(pack_folder, tmp_path / "b/models/buffalo_s", "det_500m.onnx")
    (tmp_path / "a/models/empty").mkdir()
    found = find_packs([tmp_path / "a", tmp_path / "b", tmp_path / "nowhere"])
    assert found == {"antelopev2": nested, "buffalo_s": beside, "mine": extra}
    assert sort_pack("antelopev2", nested).recogniser_name == "antelopev2/w600k_mbf.onnx"


def test_the_error_for_a_pack_without_recogniser_lists_its_files_and_what_to_get(pack_folder: Path, tmp_path: Path):
    folder = lay_out(pack_folder, tmp_path / "half", "det_500m.onnx", "2d106det.onnx")
    with pytest.raises(MissingModel, match=r"no model for recognition .*det_500m.onnx: detection.*buffalo_l"):
        sort_pack("half", folder)


def test_a_pack_whose_recogniser_is_cut_off_names_that_file(pack_folder: Path, tmp_path: Path):
    folder = lay_out(pack_folder, tmp_path / "half", "det_500m.onnx")
    (folder / "w600k_mbf.onnx").write_bytes((pack_folder / "w600k_mbf.onnx").read_bytes()[:9000])
    with pytest.raises(BadFile, match="w600k_mbf.onnx"):
        sort_pack("half", folder)


def test_a_broken_file_that_is_not_needed_does_no_harm(pack_folder: Path, tmp_path: Path):
    folder = lay_out(pack_folder, tmp_path / "pack", "det_500m.onnx", "w600k_mbf.onnx")
    (folder / "genderage.onnx").write_bytes(b"\x08\x07:\xff\xff")
    assert sort_pack("pack", folder).detector.name == "det_500m.onnx"
    with pytest.raises(BadFile, match="genderage.onnx"):
        sort_pack("pack", folder, landmarks=True)


def test_sorting_a_pack_makes_no_session(pack_folder: Path, monkeypatch):
    """A session would take seconds."""
    import onnxruntime

    monkeypatch.setattr(onnxruntime, "InferenceSession", None)
    sort_pack("buffalo_s", pack_folder, landmarks=True)

"""The face nodes as ComfyUI runs them: V3 classes in inference mode, with its folders."""

import inspect
from pathlib import Path

import pytest
import torch

DETECT = {
    "choice": "largest", "index": 0, "min_score": 0.5, "no_face": "skip", "crop_size": 112,
    "crop_margin": 0.0, "mask_grow": 1.0, "mask_feather": 0.15, "detection_size": 640, "search_harder": True,
}  # fmt: skip


@pytest.fixture(scope="module")
def nodes(in_comfy) -> dict[str, type]:
    modules = [in_comfy.module(f"nodes.{name}") for name in ("faces", "face_library")]
    return {node.GET_SCHEMA().node_id.removeprefix("FaceCDM"): node for module in modules for node in module.NODES}


@pytest.fixture(scope="module")
def run(nodes):
    def run(name, /, **inputs):
        with torch.inference_mode():
            return nodes[name].PREPARE_CLASS_CLONE(None).EXECUTE_NORMALIZED(**inputs)

    return run


@pytest.fixture(scope="module")
def analyzer(run):
    return run("LoadFaceAnalyzer", pack="buffalo_s", provider="CPU", landmarks=False).result[0]


@pytest.fixture(scope="module")
def detected(run, analyzer, astronaut):
    return run("DetectFaces", analyzer=analyzer, image=astronaut, name=" Eileen ", **DETECT)


def test_a_crop_of_any_margin_is_found_in_its_picture(in_comfy, nodes):
    """The search for a face's picture (faces/source_picture.py) tries all margins of the node."""
    entry = next(entry for entry in nodes["DetectFaces"].define_schema().inputs if entry.id == "crop_margin")
    margins = in_comfy.module("facecdm.faces.source_picture").MARGINS
    assert (margins[0], margins[-1]) == (entry.min, entry.max) and margins[1] == entry.step


def test_ids_schemas_and_execute_agree(nodes):
    assert set(nodes) == {
        "LoadFaceAnalyzer",
        "DetectFaces",
        "CombineFaces",
        "SaveFaces",
        "LoadFaces",
        "CompareFaces",
    }
    for node in nodes.values():
        schema = node.GET_SCHEMA()
        assert schema.description and schema.category == "FaceCDM/faces"
        assert all(entry.tooltip and entry.tooltip.endswith(".") for entry in [*schema.inputs, *schema.outputs])
        parameters = inspect.signature(node.execute).parameters
        free = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
        assert free or {entry.id for entry in schema.inputs} == set(parameters)
        help_page = Path(__file__).parents[2] / "web" / "docs" / f"{schema.node_id}.md"
        text = help_page.read_text(encoding="utf-8")
        assert all(f"`{entry.id}`" in text for entry in schema.inputs), help_page


def test_analyzer_node(in_comfy, nodes, run):
    options = {entry.id: entry.options for entry in nodes["LoadFaceAnalyzer"].GET_SCHEMA().inputs[:2]}
    assert options["pack"] == ["buffalo_s"] and "CoreML" in options["provider"]
    report = run("LoadFaceAnalyzer", pack="buffalo_s", provider="CUDA", landmarks=True).result[1]
    assert "on CPU" in report and "CUDA was asked for" in report and "2d106det.onnx" in report
    check = nodes["LoadFaceAnalyzer"].validate_inputs
    assert check("buffalo_s") is True and check() is True and "buffalo_l" in check("antelopev2")
    with pytest.raises(in_comfy.module("facecdm.errors").FaceCDMError, match="provider must be one of .*'TPU'"):
        run("LoadFaceAnalyzer", pack="buffalo_s", provider="TPU", landmarks=False)
    with pytest.raises(in_comfy.module("facecdm.errors").MissingModel):
        run("LoadFaceAnalyzer", pack="antelopev2", provider="CPU", landmarks=False)


def test_detect_node(detected, in_comfy):
    faces, crops, mask, preview, report = detected.result
    assert len(faces) == 1 and faces[0].name == "Eileen" and not faces[0].embedding.is_inference()
    assert crops.shape == (1, 112, 112, 3) and mask.shape == (1, 512, 512) and preview.shape == (1, 512, 512, 3)
    assert "1 face from 1 picture" in report
    (image,) = detected.ui.as_dict()["images"]
    assert (in_comfy.base / "temp" / image["filename"]).is_file()


def test_detect_node_without_a_face(run, analyzer, in_comfy):
    noise = torch.zeros(2, 64, 64, 3)
    faces, crops, mask, preview, report = run("DetectFaces", analyzer=analyzer, image=noise, **DETECT).result
    assert len(faces) == 0 and crops.shape == (1, 112, 112, 3) and mask.shape == (2, 64, 64)
    errors = in_comfy.module("facecdm.errors")
    with pytest.raises(errors.NoFace, match="Picture 0"):
        run("DetectFaces", analyzer=analyzer, image=noise, **{**DETECT, "no_face": "error"})
    for consumer, inputs in (
        ("SaveFaces", {"faces": faces, "name": "nobody", "overwrite": False}),
        ("CompareFaces", {"faces_a": faces}),
        ("CombineFaces", {"mode": "weighted mean", "blend": 0.5, "faces_1": faces}),
    ):
        with pytest.raises(errors.NoFace, match="holds no face"):
            run(consumer, **inputs)


def test_progress_and_interrupt(run, analyzer, astronaut):
    import comfy.utils

    steps = []
    comfy.utils.set_progress_bar_global_hook(lambda value, total, *_, **__: steps.append((value, total)))
    try:
        run("DetectFaces", analyzer=analyzer, image=astronaut.repeat(3, 1, 1, 1), **DETECT)
    finally:
        comfy.utils.set_progress_bar_global_hook(None)
    assert steps[-3:] == [(1, 3), (2, 3), (3, 3)]


def test_unload_after(run, analyzer, astronaut):
    run("DetectFaces", analyzer=analyzer, image=astronaut, unload_after=True, **DETECT)
    assert not analyzer.loaded


def test_save_then_load(run, nodes, detected, in_comfy):
    faces = detected.result[0]
    load = nodes["LoadFaces"]
    first = run("SaveFaces", faces=faces, name="Eileen", overwrite=False)
    assert first.result == (faces, "Eileen.safetensors")
    assert (in_comfy.base / "models" / "facecdm_faces" / "Eileen.safetensors").is_file()
    assert "Eileen.safetensors" in load.GET_SCHEMA().inputs[0].options
    assert load.validate_inputs("Eileen.safetensors") is True
    assert run("LoadFaces", file="Eileen.safetensors").result[0].raw.equal(faces.raw)
    mark = load.fingerprint_inputs("Eileen.safetensors")
    assert load.fingerprint_inputs("Eileen.safetensors") == mark
    both = run("CombineFaces", mode="concatenate", blend=0.5, faces_1=faces, faces_2=faces).result[0]
    run("SaveFaces", faces=both, name="Eileen", overwrite=True)
    assert load.fingerprint_inputs("Eileen.safetensors") != mark
    assert len(run("LoadFaces", file="Eileen.safetensors").result[0]) == 2


def test_load_refuses_other_files(nodes, run, in_comfy, detected):
    check = nodes["LoadFaces"].validate_inputs
    assert "cannot be the name" in check("../../secret") and "no file nobody.safetensors" in check("nobody")
    assert (
        nodes["LoadFaces"].fingerprint_inputs("nobody") == "missing" and nodes["LoadFaces"].fingerprint_inputs() == ""
    )
    with pytest.raises(in_comfy.module("facecdm.errors").UnsafeName):
        run("SaveFaces", faces=detected.result[0], name="../x", overwrite=False)


def test_faces_are_not_offered_as_adapters(run, detected):
    """facecdm (adapters) and facecdm_faces are different folders: ComfyUI lists subfolders, too."""
    import folder_paths

    run("SaveFaces", faces=detected.result[0], name="Grace", overwrite=False)
    assert not any("Grace" in name for name in folder_paths.get_filename_list("facecdm"))


def test_combine_node(run, detected, analyzer, astronaut):
    faces = detected.result[0]
    mirrored = run("DetectFaces", analyzer=analyzer, image=astronaut.flip(2), name="mirror", **DETECT).result[0]
    mean = run("CombineFaces", mode="weighted mean", blend=0.5, faces_1=faces, faces_3=mirrored, weight_1=1.0,
               weight_2=1.0, weight_3=0.0).result[0]  # fmt: skip
    assert torch.allclose(mean.raw, faces.raw, atol=1e-4)  # the mirrored one weighs nothing
    blend = run("CombineFaces", mode="blend two people", blend=1.0, faces_1=faces, faces_2=mirrored).result[0]
    assert torch.allclose(blend.raw, mirrored.raw, atol=1e-4)


def test_compare_node(run, detected):
    faces = detected.result[0]
    output = run("CompareFaces", faces_a=faces, faces_b=faces)
    table, picture, mean, lowest, highest = output.result
    assert "| Eileen | 1.000 |" in table and picture.ndim == 4
    assert mean == lowest == highest == pytest.approx(1) and output.ui.as_dict()["images"]

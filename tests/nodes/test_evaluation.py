"""Evaluate Identity as ComfyUI runs it."""

import sys
from pathlib import Path

import flux_comfy
import numpy as np
import pytest
import torch
from PIL import Image


@pytest.fixture(scope="module")
def analyzer(in_comfy):
    return in_comfy.run("FaceCDMLoadFaceAnalyzer", pack="buffalo_s", provider="CPU", landmarks=False)[0]


@pytest.fixture(scope="module")
def views(faceworld_val) -> torch.Tensor:
    """[3, 256, 256, 3]: one person."""
    pictures = [Image.open(path).convert("RGB") for path in sorted((faceworld_val / "0005").glob("*.webp"))]
    return torch.from_numpy(np.stack(pictures)).float() / 255


@pytest.fixture(scope="module")
def evaluate(in_comfy, analyzer, views):
    def run(images, **changes):
        inputs = {"reference": views[:1], "analyzer": analyzer, "second_opinion": False, "name": "test"}
        return in_comfy.run("FaceCDMEvaluateIdentity", images=images, **inputs | changes)

    return run


def test_table_plot_and_report(evaluate, views):
    table, plot, similarity, found, path = evaluate(views[1:2], held_out=views[2:3], without_identity=views[1:2])
    assert "with identity" in table and "without identity" in table and plot.ndim == 4
    assert 0.3 < similarity <= 1 and found == 1 and Path(path).is_file()


def test_grey_and_rgba_pictures(evaluate, views):
    grey, alpha = views[1:2].mean(-1, keepdim=True), torch.rand(1, 256, 256, 1)
    assert evaluate(grey)[2] > 0.3
    assert evaluate(torch.cat([views[1:2], alpha], -1))[2] == pytest.approx(evaluate(views[1:2])[2])


def test_what_cannot_be_evaluated_is_named(evaluate, views, errors):
    with pytest.raises(errors.FaceCDMError, match="images is an empty batch"):
        evaluate(views[:0])
    with pytest.raises(errors.FaceCDMError, match="images 1 holds NaN"):
        evaluate(views[1:2] * torch.nan)
    with pytest.raises(errors.FaceCDMError, match="No picture of images could be measured. 1 picture left out: images"):
        evaluate(views[1:2] * torch.nan, without_identity=views[1:2])
    with pytest.raises(errors.FaceCDMError, match="reference has 2 pictures and images has 1"):
        evaluate(views[1:2], reference=views[:2])
    with pytest.raises(errors.NoFace, match="no face was found in reference 1, the reference photo of person 1"):
        evaluate(views[1:2], reference=torch.zeros(1, 64, 64, 3))


def test_what_is_left_out_is_a_warning_on_the_node(evaluate, views, caplog):
    """A broken picture, broken others, and pictures of another size, of which the rest is measured."""
    broken = torch.cat([views[1:2], views[1:2] * torch.nan])
    small = torch.nn.functional.interpolate(views[1:2].movedim(-1, 1), (128, 128)).movedim(1, -1)
    table, _, similarity, found, _ = evaluate(broken, others=views[:1] * torch.inf, without_identity=small)
    assert similarity == pytest.approx(evaluate(views[1:2])[2]) and found == 1
    assert "| with identity | 1 | 1 |" in table and "change" not in table.splitlines()[2]
    for text in (
        "1 picture left out: images 2 holds NaN",
        "others: others 1 holds NaN",
        "change: not measured between pictures of 256 × 256 and 128 × 128 pixels",
    ):
        assert f"FaceCDM: {text}" in caplog.text


def test_without_matplotlib_it_says_so_before_it_measures(evaluate, views, errors, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(errors.MissingPackage, match="pip install matplotlib"):
        evaluate(views[1:2], reference=torch.zeros(1, 64, 64, 3))  # measuring would name the reference


@pytest.fixture(scope="module")
def towers(in_comfy):
    _, clip, _, vision = in_comfy.run("FaceCDMLoadDemoModel")
    return {"clip": clip, "clip_vision": vision}


def test_adherence_by_clip(evaluate, views, towers):
    """The second view has a yellow shirt, and the third a red one; the reference's is blue."""
    right, wrong = (
        evaluate(
            views[1:3],
            prompts="a woman, blond hair, yellow shirt\na woman, brown hair, red shirt",
            attributes="\n".join(f"shirt: {value} / blue" for value in values),
            **towers,
        )[0]
        for values in (("yellow", "red"), ("red", "yellow"))
    )
    assert _mean(right, "adherence") == _mean(right, "adherence, conflict") == 1 and _mean(wrong, "adherence") == 0
    assert 0 < _mean(right, "prompt") < 1


def _mean(table: str, measure: str) -> float:
    """The mean of a measure in a table of one condition."""
    lines = [line for line in table.splitlines() if line.startswith("|")]
    names, values = ([cell.strip() for cell in line.split("|")] for line in (lines[0], lines[2]))
    return float(values[names.index(measure)].split()[0])


def test_prompts_and_attributes_that_cannot_be_used(evaluate, views, towers, errors, in_comfy):
    with pytest.raises(errors.FaceCDMError, match="prompts has 3 lines and images has 1"):
        evaluate(views[1:2], prompts="a\nb\nc", **towers)
    with pytest.raises(errors.FaceCDMError, match="'laughing' has no name"):
        evaluate(views[1:2], attributes="laughing", **towers)
    with pytest.raises(errors.FaceCDMError, match="'hair' has only 'red'"):
        evaluate(views[1:2], attributes="hair: red", **towers)
    module = in_comfy.module("nodes.evaluation")
    assert module._lines("prompts", "\nb\n", 2) == ["", "b"], "the first picture has none"
    assert module._lines("prompts", "a\n\n", 3) == ["a", "a", "a"] and module._lines("prompts", " \n", 2) == ["", ""]
    assert "no effect without clip" in module.PictureTexts(["a"], [""]).without_effect(towers["clip"], None)[0]
    assert "no effect without prompts" in module.PictureTexts([""], [""]).without_effect(*towers.values())[0]
    assert module.PictureTexts(["a"], [""]).without_effect(*towers.values()) == []


def test_towers_of_different_models_are_refused(make_vision, towers, in_comfy, errors):
    towers_of = in_comfy.module("facecdm.hosts.comfy.clip_towers").ComfyTowers
    with pytest.raises(errors.Mismatch, match="embeds texts in 192 features and clip_vision pictures in 8"):
        towers_of(towers["clip"], make_vision(32))
    with pytest.raises(errors.Mismatch, match="a text encoder without CLIP"):
        towers_of(flux_comfy.make_clip("Chroma"), towers["clip_vision"])

"""Load EVA CLIP (PuLID), as ComfyUI runs it."""

import pytest
import torch

NAME = "EVA02_CLIP_L_336_psz14_s6B.pt"


@pytest.fixture(scope="module")
def eva(in_comfy):
    return in_comfy.module("facecdm.formats.eva")


@pytest.fixture(scope="module")
def folder(in_comfy, eva):
    """models/clip_vision with a tower of PuLID's depth, narrower, as EVA-CLIP's authors save theirs."""
    torch.manual_seed(0)
    tower = eva.EvaTower(eva.EvaSizes(image=84, width=64, heads=1, hidden=96, depth=24, out=24))
    state = {f"visual.{key}": torch.randn_like(value) * 0.1 for key, value in tower.state_dict().items()}
    folder = in_comfy.base / "models" / "clip_vision"
    folder.mkdir(parents=True, exist_ok=True)
    torch.save(state | {"text.token_embedding.weight": torch.zeros(1)}, folder / NAME)
    return folder


@pytest.fixture
def portrait(make_faces, found_in):
    """(FACES, the picture that they were found in)"""
    picture = torch.rand(1, 10, 10, 3, generator=torch.Generator().manual_seed(0))
    return lambda count=1: (found_in(make_faces(count), picture), picture)


@pytest.fixture(scope="module")
def loaded(in_comfy, folder):
    return in_comfy.run("FaceCDMLoadEvaClip", name=NAME)


def test_it_is_listed(in_comfy, folder):
    schema = in_comfy.nodes["FaceCDMLoadEvaClip"].define_schema()
    assert schema.inputs[0].options == [NAME]


def test_it_encodes_faces_in_their_picture(loaded, portrait):
    vision, report = loaded
    assert NAME in report and "oval" in report and "models/facexlib" in report
    embedding, states = vision.encode_faces(*portrait(2))
    assert embedding.shape == (2, 24) and [state.shape for state in states] == [(2, 37, 64)] * 5
    assert torch.isfinite(embedding).all()
    assert {embedding.dtype, *(state.dtype for state in states)} == {torch.float32}


def test_many_faces_are_encoded_as_each_alone(loaded, portrait):
    faces, pictures = portrait(18)
    embedding, states = loaded[0].encode_faces(faces, pictures)
    last, last_states = loaded[0].encode_faces(type(faces)(faces[-1:], faces.recogniser), pictures)
    torch.testing.assert_close(embedding[-1:], last)
    torch.testing.assert_close(states[4][-1:], last_states[4])


def test_nan_is_an_error(in_comfy, loaded, portrait):
    weight = loaded[0].model.norm.weight
    kept = weight.data.clone()
    weight.data.fill_(float("nan"))
    try:
        with pytest.raises(in_comfy.module("facecdm.errors").FaceCDMError, match="EVA-CLIP gave NaN.*--fp32-text-enc"):
            loaded[0].encode_faces(*portrait())
    finally:
        weight.data.copy_(kept)


def test_the_parser_is_found(in_comfy, folder, portrait, loaded):
    bisenet = in_comfy.module("facecdm.formats.bisenet")
    parsers = in_comfy.base / "models" / "facexlib"
    parsers.mkdir(exist_ok=True)
    torch.manual_seed(1)
    torch.save(bisenet.BiSeNet().state_dict(), parsers / bisenet.FILE)
    fingerprint = in_comfy.nodes["FaceCDMLoadEvaClip"].fingerprint_inputs
    try:
        with_parser = fingerprint(name=NAME)
        vision, report = in_comfy.run("FaceCDMLoadEvaClip", name=NAME)
    finally:
        (parsers / bisenet.FILE).unlink()
    assert fingerprint(name=NAME) != with_parser, "so that the tower is loaded again with the parser"
    assert fingerprint(name="gone.pt").startswith("missing") and fingerprint().startswith("missing")
    assert f"face parser {parsers / bisenet.FILE}" in report
    assert not vision.encode_faces(*portrait())[0].equal(loaded[0].encode_faces(*portrait())[0])


def test_a_missing_file(in_comfy, folder):
    message = in_comfy.nodes["FaceCDMLoadEvaClip"].validate_inputs(name="none found")
    assert NAME in message and "models/clip_vision" in message


def test_core_nodes_get_an_error(in_comfy, loaded):
    import nodes

    with pytest.raises(in_comfy.module("facecdm.errors").FaceCDMError, match="PuLID's vision tower.*Load CLIP Vision"):
        nodes.CLIPVisionEncode().encode(loaded[0], torch.rand(1, 8, 8, 3), "center")


def test_the_adapters_own_tower_warns_once_of_the_oval(in_comfy, folder, portrait, monkeypatch):
    """Load FaceCDM Adapter's clip_vision, which has no report."""
    from types import SimpleNamespace

    towers = in_comfy.module("nodes.towers")
    warnings = []
    monkeypatch.setattr(towers.running_node, "warn", warnings.extend)
    encoder = in_comfy.module("facecdm.formats.encoders").EVA
    monkeypatch.setattr(towers, "_encoder_of", lambda config: encoder)
    vision = towers.tower_of_adapter(SimpleNamespace(config=None), NAME)
    assert not warnings
    for _ in range(2):
        vision.encode_faces(*portrait())
    (text,) = warnings
    assert "oval around the face" in text and "models/facexlib" in text

"""What the server lets through and the nodes refuse; warnings; the names of error types."""

import math

import pytest
import torch

NUMBERS = {
    "FaceCDMDetectFaces": {"analyzer": None, "image": torch.zeros(1, 8, 8, 3)},
    "FaceCDMCombineFaces": {"faces_1": None, "mode": "concatenate"},
    "FaceCDMExtractPose": {"image": torch.zeros(1, 8, 8, 3)},
    "FaceCDMEditPose": {"pose": []},
    "FaceCDMDetailFaces": {"image": torch.zeros(1, 8, 8, 3), "model": None, "vae": None},
}


def entries(in_comfy, node_id: str) -> dict:
    return {entry.id: entry for entry in in_comfy.nodes[node_id].define_schema().inputs}


@pytest.mark.parametrize("node_id", NUMBERS)
def test_a_number_out_of_range_is_refused_with_its_name(in_comfy, errors, node_id):
    """NaN and linked numbers pass the server's own check."""
    inputs = entries(in_comfy, node_id)
    numbers = [name for name, entry in inputs.items() if entry.get_io_type() in ("FLOAT", "INT")]
    defaults = {name: entry.default for name, entry in inputs.items() if getattr(entry, "default", None) is not None}
    for name in numbers:
        for value in (math.nan, math.inf, -math.inf, 10**400, -(10**9), "7", [1]):
            with pytest.raises(errors.FaceCDMError, match=f"{name} must be a number from") as caught:
                in_comfy.run(node_id, **NUMBERS[node_id] | defaults | {name: value})
            assert len(str(caught.value)) <= 1000
    assert numbers


def test_an_error_type_shows_no_local_path(in_comfy, errors):
    """ComfyUI reports `module.name`, and imports the pack under the path of its folder."""
    assert errors.FaceCDMError.__module__ == errors.NoFace.__module__ == "facecdm.errors"
    assert in_comfy.module("facecdm.faces.value").BadFace.__module__ == "facecdm.faces.value"
    assert in_comfy.module("facecdm.comfy_api.errors").JobLost.__module__ == "facecdm.comfy_api.errors"


def test_a_long_message_keeps_its_start_and_its_end(errors):
    text = str(errors.BadFile("first" + "x" * 5000 + "last"))
    assert len(text) <= 1000 and text.startswith("first") and text.endswith("last")


def test_warnings_are_shown_on_the_node_and_logged(in_comfy, caplog):
    output = in_comfy.module("nodes.warn").output
    assert output(1).ui is None
    assert output(1, warnings=["pose has no effect."]).ui == {"facecdm_warnings": ["pose has no effect."]}
    assert "FaceCDM: pose has no effect." in caplog.text

import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from facecdm.adapter.config import AdapterConfig, content_of
from facecdm.adapter.curves import CURVES, layer_factors, parse_curve
from facecdm.bases import BASES
from facecdm.errors import BadFile, FaceCDMError


def test_config_survives_json():
    config = AdapterConfig(BASES["SDXL"].layer_map, image_width=1280, recogniser="antelopev2/glintr100.onnx")
    assert AdapterConfig.loads(config.dumps(), "a.safetensors") == config


def test_spatial_tokens_keep_their_name_in_files():
    """Adapters and training states from before the rename hold "places"."""
    config = AdapterConfig(BASES["FaceCDM demo"].layer_map, face_tokens=16, spatial_tokens=True)
    text = config.dumps()
    assert json.loads(text)["places"] is True and "spatial_tokens" not in text
    assert AdapterConfig.loads(text, "a.safetensors") == config
    assert AdapterConfig.loads(text.replace('"places"', '"spatial_tokens"'), "a.safetensors") == config


def test_each_of_many_tokens_carries_48_features_by_default():
    assert [content_of(tokens) for tokens in (4, 64, 65, 256)] == [0, 0, 48, 48]


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"layer_map": 1}', '{"surprise": 1}'])
def test_a_foreign_config_is_refused_by_name(text):
    with pytest.raises(BadFile, match="a.safetensors"):
        AdapterConfig.loads(text, "a.safetensors")


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])  # a busy machine is no fault
@given(st.lists(st.floats(-10, 10), min_size=1, max_size=9))
def test_a_curve_starts_and_ends_at_its_values(values):
    layer_map = BASES["SD1.5"].layer_map
    factors = layer_factors(tuple(values), layer_map)
    order = layer_map.by_depth
    assert factors[order[0]] == pytest.approx(values[0])
    assert factors[order[-1]] == pytest.approx(values[-1])
    assert min(values) - 1e-9 <= min(factors) and max(factors) <= max(values) + 1e-9


def test_flat_is_one_everywhere():
    assert set(layer_factors(CURVES["flat"], BASES["SDXL"].layer_map)) == {1.0}


@pytest.mark.parametrize("text", ["", "a, b", "1e9", "nan", "1,,x"])
def test_invalid_curves_are_refused(text):
    with pytest.raises(FaceCDMError, match="custom_curve"):
        parse_curve(text)


def test_curves_are_read():
    assert parse_curve("0, .5; 1,") == (0.0, 0.5, 1.0)

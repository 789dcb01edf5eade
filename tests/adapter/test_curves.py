"""Curves by name, and blocks of a picture's style and composition, where IPAdapter_plus' users know them."""

import pytest

from facecdm.adapter.curves import CURVES, NAMES, PRESETS, block_factors, factors_of
from facecdm.bases import BASES
from facecdm.errors import FaceCDMError


def active(name: str, base: str) -> set[int]:
    """Indices of IP-Adapter's layers (input, output, middle) that take part."""
    return {i for i, factor in enumerate(factors_of(name, "", BASES[base].layer_map)) if factor}


def test_sdxl_style_and_composition_are_instantstyles():
    """up_blocks.0.attentions.1 and down_blocks.2.attentions.1, ten layers each."""
    assert active("style", "SDXL") == set(range(34, 44))
    assert active("composition", "SDXL") == set(range(14, 24))
    assert active("style and composition", "SDXL") == set(range(34, 44)) | set(range(14, 24))
    assert active("strong style", "SDXL") == set(range(70)) - set(range(14, 24))


def test_sd15_blocks_are_ipadapter_plus():
    """Its numbers count blocks as a picture passes them: 4 and 5 are the last input blocks, 6 is the middle."""
    assert (
        active("composition", "SD1.5") == {4, 5} and factors_of("composition", "", BASES["SD1.5"].layer_map)[4] == 0.25
    )
    assert active("style", "SD1.5") == {0, 1, 2, 3} | set(range(8, 15))
    assert active("strong style", "SD1.5") == set(range(16)) - {4, 5}


def test_factors_of_presets_and_curves():
    for base in ("SD1.5", "SDXL"):
        layer_map = BASES[base].layer_map
        for name in ("style", "strong style"):
            assert set(factors_of(name, "", layer_map)) == {0.0, 1.0}
    assert set(factors_of("composition", "", BASES["SDXL"].layer_map)) == {0.0, 1.0}
    ends = {name: (values[0], max(values), values[-1]) for name, values in CURVES.items()}
    assert ends["strong middle"] == (0.0, 1.0, 0.0) and ends["ease in"] == (0.0, 1.0, 1.0)


def test_single_blocks_by_number():
    factors = factors_of("custom", "6:0.5; 0:2", BASES["SD1.5"].layer_map)
    assert factors[15] == 0.5 and factors[0] == 2.0 and sum(factors) == 2.5, "block 6 is the middle, the last layer"
    assert factors_of("custom", "0, 1", BASES["SD1.5"].layer_map) == factors_of("ease in", "", BASES["SD1.5"].layer_map)


def test_invalid_block_numbers_are_refused():
    with pytest.raises(FaceCDMError, match="custom_curve names block 11; SDXL has the blocks 0 to 10"):
        factors_of("custom", "11:1", BASES["SDXL"].layer_map)
    for text in ("3:a", "a:1", "3:1:2", "3:1000"):
        with pytest.raises(FaceCDMError, match="custom_curve"):
            factors_of("custom", text, BASES["SDXL"].layer_map)
    for text in ("11:1", "3:a", "x"):
        with pytest.raises(FaceCDMError, match="^image_custom_curve "):
            factors_of("custom", text, BASES["SDXL"].layer_map, "image_custom_curve")
    with pytest.raises(FaceCDMError, match="style is a preset of SD1.5, SD2, SDXL, and this adapter"):
        factors_of("style", "", BASES["FaceCDM demo"].layer_map)


def test_every_name_has_factors():
    for base in ("SD1.5", "SD2", "SDXL"):
        for name in NAMES:
            assert len(factors_of(name, "1", BASES[base].layer_map)) == len(BASES[base].layer_map.layers)
    assert set(PRESETS) < set(NAMES) and block_factors({}, BASES["SDXL"].layer_map, "x") == (0.0,) * 70

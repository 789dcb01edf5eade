"""What an adapter's inputs say about themselves: weights of references, and inputs without effect."""

from types import SimpleNamespace

import pytest

from facecdm.adapter.references import MEAN, PER_PICTURE, SIDE_BY_SIDE
from facecdm.formats.encoders import ENCODERS
from facecdm.formats.families import FAMILIES
from facecdm.formats.sources import Sources
from facecdm.formats.tower_files import find_tower
from facecdm.formats.unused_inputs import keep_prompt_without_effect


@pytest.mark.parametrize("mode,separate", [(MEAN, ()), (SIDE_BY_SIDE, (1.0, 2.0)), (PER_PICTURE, (1.0, 2.0))])
def test_weights_of_references_that_are_not_averaged(mode, separate):
    assert Sources(references=mode, weights=(1.0, 2.0)).separate_weights == separate


def test_keep_prompt_is_without_effect_where_all_streams_in_use_have_it():
    parts = {
        stream: SimpleNamespace(family=SimpleNamespace(kappa=kappa, name=name))
        for stream, kappa, name in (("face", 1.0, "PuLID"), ("image", 0.0, "IP-Adapter"))
    }
    (warning,) = keep_prompt_without_effect(parts, {"face"}, 0.5)
    assert warning.startswith("keep_prompt is 0.5 and has no effect: PuLID")
    for shown, keep in (({"face"}, 0.0), (set(), 0.5), ({"image"}, 0.5), ({"face", "image"}, 0.5)):
        assert keep_prompt_without_effect(parts, shown, keep) == ()


def test_a_file_that_is_no_tower_is_not_found_as_one(tmp_path):
    other = tmp_path / "other.safetensors"
    other.write_bytes(b"damaged")
    (tmp_path / "notes.txt").write_text("no weights")
    encoder = next(iter(ENCODERS))
    assert find_tower(encoder, tmp_path.iterdir()) is None
    named = tmp_path / f"{encoder.file.rsplit('.', 1)[0]}.bin"
    assert find_tower(encoder, [other, named]) == named


def test_families_declare_what_the_negative_prompt_gets_and_whose_tokens_controlnets_read():
    families = FAMILIES.values()
    assert {family.key for family in families if not family.recipe.empty} == {
        "instantx-flux",
        "infiniteyou",
        "withanyone",
        "withanyone-siglip",
    }
    in_blocks = {family.key for family in families if not family.layers.for_controlnets}
    instantx, withanyone = {"instantx-flux", "instantx-sd35"}, {"withanyone", "withanyone-siglip"}
    assert in_blocks == {"xlabs", "xlabs-v2", "pulid-flux", *instantx, *withanyone}

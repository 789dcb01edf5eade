"""What benchmarks/demo_bars.py and identity_bars.py say that a row misses."""

import importlib

import pytest

from facecdm.files import REPOSITORY


@pytest.fixture(scope="module")
def bars():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(REPOSITORY / "benchmarks")
        yield {name: importlib.import_module(f"{name}_bars") for name in ("demo", "identity")}


REAL = {"expression": 0.9, "sharpness": 100.0}
GOOD = {"face": 0.98, "background": 0.95, "shirt": 0.95, "precision": 0.8, "recall": 0.5, "identity": 0.95}
GOOD |= {"seconds": 5.0, "expression": 0.86, "sharpness": 80.0}


@pytest.mark.parametrize(
    "name, value",
    [("face", 0.97), ("expression", 0.84), ("sharpness", 74.0), ("sharpness", 126.0), ("seconds", 5.1)],
)
def test_a_base_misses_what_is_too_low_too_sharp_or_too_slow(bars, name, value):
    assert bars["demo"].missed(GOOD, REAL) == []
    assert bars["demo"].missed(GOOD | {name: value}, REAL) == [name]


def test_what_was_not_judged_is_not_missed(bars):
    unjudged = {name: value for name, value in GOOD.items() if name != "expression"}
    assert bars["demo"].missed(unjudged, REAL) == []


PLAIN = {"background": 0.95, "shirt": 0.95, "expression": 0.80}
SHOWN = {"cosine": 0.45, "rank1": 0.90, "face": 0.98, "background": 0.92, "shirt": 0.95, "expression": 0.75}


@pytest.mark.parametrize("name, value", [("cosine", 0.44), ("rank1", 0.89), ("background", 0.91), ("expression", 0.74)])
def test_an_adapter_misses_a_target_or_loses_against_no_identity(bars, name, value):
    identity = bars["identity"]
    assert identity.missed(SHOWN, PLAIN, identity.BARS) == []
    assert identity.missed(SHOWN | {name: value}, PLAIN, identity.BARS) == [name]
    assert "cosine" in identity.missed(SHOWN, PLAIN, identity.LOCATED)

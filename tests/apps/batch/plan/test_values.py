"""Values against declarations: valid ones are converted, others refused with a reason."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from facecdm.apps.batch.plan.values import declarations, fit, takes_file

WHOLE, PART = {"min": 1, "max": 100}, {"min": 0.0, "max": 1.0}
CHOICES = [["euler", "heun", 4], {}]


@pytest.mark.parametrize(
    ("value", "kind", "options", "expected"),
    [
        (4, "INT", WHOLE, 4),
        ("4", "INT", WHOLE, 4),
        (4.0, "INT", WHOLE, 4),
        (10**30, "INT", {}, 10**30),
        (0.5, "FLOAT", PART, 0.5),
        ("0.5", "FLOAT", PART, 0.5),
        (1, "FLOAT", PART, 1),
        ("x", "STRING", {}, "x"),
        (3, "STRING", {}, "3"),
        (True, "BOOLEAN", {}, True),
        ("no", "BOOLEAN", {}, False),
        ("TRUE", "BOOLEAN", {}, True),
        ("heun", ["euler", "heun"], {}, "heun"),
        ("4", ["euler", 4], {}, 4),
        ("a", "COMBO", {"options": ["a"]}, "a"),
        ("anything", "COMBO", {}, "anything"),
        ("any", ["x"], {"remote": {"route": "/x"}}, "any"),
        (["a", "b"], "COMBO", {"options": ["a", "b"], "multiselect": True}, ["a", "b"]),
        (0.5, "INT,FLOAT", {}, 0.5),
        ("x", "*", {}, "x"),
        ({"x": 1}, "CURVE", {}, {"x": 1}),
    ],
)
def test_values_that_fit(value, kind, options, expected):
    found = fit(value, kind, options)
    assert found == expected and type(found) is type(expected)


@pytest.mark.parametrize(
    ("value", "kind", "options", "message"),
    [
        (0, "INT", WHOLE, "0 is less than 1"),
        (101, "INT", WHOLE, "more than 100"),
        (4.5, "INT", {}, "no.* whole"),
        ("4.5", "INT", {}, "whole"),
        (True, "INT", {}, "whole"),
        ("", "INT", {}, "whole"),
        (None, "INT", {}, "whole"),
        (float("nan"), "FLOAT", PART, "not a number"),
        ("inf", "FLOAT", {}, "not a number"),
        (2, "FLOAT", PART, "more"),
        (["x"], "STRING", {}, "not text"),
        (None, "STRING", {}, "not text"),
        ("maybe", "BOOLEAN", {}, "true nor false"),
        ("eular", ["euler", "heun"], {}, "not one of the choices; there are euler, heun"),
        ("a.safetensors", ["b.safetensors"], {}, "no model file 'a.safetensors'; there are b.safetensors"),
        ("x", [], {}, "nothing to choose from"),
        (3, "MODEL", {}, "takes a link"),
        (["a", "z"], "COMBO", {"options": ["a"], "multiselect": True}, "'z' is not one of the choices"),
        ("sdxl", [f"sd{n}.ckpt" for n in range(20)] + ["sdxl_base.ckpt"], {}, "sdxl_base.ckpt"),
    ],
)
def test_values_that_do_not_fit(value, kind, options, message):
    with pytest.raises(ValueError, match=message):
        fit(value, kind, options)


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
)


@settings(deadline=None)
@given(ANYTHING, st.sampled_from(["INT", "FLOAT", "STRING", "BOOLEAN", "COMBO", "*", "INT,FLOAT"]), ANYTHING, ANYTHING)
def test_no_value_and_no_declaration_crashes_fit(value, kind, choices, least):
    try:
        fit(value, kind, {"options": choices, "min": least})
    except ValueError as error:
        assert str(error)


@settings(deadline=None)
@given(ANYTHING)
def test_no_object_info_crashes_declarations(answer):
    for _, options, required in declarations({"input": {"required": {"x": answer}, "optional": answer}}).values():
        assert isinstance(options, dict) and isinstance(required, bool)
        takes_file(options)
    declarations({"input": answer})

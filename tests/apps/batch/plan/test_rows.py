"""Products and zips, ranges, files: every row once, every mistake reported."""

import itertools
import math
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from facecdm.apps.batch.plan.folders import Folders
from facecdm.apps.batch.plan.rows import Upload, expand

VALUES = st.lists(st.integers() | st.text(), min_size=1, max_size=4)
ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["from", "to", "count", "step", "files", "lines", "a"]), inner, max_size=3)
    ),
    max_leaves=6,
)


def rows_of(*groups, folder: Path = Path(".")) -> list[dict]:
    mistakes: list[str] = []
    rows = expand(list(groups), Folders(folder), mistakes)
    assert mistakes == []
    return rows


def mistake_of(*groups, folder: Path = Path(".")) -> str:
    mistakes: list[str] = []
    expand(list(groups), Folders(folder), mistakes)
    return "\n".join(mistakes)


@settings(deadline=None)
@given(st.lists(VALUES, min_size=1, max_size=4))
def test_groups_multiply(lists):
    groups = [{f"v{index}": values} for index, values in enumerate(lists)]
    rows = rows_of(*groups)
    assert [tuple(row.values()) for row in rows] == list(itertools.product(*lists))


@settings(deadline=None)
@given(
    st.integers(1, 5).flatmap(
        lambda size: st.lists(st.lists(st.integers(), min_size=size, max_size=size), min_size=1, max_size=4)
    )
)
def test_lists_of_a_group_are_zipped(lists):
    rows = rows_of({f"v{index}": values for index, values in enumerate(lists)})
    assert [tuple(row.values()) for row in rows] == list(zip(*lists))


@settings(deadline=None)
@example(["~nobody0"])
@given(st.lists(st.dictionaries(st.sampled_from("abc"), ANYTHING, max_size=3) | st.text(max_size=5), max_size=4))
def test_no_groups_crash_expand(groups):
    mistakes: list[str] = []
    rows = expand(groups, Folders(Path("/nowhere")), mistakes)
    assert mistakes or all(isinstance(row, dict) for row in rows)


def test_one_value_is_repeated():
    assert rows_of({"a": [1, 2], "b": "x"}) == [{"a": 1, "b": "x"}, {"a": 2, "b": "x"}]


def test_lists_of_different_lengths():
    message = mistake_of({"a": [1, 2, 3], "b": [1, 2]}, {"a": 1}, {})
    assert (
        "'b' has 2 values and 'a' 3" in message
        and "groups of their own" in message
        and "group 3: it is empty" in message
    )


def test_a_name_in_two_groups():
    assert "'a' is in group 1 and in group 2" in mistake_of({"a": 1}, {"a": 2})


@settings(deadline=None)
@given(st.integers(-1000, 1000), st.integers(-1000, 1000), st.integers(-50, 50).filter(bool))
def test_whole_ranges_include_their_end(start, end, step):
    spec = {"a": {"from": start, "to": end, "step": step}}
    expected = list(range(start, end + (1 if step > 0 else -1), step))
    assert [row["a"] for row in expand([spec], Folders(Path(".")), [])] == expected
    assert expected or "no value" in mistake_of(spec)


def test_decimal_fractions_are_exact():
    assert [row["a"] for row in rows_of({"a": {"from": 0.1, "to": 0.7, "step": 0.2}})] == [0.1, 0.3, 0.5, 0.7]
    assert [row["a"] for row in rows_of({"a": {"from": 5, "count": 3}})] == [5, 6, 7]


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({"from": 1, "to": 2, "step": 0}, "step is 0"),
        ({"from": 1, "to": math.inf}, "to is inf"),
        ({"from": True, "to": 3}, "from is True"),
        ({"from": 1, "count": 2.5}, "count is 2.5"),
        ({"from": 1, "count": 10**9}, "at most 100000"),
        ({"from": 1, "to": 10**400}, "at most|too large"),
        ({"to": 3}, "is none of"),
        ({"files": "*.nothing"}, "no file matches"),
        ({"files": 3}, "not 3"),
        ({"lines": "nothing.txt"}, "cannot read"),
        ([], "no value"),
    ],
)
def test_invalid_values(spec, message, tmp_path):
    import re

    assert re.search(message, mistake_of({"a": spec}, folder=tmp_path))


def test_too_many_jobs():
    assert "1000000000000 jobs" in mistake_of(*({name: list(range(10_000))} for name in "abc"))


def test_files_by_pattern_and_by_name(tmp_path):
    folder = tmp_path / "[odd] folder"
    folder.mkdir()
    for name in ("b.png", "a.png", "a [1].png"):
        (folder / name).touch()
    rows = rows_of({"person": {"files": ["*.png", "a [1].png"]}}, folder=folder)
    assert [row["person"] for row in rows] == [
        Upload(folder / name) for name in ("a [1].png", "a.png", "b.png", "a [1].png")
    ]


def test_tables_and_lines(tmp_path):
    (tmp_path / "t.csv").write_text('\ufeffprompt,seed\n"a, b",1\n"two\nlines",2\n', encoding="utf-8")
    (tmp_path / "t.jsonl").write_text('{"x": "\u2028"}\n\n{"x": 2}\n', encoding="utf-8")
    (tmp_path / "t.txt").write_text("one\n\n two \n", encoding="utf-8")
    assert rows_of("t.csv", folder=tmp_path) == [{"prompt": "a, b", "seed": "1"}, {"prompt": "two\nlines", "seed": "2"}]
    assert rows_of("t.jsonl", folder=tmp_path) == [{"x": "\u2028"}, {"x": 2}]
    assert rows_of({"p": {"lines": "t.txt"}}, folder=tmp_path) == [{"p": "one"}, {"p": "two"}]
    assert len(rows_of("t.csv", {"p": {"lines": "t.txt"}}, folder=tmp_path)) == 4


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("t.csv", "a,b\n1\n", "line 2 and the heading have different numbers of cells"),
        ("t.csv", "a,a\n1,2\n", "name of its own"),
        ("t.csv", "a\n", "has no rows"),
        ("t.csv", "", "has no rows"),
        ("t.csv", 'a\n"x', "unexpected end"),
        ("t.jsonl", '{"a": 1}\n{', "line 2 is not JSON"),
        ("t.jsonl", "[1]", "line 1 is no JSON object"),
        ("t.xlsx", "", "neither .csv nor .jsonl"),
    ],
)
def test_invalid_tables(tmp_path, name, text, message):
    (tmp_path / name).write_text(text)
    assert message in mistake_of(name, folder=tmp_path)

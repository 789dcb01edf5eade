"""Names of images: inside the folder, unique, valid on every system."""

import unicodedata
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from facecdm.apps.batch.plan.naming import labels, names
from facecdm.apps.batch.plan.rows import Upload
from facecdm.comfy_api.names import inside
from facecdm.files import is_reserved

TEXT = st.text(st.characters(codec=None), max_size=80)  # with lone surrogates, as JSON may bring them


def named(template: str, rows: list[dict]) -> list[str]:
    mistakes: list[str] = []
    made = names(template, rows, mistakes)
    assert mistakes == []
    return made


ROW = st.fixed_dictionaries({"person": TEXT, "prompt": TEXT | st.integers() | st.none()})


@settings(deadline=None)
@given(st.lists(ROW, min_size=1, max_size=6))
def test_any_values_make_valid_names(tmp_path_factory, rows):
    folder = tmp_path_factory.getbasetemp()
    made = named("{person}/{prompt}-{job}", rows)
    keys = [unicodedata.normalize("NFC", name).casefold() for name in made]
    assert len(made) == len(rows) == len(set(keys))
    for name in made:
        path = inside(folder, name)
        assert path.parent.parent == folder.resolve() and len(name.encode()) <= 242
        assert not any(is_reserved(part) or part.startswith(".") for part in name.split("/"))


@settings(deadline=None)
@given(TEXT)
@example("\ud800")
def test_any_template_makes_valid_names_or_a_mistake(tmp_path_factory, template):
    mistakes: list[str] = []
    made = names(template, [{"a": 1}, {"a": 2}], mistakes)
    assert bool(made) != bool(mistakes)
    for name in made:
        inside(tmp_path_factory.getbasetemp(), name)


def test_tokens():
    rows = [{"p": "a/b", "s": 7}, {"p": "c", "s": 7}, {"p": "a/b", "s": 8}] * 4
    assert named("{p}/{p#}-{s}-{job}", rows)[:3] == ["a b/1-7-01", "c/2-7-02", "a b/1-8-03"]


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("../{job}", "leaves the output folder"),
        ("/{job}", "leaves the output folder"),
        ("a//{job}", "leaves the output folder"),
        ("a\\{job}", "leaves the output folder"),
        ("{seed}", "there is no {seed}: use {job}, {person}"),
        ("{person}", "jobs 1 and 2 would both be 'Ada'"),
    ],
)
def test_invalid_templates(template, message):
    mistakes: list[str] = []
    assert names(template, [{"person": "Ada"}, {"person": "ADA"}, {"person": "Ada"}], mistakes) == []
    assert len(mistakes) == 1 and message in mistakes[0]


def test_reserved_names_get_an_underscore():
    assert named(
        "{person}/{job}", [{"person": "Sheets"}, {"person": "not-kept"}, {"person": ".."}, {"person": "nul"}]
    ) == [
        "_Sheets/1",
        "_not-kept/2",
        "unnamed/3",
        "_nul/4",
    ]


def test_files_of_one_name_are_numbered():
    files = [Upload(Path("a/face.jpg")), Upload(Path("b/face.jpg")), Upload(Path("a/face.jpg"))]
    assert labels(files) == ["face", "face-2", "face"]


def test_no_two_files_have_one_label():
    files = [Upload(Path(name)) for name in ("p/ada.png", "q/ada.png", "r/ada-2.png", "s/ADA.png")]
    assert labels(files) == ["ada", "ada-2", "ada-2-2", "ADA-3"]
    assert labels([Upload(Path("p/ada.png")), "ada"]) == ["ada-2", "ada"]
    stem = "x" * 200
    long = [Upload(Path(f"{folder}/{stem}.png")) for folder in "pqr"]
    assert len(set(named("{person}/{seed}", [{"person": file, "seed": 1} for file in long]))) == 3

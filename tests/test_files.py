"""Names from a graph stay in their folder, writes are atomic, nothing is overwritten unasked."""

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from facecdm.errors import FaceCDMError, MissingModel, UnsafeName
from facecdm.files import check_filename, find_named, write_named


@given(st.text(max_size=60))
def test_no_name_leaves_the_folder(tmp_path_factory, name):
    home = tmp_path_factory.mktemp("home")
    folder = home / "folder"
    try:
        path = write_named(b"data", folder, name)
    except UnsafeName:
        assert not folder.exists()
        return
    assert path.parent == folder and path.read_bytes() == b"data"
    assert [entry.name for entry in home.iterdir()] == ["folder"]
    assert [entry.name for entry in folder.iterdir()] == [path.name]
    assert find_named([folder], path.name, "") == path


@pytest.mark.parametrize(
    "name",
    [
        "",
        " ",
        ".",
        "..",
        "../x",
        "a/b",
        "a\\b",
        "/etc/passwd",
        "C:x",
        "C:\\x",
        "con",
        "NUL.safetensors",
        "com1.x",
        ".hidden",
        "a.",
        "a\0b",
        "a\nb",
        "x" * 101,
        "~root",
        "a:b",
        "é" * 101,
        "字" * 90,
    ],
)
def test_names_that_are_refused(name):
    with pytest.raises(UnsafeName, match="cannot be the name"):
        check_filename(name)


@pytest.mark.parametrize("name", ["Ada", "Ada Lovelace (1843), v1.2", "josé_2", "名前", "a.safetensors", "console"])
def test_names_that_are_fine(name):
    assert check_filename(name) == name.removesuffix(".safetensors")


def test_nothing_is_overwritten_unasked(tmp_path: Path):
    paths = [write_named(f"{i}".encode(), tmp_path, "Ada") for i in range(3)]
    assert [path.name for path in paths] == ["Ada.safetensors", "Ada_2.safetensors", "Ada_3.safetensors"]
    assert [path.read_bytes() for path in paths] == [b"0", b"1", b"2"]
    assert write_named(b"7", tmp_path, "Ada", overwrite=True) == paths[0]
    assert paths[0].read_bytes() == b"7" and len(list(tmp_path.iterdir())) == 3


@pytest.mark.parametrize("overwrite", [True, False])
def test_a_write_that_fails_leaves_everything_as_it_was(tmp_path: Path, monkeypatch, overwrite):
    path = write_named(b"before", tmp_path, "Ada")

    def full(*_):
        raise OSError("No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(FaceCDMError, match="No space left"):
        write_named(b"after", tmp_path, "Ada", overwrite)
    assert [entry.name for entry in tmp_path.iterdir()] == ["Ada.safetensors"] and path.read_bytes() == b"before"


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path):
    (tmp_path / "taken").write_bytes(b"a file, not a folder")
    with pytest.raises(FaceCDMError, match="Ada.safetensors could not be written into .*taken.*Check the permissions"):
        write_named(b"", tmp_path / "taken", "Ada")


def test_finding_a_file_of_the_list(tmp_path: Path):
    first, second = tmp_path / "a", tmp_path / "b"
    write_named(b"", first, "Ada")
    write_named(b"", second, "Ada")
    write_named(b"", second / "friends", "Bob")
    assert find_named([first, second], "Ada.safetensors", "") == first / "Ada.safetensors"
    assert find_named([first, second], "friends\\Bob.safetensors", "") == second / "friends" / "Bob.safetensors"
    with pytest.raises(MissingModel, match=r"Eve\.safetensors \(searched: .*a, .*b\)\. Save one\."):
        find_named([first, second], "Eve", "Save one.")


@pytest.mark.parametrize(
    "name", ["../secret.safetensors", "friends/../../secret.safetensors", "C:x", "a\0b", "absolute"]
)
def test_no_search_leaves_the_folders(tmp_path: Path, name):
    (tmp_path / "secret.safetensors").write_bytes(b"")
    (tmp_path / "a" / "friends").mkdir(parents=True)
    with pytest.raises(UnsafeName):
        find_named([tmp_path / "a"], str(tmp_path / "secret") if name == "absolute" else name, "")

"""Text, JSON and YAML from outside: mistakes are sentences, and nothing takes long."""

import time

import pytest

from facecdm import documents
from facecdm.documents import is_deep, parse_json, read_text, read_yaml
from facecdm.errors import BadFile

LAUGHS = "a: &a [x, x]\n" + "\n".join(
    f"{name}: &{name} [*{before}, *{before}]" for before, name in zip("abcdefgh", "bcdefghi")
)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"\xff\xfe a: 1", "is not UTF-8 text"),
        ("größe: 1".encode("latin-1"), "is not UTF-8 text .byte 2.: save it as UTF-8"),
        (LAUGHS.encode(), "line 2: aliases are refused; repeat what .a stands for"),
        (b"[" * 100_000, "nested more than 60 levels deep|maximum nesting depth"),
        (b"- " * 5_000 + b"x", "nested more than 60 levels deep"),
        (b"a: [1", "is not YAML"),
        (b"a: !!int ''", "is not YAML"),
        (b"a: !!python/object:os.system x", "is not YAML"),
        (b"a: 2026-13-45", "is not YAML"),
        (b"\x00", "is not YAML"),
    ],
)
@pytest.mark.parametrize("libyaml", [True, False])
def test_yaml_files_that_are_refused(tmp_path, monkeypatch, content, message, libyaml):
    if not libyaml:
        monkeypatch.delattr("yaml.CSafeLoader", raising=False)
    path = tmp_path / "plan.yaml"
    path.write_bytes(content)
    started = time.process_time()
    with pytest.raises(BadFile, match=message) as caught:
        read_yaml(path)
    assert time.process_time() - started < 5 and len(str(caught.value)) <= 1000


def test_a_file_that_is_too_large(tmp_path, monkeypatch):
    monkeypatch.setattr(documents, "LARGEST", 1 << 20)
    (tmp_path / "plan.yaml").write_bytes(b"a: 1\n" * (1 << 18))
    with pytest.raises(BadFile, match="more than 1 MiB"):
        read_yaml(tmp_path / "plan.yaml")


def test_files_that_are_read(tmp_path):
    (tmp_path / "plan.yaml").write_text("\ufeffa: {b: [1, 2.5, x, true, null]}\n", encoding="utf-8")
    assert read_yaml(tmp_path / "plan.yaml") == {"a": {"b": [1, 2.5, "x", True, None]}}
    assert read_text(tmp_path / "plan.yaml").startswith("a:")


@pytest.mark.parametrize("text", ["[" * 100_000, "[" * 100_000 + "]" * 100_000, "[" * 90 + "]" * 90, "", "{"])
def test_json_that_is_refused(text):
    with pytest.raises(ValueError):
        parse_json(text)


def test_what_contains_itself_is_deep():
    endless: list = []
    endless.append(endless)
    assert is_deep(endless) and not is_deep([[{"a": [1]}]])

"""Plans as files and as keys."""

import json

import pytest
from PIL import Image
from standin import INFO, NODES

from facecdm.apps.batch.command import show
from facecdm.apps.batch.errors import PlanMistake
from facecdm.apps.batch.plan import Plan
from facecdm.apps.batch.plan.check import check
from facecdm.apps.batch.plan.jobs import build
from facecdm.apps.batch.start import run


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({}, "workflow: is missing"),
        ({"workflow": "x", "jobs": []}, "jobs: List should have at least 1"),
        ({"workflow": "gone.json", "jobs": {"a": 1}}, "cannot read the workflow"),
        ({"workflow": {"nodes": []}, "jobs": {"a": 1}}, "UI format"),
        ({"workflow": "x", "jobs": {"a": 1}, "serverss": []}, "serverss: is no key of a plan"),
        ({"workflow": "x", "jobs": 3}, "jobs"),
        ([], "a plan is a mapping"),
        ({1: 2}, "keys are not all text"),
    ],
)
def test_invalid_plans(tmp_path, keys, message):
    with pytest.raises(PlanMistake) as error:
        check(Plan.make(keys, tmp_path), {"here": INFO})
    assert message in str(error.value)


@pytest.mark.parametrize("text", ["a: [", "\t", "- 1", "\x00", "!!python/object:os.system x"])
def test_invalid_yaml_files(tmp_path, text):
    (tmp_path / "plan.yaml").write_text(text)
    with pytest.raises(PlanMistake):
        Plan.load(tmp_path / "plan.yaml")
    with pytest.raises(PlanMistake, match="cannot read"):
        Plan.load(tmp_path / "gone.yaml")


def test_a_plan_in_yaml(tmp_path):
    (tmp_path / "w.json").write_text(json.dumps(NODES))
    Image.new("RGB", (8, 8)).save(tmp_path / "ada.png")
    (tmp_path / "plan.yaml").write_text("""
workflow: w.json
servers: 127.0.0.1:8188
inputs: {person: Draw it.image, seed: Draw it.seed}
jobs:
  - person: {files: "*.png"}
  - seed: {from: 1, to: 3}
""")
    batch = build(check(Plan.load(tmp_path / "plan.yaml"), {"here": INFO}))
    assert [job.name for job in batch.jobs] == ["ada/1", "ada/2", "ada/3"] and len(batch.files) == 1


def test_deeply_nested_plans(tmp_path):
    deep: dict = {}
    for _ in range(2000):
        deep = {"x": deep}
    with pytest.raises(PlanMistake, match="not nested so deeply"):
        Plan.make({"workflow": deep, "jobs": {"a": 1}}, tmp_path)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("plan.yaml", "name: größe".encode("latin-1"), "is not UTF-8 text"),
        ("plan.yaml", b"jobs: &a [*a]", "aliases are refused"),
        ("plan.yaml", b"[" * 70, "levels deep"),
        ("plan.csv", "a\ngröße\n".encode("latin-1"), "is not UTF-8 text"),
        ("plan.jsonl", b'{"a": ' + b"[" * 99 + b"]" * 99 + b"}", "line 1 is not JSON: nested"),
        ("plan.jsonl", b"[" * 100_000, "line 1 is not JSON: nested"),
    ],
)
def test_files_of_another_encoding_or_too_deep(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(PlanMistake, match=message):
        check(Plan.load(tmp_path / name, workflow=NODES), {"here": INFO})


@pytest.mark.parametrize("content", [b"[" * 100_000, b"\xff", b'{"1": ' + b"[" * 99 + b"]" * 99 + b"}"])
def test_workflows_of_another_encoding_or_too_deep(tmp_path, content):
    (tmp_path / "w.json").write_bytes(content)
    with pytest.raises(PlanMistake, match="UTF-8|nested"):
        check(Plan.make({"workflow": "w.json", "jobs": {"a": 1}}, tmp_path), {"here": INFO})


def test_messages_stay_short(tmp_path):
    long = "x" * 2**20
    with pytest.raises(PlanMistake) as error:
        check(Plan.make({"workflow": NODES, "jobs": {long: long}, "name": long}, tmp_path), {"here": INFO})
    assert all(len(line) <= 300 for line in error.value.mistakes)


def test_servers_and_ray_are_one_too_many(tmp_path):
    for keys in ({"servers": ["here"], "ray": {"comfyui": "/x"}}, {}):
        plan = Plan.make({"workflow": NODES, "jobs": {"Draw.seed": 1}, **keys}, tmp_path)
        with pytest.raises(PlanMistake, match="remove one" if keys else "name at least one"):
            run(plan)
        with pytest.raises(PlanMistake, match="remove one" if keys else "name at least one"):
            show(plan)

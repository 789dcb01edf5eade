"""Configurations, plans and captions that nobody should write: typed errors of at most 1,000 characters, in seconds."""

import json
import os
import time
from functools import partial
from pathlib import Path

import pytest
from datasets import SETTINGS, StubEncoders, StubFinder, colourful, save
from standin import INFO, NODES

from facecdm.apps.batch.errors import PlanMistake
from facecdm.apps.batch.plan import Plan
from facecdm.apps.batch.plan.check import check
from facecdm.cli import main
from facecdm.errors import FaceCDMError
from facecdm.training import config
from facecdm.training.dataset.pipeline import prepare
from facecdm.training.dataset.sources import FolderSource
from facecdm.training.stages import Stage

BAD = (
    "x",
    "",
    "../x",
    "a\nb",
    "\0",
    "x" * 10**6,
    -1,
    0.5,
    10**400,
    float("inf"),
    float("nan"),
    [],
    {},
    None,
    True,
    [[1]],
)
CONTENTS = {
    "nothing": b"",
    "a list": b"[]",
    "a number": b"7",
    "UTF-16": "data: d".encode("utf-16"),
    "Latin-1": "data: größe".encode("latin-1"),
    "zeros": bytes(100),
    "binary": os.urandom(1000),
    "aliases": b"a: &a [x]\nb: *a",
    "many aliases": b"a: &a [x]\nb: [" + b"*a, " * 10**5 + b"]",
    "deep list": b"[" * 10**5,
    "deep mapping": b"a: {" * 10**5,
    "deep blocks": b"".join(b" " * n + b"a:\n" for n in range(2000)),
    "a megabyte of key": b"x" * 2**20 + b": 1",
    "a megabyte of value": b"data: " + b"x" * 2**20,
    "ten thousand keys": b"".join(b"k%d: 1\n" % n for n in range(10**4)),
    "code": b"a: !!python/object/apply:os.system [id]",
    "keys that are no text": b"1: 2\n? [a]\n: b",
    "tabs": b"\tdata: d",
    "a number of 5,000 digits": b"data: d\nout: o\nthreads: 0x" + b"f" * 5000,
}


def refused(work, seconds: float = 10) -> str:
    """ "" for a typed error in time, else what happens instead."""
    started = time.process_time()
    try:
        work()
    except FaceCDMError as error:
        if not 0 < len(str(error)) <= 1000:
            return f"{len(str(error))} characters"
    except Exception as error:
        return f"untyped {type(error).__name__}: {str(error)[:150]}"
    else:
        return "silent"
    taken = time.process_time() - started
    return f"{taken:.0f} s" if taken > seconds else ""


def write(folder: Path, name: str, content: bytes) -> Path:
    (folder / name).write_bytes(content)
    return folder / name


@pytest.mark.parametrize("name", CONTENTS)
def test_a_configuration_of_any_bytes(tmp_path, name):
    assert not refused(lambda: config.read(write(tmp_path, "c.yaml", CONTENTS[name])))


@pytest.mark.parametrize("name", CONTENTS)
@pytest.mark.parametrize("suffix", [".yaml", ".json", ".csv", ".jsonl"])
def test_a_plan_of_any_bytes(tmp_path, name, suffix):
    path = write(tmp_path, f"plan{suffix}", CONTENTS[name])
    assert not refused(lambda: check(Plan.load(path, workflow=NODES), {"here": INFO}))


def read_config(folder: Path, keys: dict):
    return config.read(write(folder, "c.yaml", json.dumps({"data": "d", "out": "o"} | keys).encode()))


def check_plan(folder: Path, keys: dict):
    return check(Plan.make({"workflow": NODES, "jobs": [{"text": "x"}]} | keys, folder), {"here": INFO})


@pytest.mark.parametrize(
    ("read", "names"),
    [
        (read_config, list(config.Config.model_fields)),
        (lambda folder, keys: read_config(folder, {"all": keys}), list(Stage().to_dict())),
        (check_plan, list(Plan.model_fields)),
    ],
    ids=["configuration", "stage", "plan"],
)
def test_every_key(tmp_path, read, names):
    """Each with values of every kind; some are right for some keys."""
    wrong = {}
    for name in names:
        for value in BAD:
            text = refused(partial(read, tmp_path, {name: value}))
            if text not in ("", "silent"):
                wrong[name, str(value)[:20]] = text
    assert not wrong


@pytest.mark.parametrize("count", [1, 3, 50, 10_000])
@pytest.mark.parametrize("length", [1, 250, 2**16])
def test_the_message_of_a_plan_names_whole_mistakes(count, length):
    text = str(PlanMistake(["x" * length] * count))
    first, *shown = text.splitlines()
    assert len(text) <= 1000 and (f"{count} mistakes" in first or count == 1)
    others = int(shown.pop().split()[2]) if shown[-1].startswith("… and") else 0
    assert len(shown) + others == count and len(shown) >= min(count, 2) and len(set(shown)) == 1


def test_a_wrong_device_and_an_out_that_is_a_file(tmp_path, capsys):
    (tmp_path / "file").touch()
    for line in (
        "out: file",
        "out: o\ndevice: nonsense",
        "out: o\ndevice: cuda:99",
        "out: o\ndevice: '-1'",
        "out: o\nstages: {broad: {name: ../x}}",
    ):
        path = write(tmp_path, "c.yaml", f"data: d\n{line}\n".encode())
        assert main(["train", str(path), "--dry-run"]) == 1
        text = capsys.readouterr().err
        assert text.startswith("facecdm train: ") and "Traceback" not in text and len(text) <= 1020


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such names")
def test_captions_and_names(tmp_path):
    captions = [
        b"x" * 2**20,
        b"",
        b"\0",
        b"\xff\xfe",
        "größe".encode("latin-1"),
        b"a\nb\r\nc",
        b"{" * 10**5,
        "\u202e".encode(),
        b"\xed\xa0\x80",
    ]
    for number, caption in enumerate(captions):
        save(tmp_path / "in" / f"{number}.png", colourful(number))
        (tmp_path / "in" / f"{number}.txt").write_bytes(caption)
    for number, name in enumerate([b"caf\xe9.png", b"two\nlines.png", b"x" * 200 + b".png", b" .png", b"-rf.png"], 20):
        save(Path(os.fsdecode(os.fsencode(tmp_path / "in") + b"/" + name)), colourful(number))
    started = time.process_time()
    data = prepare(FolderSource(tmp_path / "in"), tmp_path / "out", StubEncoders(), StubFinder(), SETTINGS)
    report = json.loads((tmp_path / "out" / "report.json").read_text(encoding="utf-8"))
    assert len(data) + len(report["dropped"]) == len(captions) + 5 and time.process_time() - started < 30
    assert all(len(drop["reason"]) <= 1000 for drop in report["dropped"])
    assert len((tmp_path / "out" / "report.md").read_text(encoding="utf-8")) < 20_000

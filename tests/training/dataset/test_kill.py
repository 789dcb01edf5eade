"""Preparation at scale: a killed run can be resumed, and 5,000 pictures need no more memory than a few."""

import hashlib
import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from datasets import SETTINGS, StubEncoders, StubFinder, colourful, files_of, save

from facecdm.training.dataset import work
from facecdm.training.dataset.data_set import DataSet
from facecdm.training.dataset.pipeline import prepare
from facecdm.training.dataset.sources import FolderSource, Item, Picture

ROOT = Path(__file__).resolve().parents[3]
CHILD = """
import os, signal, sys
from pathlib import Path
sys.path[:0] = [{root!r}, {support!r}]
from datasets import SETTINGS, StubEncoders, StubFinder
from facecdm.training.dataset import work
from facecdm.training.dataset.pipeline import prepare
from facecdm.training.dataset.sources import FolderSource
work.SHARD = work.BATCH = 4
prepare(FolderSource(Path({source!r})), Path({out!r}), StubEncoders(), StubFinder(), SETTINGS,
        lambda stage, done, total: stage == {stage!r} and done >= {at} and os.kill(os.getpid(), signal.SIGKILL))
"""


@pytest.mark.skipif(os.name == "nt", reason="no SIGKILL")
def test_a_killed_run_that_is_repeated_gives_the_same_data_set(tmp_path, monkeypatch):
    monkeypatch.setattr(work, "SHARD", 4)
    monkeypatch.setattr(work, "BATCH", 4)
    for number in range(40):
        save(tmp_path / "in" / f"{number % 13}" / f"{number}.png", colourful(number), f"words {number % 30}")
    source, out = FolderSource(tmp_path / "in"), tmp_path / "killed"
    whole = prepare(source, tmp_path / "whole", StubEncoders(), StubFinder(), SETTINGS)
    progress = []
    for stage, at in (("finding faces", 12), ("encoding pictures", 8), ("encoding pictures", 24)):
        code = CHILD.format(
            root=str(ROOT),
            support=str(ROOT / "tests" / "support"),
            source=str(tmp_path / "in"),
            out=str(out),
            stage=stage,
            at=at,
        )
        assert subprocess.run([sys.executable, "-c", code]).returncode == -signal.SIGKILL
        progress.append(sum(map(len, (list((out / stage).glob("*")) for stage in ("faces", "latents")))))
        assert not (out / "manifest.json").exists()
    assert progress[0] > 0 and progress == sorted(set(progress)), "each run started over"
    encoders = StubEncoders()
    data = prepare(source, out, encoders, StubFinder(), SETTINGS)
    assert 0 < encoders.asked["latents"] < 40
    assert data.fingerprint == whole.fingerprint and files_of(out) == files_of(tmp_path / "whole")


def test_half_written_files_of_killed_runs_are_deleted(tmp_path):
    save(tmp_path / "in" / "0.png", colourful(0), "words")
    (tmp_path / "out" / "latents").mkdir(parents=True)
    old, young = (tmp_path / "out" / "latents" / f".{name}.part" for name in ("old", "young"))
    for path in (old, young):
        path.write_bytes(b"half")
    os.utime(old, (time.time() - 7200,) * 2)
    prepare(FolderSource(tmp_path / "in"), tmp_path / "out", StubEncoders(), StubFinder(), SETTINGS)
    assert not old.exists() and young.exists()


class GeneratedSource:
    """Pictures that are generated when they are read."""

    def __init__(self, count: int):
        self.count = count

    def describe(self):
        return "endless"

    def items(self):
        return [
            Item(
                f"{n:05d}",
                lambda n=n: hashlib.shake_256(f"{n}".encode()).digest(16 * 16 * 3),
                self.decode,
                f"words {n}",
                f"{n // 2}",
            )
            for n in range(self.count)
        ]

    def decode(self, data):
        return Picture(np.frombuffer(data, np.uint8).reshape(16, 16, 3), (16, 16))


def own_memory() -> float:
    """Private memory of this process in MB, without pages of mapped files."""
    return int(re.search(r"RssAnon:\s+(\d+)", Path("/proc/self/status").read_text())[1]) / 1024


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads Linux's own count")
def test_memory_does_not_grow_with_the_pictures(tmp_path):
    settings = replace(SETTINGS, resolution=16, step=8)
    peaks: dict[int, float] = {}

    def measured(count: int) -> DataSet:
        top = [own_memory()]
        start = top[0]
        data = prepare(
            GeneratedSource(count),
            tmp_path / str(count),
            StubEncoders(16, width=1600),
            StubFinder(),
            settings,
            lambda stage, done, total: top.append(own_memory()),
        )
        chosen = np.random.default_rng(0)
        for _ in range(count // 32):
            data.load(chosen.integers(0, count, 32).tolist())
            data.features(chosen.integers(0, count, 32).tolist())
        peaks[count] = max(*top, own_memory()) - start
        return data

    measured(200)
    data = measured(5000)
    size = sum(path.stat().st_size for path in (tmp_path / "5000").rglob("*.safetensors")) / 1e6
    assert len(data) == 5000 and size > 190  # kept records would exceed the limit
    assert peaks[5000] < peaks[200] + 60, peaks  # names and keys of 5,000 pictures need about 30

"""The data set store at scale: small synthetic pictures are prepared, resumed and read; peak memory and speed.

    python benchmarks/data_set_scale.py [--rows 20000 200000] [--folder /tmp/scale]

Each phase runs in a process of its own, which reports the peak of its own memory over that after the imports:

prepare   from nothing, killed when half of the pictures are encoded
resume    the same command again, to the end
open      DataSet(folder) and its fingerprint
read      one epoch in batches of 16, in the trainer's order, with references; in two processes, of which the second
          resumes in the middle of the epoch as the third of four
"""

import argparse
import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import torch
from shared import ROOT

from facecdm.training.dataset.data_set import DataSet
from facecdm.training.dataset.encoders import Fingerprints
from facecdm.training.dataset.faces import DetectedFace
from facecdm.training.dataset.pipeline import prepare
from facecdm.training.dataset.settings import Settings
from facecdm.training.dataset.sources import Item, MadeItems, Picture
from facecdm.training.randomness import batches
from facecdm.training.rows import Prompt

SIDE, PHOTOS, BATCH, SEED = 16, 4, 16, 0
SETTINGS = Settings(SIDE, 8, aspect=1.0, min_picture=0.1)
POINTS = np.float32([[6, 6], [10, 6], [8, 8], [6, 10], [10, 10]])


class Pictures:
    """`count` random pictures of count / PHOTOS people, each with a caption of its own."""

    def __init__(self, count: int):
        self.count = count

    def describe(self) -> str:
        return f"{self.count} random pictures"

    def items(self):
        return MadeItems(self.count, self._item)

    def _item(self, number: int) -> Item:
        person = f"person {number // PHOTOS:07d}"
        return Item(f"{number:08d}", lambda: _bytes(number), _decode, f"caption {number}", person)


def _bytes(number: int) -> bytes:
    return hashlib.shake_256(b"%d" % number).digest(SIDE * SIDE * 3)


def _decode(data: bytes) -> Picture:
    return Picture(np.frombuffer(data, np.uint8).reshape(SIDE, SIDE, 3), (SIDE, SIDE))


class Encoders:
    """Small tensors of the pixels and the caption."""

    resolution, step = SIDE, 8
    large = dit = pooled = False
    fingerprints = Fingerprints("latents", "text", "vision")

    def latents(self, pixels):
        return pixels.movedim(-1, 1)[:, :, ::2, ::2].contiguous()

    def text(self, captions):
        return [Prompt(torch.full((1, 4, 16), float(len(caption)))) for caption in captions]

    def vision(self, pictures):
        return torch.stack([torch.from_numpy(picture[:4, :4, 0].astype(np.float32)) for picture in pictures])


class Finder:
    """A face in the middle of each picture, embedded as 64 of its pixels."""

    recogniser, fingerprint = "random/pixels.onnx", "middle"

    def describe(self) -> str:
        return "in the middle"

    def find(self, item: Item) -> DetectedFace:
        pixels = item.read().pixels
        box = np.float32([4, 4, 12, 12])
        none = np.zeros((0, 2), np.float32)
        return DetectedFace(_embedding(pixels), POINTS, box, none, 0.9, (SIDE, SIDE), (SIDE, SIDE))

    def embed(self, bgr, keypoints):
        return _embedding(bgr)


def _embedding(pixels: np.ndarray) -> np.ndarray:
    return pixels[:8, :8, 0].astype(np.float32).reshape(-1) - 128


# ---- the phases, each in a process of its own ----


def prepare_all(folder: Path, rows: int, kill: bool) -> dict:
    """Prepare; with `kill`, end this process when half of the pictures are encoded."""
    start = time.perf_counter()

    def watch(stage: str, done: int, total: int) -> None:
        if kill and stage == "encoding pictures" and done >= total / 2:
            _report(rows=rows, seconds=time.perf_counter() - start)
            os.kill(os.getpid(), signal.SIGKILL)

    prepare(Pictures(rows), folder, Encoders(), Finder(), SETTINGS, watch)
    return {"rows": rows, "seconds": time.perf_counter() - start}


def open_all(folder: Path) -> dict:
    start = time.perf_counter()
    data = DataSet(folder)
    opened = time.perf_counter()
    assert len(data.fingerprint) == 64
    return {"rows": len(data), "seconds": opened - start, "fingerprint": time.perf_counter() - opened}


def read_part(folder: Path, rank: int, count: int, first: float) -> dict:
    """Read this process's rows of an epoch's batches, from the share `first` on."""
    data, seen = DataSet(folder), []
    per_epoch = sum(-(-len(bucket) // BATCH) for bucket in data.buckets)
    begin, start = int(first * per_epoch), time.perf_counter()
    order = batches(data.buckets, BATCH, SEED, begin)
    for _ in range(begin, per_epoch):
        part = next(order)[rank::count]
        rows = data.load(part)
        assert len(rows) == len(part) and len(data.features([data.references(index)[0] for index in part])[0])
        seen += part
    return {"rows": len(seen), "seconds": time.perf_counter() - start, "sum": sum(seen)}


def shuffle_quality(folder: Path) -> dict:
    """How far the order of an epoch is from the order on disk.

    all         whether each picture comes exactly once
    rank        correlation of a picture's place in the epoch with its index; about 0 ± 1/√N if shuffled
    same_shard  share of neighbours in the epoch that are in one shard; about 128/N if shuffled
    repeated    share of the pairs of one batch that are in one batch again in the next epoch; about 16/N
    """
    data = DataSet(folder)
    per_epoch = len(data.buckets[0]) // BATCH
    order = batches(data.buckets, BATCH, SEED, 0)
    first, second = (np.array([next(order) for _ in range(per_epoch)]) for _ in range(2))
    flat = first.reshape(-1)
    shard = flat // 128  # one bucket: the shards have the pictures in the order of their indices
    batch_of = np.empty(len(flat), np.int64)
    batch_of[second.reshape(-1)] = np.repeat(np.arange(per_epoch), BATCH)
    again = batch_of[first]
    pairs = sum((again[:, i] == again[:, j]).sum() for i in range(BATCH) for j in range(i))
    return {
        "all": bool((np.sort(flat) == np.arange(len(data))).all()),
        "rank": float(np.corrcoef(flat, np.arange(len(flat)))[0, 1]),
        "same_shard": float((shard[1:] == shard[:-1]).mean()),
        "repeated": float(pairs / (per_epoch * BATCH * (BATCH - 1) / 2)),
    }


PHASES = {
    "prepare": lambda folder, rows: prepare_all(folder, rows, kill=True),
    "resume": lambda folder, rows: prepare_all(folder, rows, kill=False),
    "open": lambda folder, rows: open_all(folder),
    "read, 1 of 2": lambda folder, rows: read_part(folder, 0, 2, 0),
    "read, 3 of 4": lambda folder, rows: read_part(folder, 2, 4, 0.5),
    "shuffle": lambda folder, rows: shuffle_quality(folder),
}


def memory(field: str) -> float:
    """A line of /proc/self/status in MiB."""
    return int(re.search(rf"{field}:\s+(\d+)", Path("/proc/self/status").read_text())[1]) / 1024


def _report(**values) -> None:
    used = {"peak": memory("VmHWM") - BEFORE, "processor": time.process_time() - STARTED}
    print(json.dumps(used | values), flush=True)


def run(phase: str, folder: Path, rows: int) -> dict:
    command = [sys.executable, __file__, "--rows", str(rows), "--folder", str(folder), "--phase", phase]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, cwd=ROOT)
    if done.returncode not in (0, -signal.SIGKILL):
        raise SystemExit(f"{phase} failed")
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="+", default=[20_000, 200_000])
    parser.add_argument("--folder", type=Path, default=Path("/tmp/facecdm-scale"))
    parser.add_argument("--phase", choices=PHASES, help="run only this phase, and print its numbers as JSON")
    arguments = parser.parse_args()
    if arguments.phase:
        _report(**PHASES[arguments.phase](arguments.folder, arguments.rows[0]))
        return
    print("| phase | pictures | peak memory, MiB | CPU seconds | seconds |\n|---|---|---|---|---|")
    for rows in arguments.rows:
        folder = arguments.folder / str(rows)
        shutil.rmtree(folder, ignore_errors=True)
        for phase in PHASES:
            found = run(phase, folder, rows)
            if phase == "shuffle":
                print(f"shuffle of {rows}: {found}", flush=True)
                continue
            print(
                f"| {phase} | {found['rows']:,} of {rows:,} | {found['peak']:.0f} | {found['processor']:.0f} | "
                f"{found['seconds']:.0f} |",
                flush=True,
            )
        size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
        print(f"{rows} pictures take {size / 2**20:.0f} MiB on disk", flush=True)
        shutil.rmtree(folder)


BEFORE, STARTED = memory("VmHWM"), time.process_time()
if __name__ == "__main__":
    main()

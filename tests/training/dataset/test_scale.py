"""Memory and order at scale, at a few hundred pictures: benchmarks/data_set_scale.py has 200,000."""

import importlib
import shutil
import tracemalloc
from array import array
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from datasets import SETTINGS, StubEncoders, StubFinder, colourful, save

from facecdm.files import REPOSITORY
from facecdm.training.dataset import work
from facecdm.training.dataset.columns import Groups
from facecdm.training.dataset.data_set import DataSet
from facecdm.training.dataset.disk import DiskDict, DiskList
from facecdm.training.dataset.manifest import Keys, Manifest, Record
from facecdm.training.dataset.pipeline import prepare
from facecdm.training.dataset.sources import FolderSource, Item, MadeItems, Picture
from facecdm.training.dataset.store import RecordLocation, Store
from facecdm.training.held_out import without
from facecdm.training.randomness import batches


def listed(folder, count: int, people: int = 50) -> DataSet:
    """A data set that lists `count` pictures, which share one record."""
    store = Store(folder / "faces")
    store.add(["face"], {"landmarks": torch.zeros(1, 0, 2)})
    at = (RecordLocation(store.location("face").shard, 0), None, None, None, None)
    box, points = (0.1, 0.2, 0.3, 0.4), ((0.25, 0.5),) * 5
    entries = (
        Record(
            f"{number:064d}", f"{number}.png", number % people, f"person {number % people}", "a caption " * 8, (64, 64),
            (0, 0, 64, 64), (64, 64), (64, 64), box, points, 0.9, Keys("face", "", ""), None, at,
        )
        for number in range(count)
    )  # fmt: skip
    Manifest("a source", "stub", "stub/mean.onnx", {}, {}, False, "", DiskList(entries), at[0]).write(folder)
    return DataSet(folder)


def test_an_open_data_set_keeps_few_bytes_of_a_picture(tmp_path):
    listed(tmp_path, 20)
    sizes = {}
    for count in (100, 600):
        listed(tmp_path, count)
        tracemalloc.start()
        data = DataSet(tmp_path)
        assert len(data.buckets[0]) == count and len(data.people) == 50
        sizes[count] = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    for kept, peak in zip(*sizes.values()):
        assert (peak - kept) / 500 < 100  # bytes; a Record takes more than 2,000


def test_groups_are_a_dictionary_in_the_order_of_the_first_pictures():
    labels = np.array([7, 7, 2, 9, 2, 7, 0], np.int32)
    groups = Groups(labels)
    assert dict(groups) == {7: [0, 1, 5], 2: [2, 4], 9: [3], 0: [6]} and list(groups) == [7, 2, 9, 0]
    assert len(groups) == 4 and max(groups) == 9 and 3 not in groups and 10 not in groups
    with pytest.raises(KeyError):
        groups[1]


def test_a_list_and_a_dictionary_on_disk():
    values = DiskList({"number": number} for number in range(5))
    values.append({"number": "last"})
    assert len(values) == 6 and values[-1] == {"number": "last"} and values[1:3] == [{"number": 1}, {"number": 2}]
    assert [value["number"] for value in values] == [0, 1, 2, 3, 4, "last"]
    with pytest.raises(IndexError):
        values[6]
    found = DiskDict()
    assert not found
    found.put([("b", 1), ("a", ["x", None]), ("b", 2)])
    assert found and list(found) == ["a", "b"] and dict(found) == {"a": ["x", None], "b": 2}
    assert "a" in found and "c" not in found and found.get("c") is None
    with pytest.raises(KeyError):
        found["c"]


@pytest.mark.parametrize("before, after", [(1, 3), (4, 2), (2, 8)])
def test_processes_share_an_epoch_without_overlap_also_after_a_resume_with_another_number(before, after):
    buckets = [array("i", range(0, 240)), array("i", range(240, 480))]
    size, stop = 8, 25
    seen: list[int] = []
    for count, start, end in ((before, 0, stop), (after, stop, 60)):
        for rank in range(count):  # each process has its own order
            order = batches(buckets, size, 3, start)
            parts = [next(order)[rank::count] for _ in range(start, end)]
            seen += [index for part in parts for index in part]
            assert count == 3 or all(len(part) == size // count for part in parts)
    assert sorted(seen) == list(range(480)), "a picture was seen twice or not at all"


def test_an_epoch_is_shuffled_over_the_whole_data_set():
    """Not within a window of what was read: batches of neighbours in the data set would be alike."""
    count, size = 600, 8
    epochs = batches([range(count)], size, 0, 0)
    first, second = (np.array([next(epochs) for _ in range(count // size)]) for _ in range(2))
    places = np.arange(count)
    for epoch in (first.reshape(-1), second.reshape(-1)):
        assert abs(np.corrcoef(epoch, places)[0, 1]) < 4 / count**0.5
        assert np.abs(np.diff(epoch)).mean() > 0.9 * count / 3  # the mean distance of two random numbers
    assert not (first.reshape(-1) == second.reshape(-1)).all()


def test_held_out_pictures_are_left_out_of_the_buckets():
    kept = without([range(4), range(4, 6)], frozenset({1, 4, 5}))
    assert [list(bucket) for bucket in kept] == [[0, 2, 3]]


class Made:
    """Pictures that are made when asked for; it counts the items in memory."""

    def __init__(self, count: int):
        self.count, self.alive, self.most = count, 0, 0

    def describe(self):
        return "made"

    def items(self):
        return MadeItems(self.count, self._item)

    def _item(self, number):
        source = self
        source.alive += 1
        source.most = max(source.most, source.alive)

        class Counted(Item):
            def __del__(self):
                source.alive -= 1

        decode = lambda data: Picture(colourful(number, (16, 16)), (16, 16))  # noqa: E731
        return Counted(f"{number:04d}", lambda: b"%d" % number, decode, f"words {number}", f"{number // 2}")


def test_a_preparation_holds_few_items_at_a_time(tmp_path, monkeypatch):
    monkeypatch.setattr(work, "SHARD", 16)
    source = Made(96)
    data = prepare(source, tmp_path, StubEncoders(16), StubFinder(), replace(SETTINGS, resolution=16, augmented=0))
    assert len(data) == 96 and len(data.people) == 48 and source.most <= 40, source.most


def test_parts_that_were_prepared_apart_are_one_data_set(tmp_path):
    """As docs/at-scale.md has it: all shards in one folder, then the command over all pictures makes nothing."""
    for number in range(8):
        part = tmp_path / "pictures" / f"part-{number // 4}"
        save(part / f"person {number // 2}" / f"{number}.png", colourful(number), f"words {number}")
    sets = [tmp_path / "sets" / f"part-{number}" for number in range(2)]
    for folder in sets:
        prepare(FolderSource(tmp_path / "pictures" / folder.name), folder, StubEncoders(), StubFinder(), SETTINGS)
    whole = FolderSource(tmp_path / "pictures")
    for path in (path for folder in sets for path in folder.glob("*/*.safetensors")):
        target = tmp_path / "data" / path.parent.name / path.name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, target)
    encoders, finder = StubEncoders(), StubFinder()
    data = prepare(whole, tmp_path / "data", encoders, finder, SETTINGS)
    assert len(data) == 8 and not encoders.asked and not finder.asked
    rows = data.load(range(8))
    alone = DataSet(sets[1]).load(range(4))
    assert torch.equal(rows.latents[4:], alone.latents) and torch.equal(rows.face[4:], alone.face)


@pytest.mark.skipif(not Path("/proc/self/status").is_file(), reason="the benchmark reads its memory from /proc")
def test_the_benchmark_prepares_and_reads_a_data_set(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(REPOSITORY / "benchmarks")
    benchmark = importlib.import_module("data_set_scale")
    assert benchmark.prepare_all(tmp_path, 32, kill=False)["rows"] == 32
    assert benchmark.read_part(tmp_path, 0, 2, 0)["rows"] == 16 and benchmark.open_all(tmp_path)["rows"] == 32

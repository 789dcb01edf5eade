"""A corpus of bad weight files: good files of each kind at small sizes, and what is done to them.

Cases follow from a seed. A case says whether the reader must refuse the file, must load it, or may do either.
Every tensor is damaged. The layers of a model are alike, so the first THOROUGH of a name and shape are damaged in every
way, and each further one in one way.
"""

import json
import os
import random
import re
import struct
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from bad_pickles import BOMBS
from safetensors.torch import save
from torch import Tensor

REFUSED, LOADS, EITHER = "refused", "loads", "either"
FP8 = torch.float8_e4m3fn
LENGTHS = (0, 1, 10**6, 10**9, 2**40, 2**63 - 1)  # declared, of a header
THOROUGH = 2
NUMBERS = ("01", "1000000", "1000000000", "-1", "x")  # of a layer


@dataclass(frozen=True, eq=False)
class Kind:
    """A good file and its reader.

    name      of the kind
    suffix    .safetensors, or .bin and the like for a pickle
    tensors   by key
    read      opens a path as a node or command does
    metadata  of a safetensors file
    optional  whether a key may be absent
    fp8       what becomes of a file in fp8
    """

    name: str
    suffix: str
    tensors: Mapping[str, Tensor]
    read: Callable[[Path], object]
    metadata: dict[str, str] = field(default_factory=dict)
    optional: Callable[[str], bool] = lambda key: False
    fp8: str = LOADS

    def write(self, path: Path, tensors: Mapping[str, Tensor], metadata: dict[str, str] | None = None) -> None:
        if path.suffix == ".safetensors":
            path.write_bytes(save({key: value.contiguous().clone() for key, value in tensors.items()}, metadata or {}))
        else:
            torch.save(dict(tensors), path)


@dataclass(frozen=True, eq=False)
class Case:
    """What is done to a file, and what its reader must do. `write` gives the path to read."""

    name: str
    expected: str
    write: Callable[[Path], Path]


def cases(kind: Kind, seed: int = 0) -> list[Case]:
    """All cases of a kind."""
    rng = random.Random(f"{kind.name} {seed}")
    return [*_tensors(kind, rng), *_bytes(kind, rng), *_paths(kind)]


def sample(found: list[Case], count: int, seed: object = 0) -> list[Case]:
    """At most `count` cases, as many of each kind of damage as possible."""
    by_damage: dict[str, list[Case]] = {}
    for case in random.Random(seed).sample(found, len(found)):
        by_damage.setdefault(case.name.partition(":")[0], []).append(case)
    taken: list[Case] = []
    while len(taken) < count and any(by_damage.values()):
        taken += [group.pop() for group in by_damage.values() if group]
    return taken[:count]


def _tensors(kind: Kind, rng: random.Random) -> Iterator[Case]:
    """One tensor is missing, of another shape, type or name, or holds no numbers."""

    def case(name: str, expected: str, tensors: Mapping[str, Tensor]) -> Case:
        def write(folder: Path) -> Path:
            kind.write(folder / f"a{kind.suffix}", tensors, kind.metadata)
            return folder / f"a{kind.suffix}"

        return Case(name, expected, write)

    whole = kind.tensors
    yield case("unchanged", LOADS, whole)
    yield case("empty", REFUSED, {})
    yield case("fp8", kind.fp8, {key: v.to(FP8) if v.is_floating_point() else v for key, v in whole.items()})
    seen: Counter = Counter()
    for key, value in whole.items():
        alike = re.sub(r"\d+", "N", key), value.shape
        seen[alike] += 1
        changes = list(_changes(key, value, EITHER if kind.optional(key) else REFUSED))
        for name, expected, changed in changes if seen[alike] <= THOROUGH else [rng.choice(changes)]:
            others = {other: tensor for other, tensor in whole.items() if other != key}
            yield case(f"{name}: {key}", expected, others | changed)


def _changes(key: str, value: Tensor, expected: str) -> Iterator[tuple[str, str, dict[str, Tensor]]]:
    """(what was done, what the reader must do, the tensors in place of this one)."""
    yield "dropped", expected, {}
    # torch reads one value for a scalar
    yield "flat", expected if value.ndim else EITHER, {key: value.flatten()[:1]}
    yield "no rows", expected, {key: value[:0] if value.ndim else torch.ones(0)}
    # Declares a billion rows and holds none of their bytes.
    yield "rows without bytes", expected if value.ndim else EITHER, {key: value.new_empty(10**9, 0)}
    # Another input width is a size like any other: what is applied to a model is checked then.
    yield "longer", EITHER, {key: torch.cat([value, value], -1) if value.ndim else value.repeat(2)}
    for dtype in (torch.int64, torch.uint8, torch.bool):
        if value.dtype != dtype:
            yield str(dtype), expected, {key: value.to(dtype)}
    for number in (float("nan"), float("inf"), 1e38, -1e38):
        if value.is_floating_point():
            filled = value.float().clone()
            filled.view(-1)[-1] = number
            yield str(number), REFUSED, {key: filled}
    for number in NUMBERS:
        renamed = re.sub(r"(?<=\.)\d+(?=\.)", number, key, count=1)
        if renamed != key:
            yield f"number {number}", expected, {renamed: value}


def _bytes(kind: Kind, rng: random.Random) -> Iterator[Case]:
    """Damage to the file's bytes: cut, flipped, and sizes that are declared."""

    def damaged(name: str, expected: str, damage: Callable[[bytearray], bytes | bytearray]) -> Case:
        def write(folder: Path) -> Path:
            path = folder / f"a{kind.suffix}"
            kind.write(path, kind.tensors, kind.metadata)
            path.write_bytes(damage(bytearray(path.read_bytes())))
            return path

        return Case(name, expected, write)

    for share in (0, 0.001, 0.1, 0.5, 0.99):
        yield damaged(f"cut: at {share}", REFUSED, lambda data, share=share: data[: int(len(data) * share)])
    for _ in range(60):
        place, bit = rng.random(), 1 << rng.randrange(8)
        yield damaged(f"flipped: {place:.4f}", EITHER, lambda data, place=place, bit=bit: _flip(data, place, bit))
    if kind.suffix == ".safetensors":
        for length in LENGTHS:
            yield damaged(f"header: {length}", REFUSED, lambda data, n=length: struct.pack("<Q", n) + data[8:])
        for name, size in (("shape", 10**6), ("shape", 10**9), ("shape", -1), ("data_offsets", 10**9)):
            yield damaged(f"declared: {name} {size}", REFUSED, lambda data, name=name, n=size: _declare(data, name, n))
        for text in ("[" * 10**5, "{}", "null", '{"a": 1}', '{"a": {"dtype": "F32", "shape": [1]}}'):
            yield damaged(f"json: {text[:20]}", REFUSED, lambda data, text=text: _header(text.encode()))
    else:
        for name, content in BOMBS.items():
            yield damaged(f"pickle: {name}", REFUSED, lambda data, content=content: content)


def _flip(data: bytearray, place: float, bit: int) -> bytearray:
    """One bit of the first 4 KB, where sizes and names are."""
    data[int(min(len(data), 4096) * place)] ^= bit
    return data


def _declare(data: bytearray, name: str, size: int) -> bytes:
    (length,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8 : 8 + length])
    entry = next(value for key, value in header.items() if key != "__metadata__")
    entry[name] = [size, *entry[name][1:]] if name == "shape" else [entry[name][0], size]
    return _header(json.dumps(header).encode()) + data[8 + length :]


def _header(text: bytes) -> bytes:
    return struct.pack("<Q", len(text)) + text


def _paths(kind: Kind) -> Iterator[Case]:
    """Things that are no such file, under its name; the file under other names."""

    def directory(folder: Path) -> Path:
        (folder / f"a{kind.suffix}").mkdir()
        return folder / f"a{kind.suffix}"

    def pipe(folder: Path) -> Path:
        os.mkfifo(folder / f"a{kind.suffix}")
        return folder / f"a{kind.suffix}"

    def named(suffix: str) -> Callable[[Path], Path]:
        def write(folder: Path) -> Path:
            kind.write(folder / f"b{kind.suffix}", kind.tensors, kind.metadata)
            return (folder / f"b{kind.suffix}").rename(folder / f"a{suffix}")

        return write

    yield Case("directory", REFUSED, directory)
    if hasattr(os, "mkfifo"):
        yield Case("pipe", REFUSED, pipe)
    yield Case("missing", REFUSED, lambda folder: folder / f"missing{kind.suffix}")
    yield Case("long name", REFUSED, lambda folder: folder / ("a" * 300 + kind.suffix))
    yield Case("zero in the name", REFUSED, lambda folder: folder / f"a\0{kind.suffix}")
    for suffix in sorted({".bin", ".txt", ".safetensors", ""} - {kind.suffix}):
        yield Case(f"suffix: {suffix}", EITHER, named(suffix))

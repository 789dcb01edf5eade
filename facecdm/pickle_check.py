"""Check a pickle of tensors before torch reads it: torch's safe unpickler runs no code, but bounds no time or memory.

A few hundred bytes can otherwise hash a tuple of 2^40 parts, allocate gigabytes, or unpack to a thousand times their
size.
"""

import pickletools
from collections.abc import Iterator
from io import SEEK_END, BytesIO
from typing import IO
from zipfile import ZIP_STORED, ZipFile

ZIP = b"PK\x03\x04"  # by which torch tells its two formats apart
LEGACY = 5  # pickles at the beginning of a file of the older format; the numbers follow
CODE = "it holds more than tensors, perhaps code, and no code in a file is run"
LARGEST_TUPLE = 1000  # values, with those of the tuples inside
# What builds a tensor or a plain container. Sets, bytearrays and the like are values that no weight file needs.
_GLOBALS = ("collections OrderedDict", "torch._utils _rebuild_", "torch.nn.parameter Parameter", "_codecs encode")
_TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}


def check_pickle(file: IO[bytes]) -> None:
    """Raise ValueError for a file that claims more than it holds, or holds more than tensors and plain values.

    Raises further types for a damaged one. Leaves `file` at its beginning.
    """
    size = file.seek(0, SEEK_END)
    file.seek(0)
    if file.read(len(ZIP)) == ZIP:
        _check_zip(file, size)
    else:
        file.seek(0)
        for _ in range(LEGACY):
            _check_operations(file)
    file.seek(0)


def _check_zip(file: IO[bytes], size: int) -> None:
    with ZipFile(file) as archive:
        entries = archive.infolist()
        claimed = sum(entry.file_size for entry in entries)
        if claimed > size or any(entry.compress_type != ZIP_STORED for entry in entries):
            raise ValueError(f"its parts claim {claimed:,} bytes and the file has {size:,}")
        for entry in entries:
            if entry.filename.endswith(".pkl"):
                _check_operations(BytesIO(archive.read(entry)))


def _check_operations(file: IO[bytes]) -> None:
    """Follow one pickle with a stack of sizes: 1 for a value, and all its values for a tuple."""
    stack: list[int | None] = []  # None is a mark
    memo: dict[int, int] = {}
    for operation, argument, _ in pickletools.genops(file):
        name = operation.name
        if name == "GLOBAL" and not _is_allowed(argument):
            raise ValueError(f"{CODE} ({argument.replace(' ', '.')[:100]})")
        if name in ("BINPUT", "LONG_BINPUT"):
            memo[argument] = stack[-1] or 0
        elif name in ("BINGET", "LONG_BINGET"):
            stack.append(memo[argument])
        elif name == "MARK":
            stack.append(None)
        else:
            taken = list(_take(stack, operation, name))
            total = 1 + sum(taken) if name in _TUPLES or name == "TUPLE" else 1
            if total > LARGEST_TUPLE:
                raise ValueError(f"it holds a tuple of more than {LARGEST_TUPLE} values")
            stack += [total] * len(operation.stack_after)


def _take(stack: list[int | None], operation: pickletools.OpcodeInfo, name: str) -> Iterator[int]:
    """Pop what an operation takes; with a mark, all above the mark, and what it takes below."""
    before = operation.stack_before
    if pickletools.markobject in before:
        while (value := stack.pop()) is not None:
            yield value
        before = before[: before.index(pickletools.markobject)]
    for _ in before:
        yield stack.pop() or 0


def _is_allowed(name: str) -> bool:
    if name.startswith(_GLOBALS):
        return True
    module, _, kind = name.partition(" ")
    return module.split(".")[0] == "torch" and not kind.endswith("Tensor")

"""One file of records: a safetensors file, read row by row, with a checksum of each row.

Rows are read, not memory-mapped: a file truncated while open then raises an exception instead of a bus error.
"""

import hashlib
import json
import math
import struct
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

FORMAT = "facecdm.records/1"
DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "U8": torch.uint8,
}


def checksum(key: str, name: str, row: Tensor) -> str:
    """Checksum of the row's type, shape and bytes, and of the record's key, which detects swapped rows."""
    total = hashlib.blake2b(f"{key} {name} {row.dtype} {tuple(row.shape)} ".encode(), digest_size=16)
    total.update(row.contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return total.hexdigest()


def write_shard(path: Path, keys: list[str], tensors: Mapping[str, Tensor], notes: Mapping[str, dict]) -> None:
    """Write one shard: row i of every tensor belongs to keys[i]; notes may have other keys. Raises OSError."""
    from safetensors.torch import save_file

    plain = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
    index = {
        "format": FORMAT,
        "keys": json.dumps(keys),
        "notes": json.dumps(notes, ensure_ascii=False),
        "sums": json.dumps(
            {name: list(map(checksum, keys, [name] * len(keys), value)) for name, value in plain.items()}
        ),
    }
    save_file(plain, path, index | {"index": _index_sum(index)})


def _index_sum(metadata: Mapping[str, str]) -> str:
    parts = [metadata[name] for name in ("format", "keys", "notes", "sums")]
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()


class Shard:
    """An open shard. Raises OSError or ValueError for a file that is damaged or in another format.

    keys    keys of its records, by row
    notes   notes, by key
    sums    checksums by tensor and row; {} in files written before checksums existed
    """

    def __init__(self, path: Path):
        if not path.is_file():
            raise ValueError("it is not a file")
        self._file = path.open("rb", buffering=0)
        try:
            self._read_header(path.stat().st_size)
        except BaseException:
            self._file.close()
            raise

    def _read_header(self, size: int) -> None:
        (length,) = struct.unpack("<Q", self._bytes(0, 8))
        if length > size:
            raise ValueError("its header is damaged")
        self._tensors = json.loads(self._bytes(8, length))
        self._start = 8 + length
        metadata = self._tensors.pop("__metadata__", {})
        if metadata.get("format") != FORMAT:
            raise ValueError(f"its format is {metadata.get('format')!r}")
        if metadata.get("index", "") != ("sums" in metadata and _index_sum(metadata) or ""):
            raise ValueError("its index does not match its checksum")
        self.keys: list[str] = json.loads(metadata["keys"])
        self.notes: dict[str, dict] = json.loads(metadata["notes"])
        self.sums: dict[str, list[str]] = json.loads(metadata.get("sums", "{}"))
        for entry in self._tensors.values():
            begin, end = entry["data_offsets"]
            if begin < 0 or math.prod(entry["shape"]) * DTYPES[entry["dtype"]].itemsize != end - begin:
                raise ValueError("its header is damaged")
        if self._start + max((entry["data_offsets"][1] for entry in self._tensors.values()), default=0) != size:
            raise ValueError("it was cut short or added to")

    def check_key(self, key: str, number: int) -> None:
        """Raise ValueError unless the row belongs to `key`."""
        if self.keys[number] != key:
            raise ValueError(f"row {number} belongs to another record")

    def row_shape(self, name: str) -> tuple[int, ...]:
        """The shape of each row of the tensor `name`. Raises KeyError."""
        return tuple(self._tensors[name]["shape"][1:])

    def row(self, name: str, number: int) -> Tensor:
        """A copy of one row of the tensor `name`. Raises OSError, ValueError (damaged), KeyError."""
        entry = self._tensors[name]
        dtype, shape = DTYPES[entry["dtype"]], entry["shape"][1:]
        size = math.prod(shape) * dtype.itemsize
        data = self._bytes(self._start + entry["data_offsets"][0] + number * size, size)
        row = torch.frombuffer(bytearray(data), dtype=dtype).view(shape) if size else torch.empty(shape, dtype=dtype)
        if self.sums and self.sums[name][number] != checksum(self.keys[number], name, row):
            raise ValueError(f"row {number} of {name} does not match its checksum")
        return row

    def close(self) -> None:
        self._file.close()

    def _bytes(self, start: int, size: int) -> bytes:
        self._file.seek(start)
        data = self._file.read(size)
        if len(data) != size:
            raise ValueError("it was cut short")
        return data

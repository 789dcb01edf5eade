"""Input and output shapes of an ONNX file, read in milliseconds without a session.

Walks the protobuf wire format (ModelProto.graph = 7; GraphProto.initializer = 5, input = 11, output = 12)
over a memory map and skips the weights, so a pack of 300 MB is not read.
Source: onnx.proto3 of the ONNX project and the protobuf encoding guide.
"""

import mmap
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ..errors import BadFile

Shape = tuple[int | None, ...]


@dataclass(frozen=True)
class Signature:
    """Shapes of inputs and outputs; weights that are listed as inputs are left out. None: free size."""

    inputs: tuple[Shape, ...]
    outputs: tuple[Shape, ...]


def read_signature(path: Path) -> Signature:
    """Read the shapes. Raises BadFile if there is no file, or if it is empty, truncated, or not an ONNX model."""
    if not os.path.isfile(path):
        raise BadFile(f"{path} is not a file: get the pack again.")
    try:
        with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            return _signature(data)
    except (ValueError, IndexError) as error:
        size = path.stat().st_size
        raise BadFile(
            f"{path} is not a whole ONNX file ({size:,} bytes; {error}). The download was probably cut off: "
            "delete it, get the pack again, and compare the file's size."
        ) from error


def _signature(data: mmap.mmap) -> Signature:
    graph = dict(_fields(data, 0, len(data))).get(7)  # reads all fields to detect a truncated file
    if graph is None:
        raise ValueError("it has no graph")
    inputs, outputs, weights = {}, {}, set()
    for field, span in _fields(data, *graph):
        if field == 5:
            weights.add(_name(data, span, 8))
        elif field in (11, 12):
            (inputs if field == 11 else outputs)[_name(data, span, 1)] = _shape(data, span)
    return Signature(tuple(shape for name, shape in inputs.items() if name not in weights), tuple(outputs.values()))


def _fields(data: mmap.mmap, start: int, end: int) -> Iterator[tuple[int, tuple[int, int]]]:
    """Yield (field number, (start, end)) of each field; a varint has (its value, -1) in place of the span."""
    while start < end:
        tag, start = _varint(data, start)
        kind = tag & 7
        if kind == 0:
            value, start = _varint(data, start)
            yield tag >> 3, (value, -1)
            continue
        if kind == 2:
            length, start = _varint(data, start)
        elif kind in (1, 5):
            length = 8 if kind == 1 else 4
        else:
            raise ValueError("not protobuf")
        if start + length > end:
            raise ValueError(f"ends {start + length - end:,} bytes too early")
        yield tag >> 3, (start, start + length)
        start += length


def _varint(data: mmap.mmap, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7
        if shift > 63:
            raise ValueError("not protobuf")


def _name(data: mmap.mmap, span: tuple[int, int], field: int) -> str:
    for number, (start, end) in _fields(data, *span):
        if number == field:
            return data[start:end].decode("utf-8", "replace")
    return ""


def _shape(data: mmap.mmap, value_info: tuple[int, int]) -> Shape:
    """ValueInfoProto.type(2).tensor_type(1).shape(2).dim(1)*.dim_value(1)"""
    span = value_info
    for wanted in (2, 1, 2):
        span = next((inner for number, inner in _fields(data, *span) if number == wanted), None)
        if span is None:
            return ()
    dims = [inner for number, inner in _fields(data, *span) if number == 1]
    return tuple(_dim(data, inner) for inner in dims)


def _dim(data: mmap.mmap, span: tuple[int, int]) -> int | None:
    value = next((inner[0] for number, inner in _fields(data, *span) if number == 1), 0)
    return value if 0 < value < 1 << 31 else None

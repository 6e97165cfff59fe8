"""Items and rows as bytes: the form of Triton's BYTES tensors, which costs less than JSON and takes pictures as they are."""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence

import numpy as np

from benchmarks.serving.peers import Item, Rows


def pack(items: Sequence[Item]) -> bytes:
    """Pack each item after its length in bytes (uint32, little-endian); texts in UTF-8."""
    parts = [item.encode() if isinstance(item, str) else item for item in items]
    return b"".join(struct.pack("<I", len(part)) + part for part in parts)


def unpack(body: bytes) -> Iterator[bytes]:
    at = 0
    while at < len(body):
        (length,) = struct.unpack_from("<I", body, at)
        yield body[at + 4 : at + 4 + length]
        at += 4 + length


def rows_of(body: bytes, count: int) -> Rows:
    """Read (count, dim) of float32, little-endian, row by row."""
    return np.frombuffer(body, "<f4").reshape(count, -1)

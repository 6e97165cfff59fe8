"""How the cache writes an entry: one item's rows of one tap as bytes, with a checksum.

crc32 of the rest (4 bytes) | length of the head (4) | head, JSON | rows float32 | values of spans float32 | parts int32
"""

from __future__ import annotations

import json
import struct
import zlib
from dataclasses import asdict, dataclass, replace
from functools import lru_cache

import numpy as np

from topwork_server.ingest.pieces import Piece
from topwork_server.types import Array, Numerics, Spans

#: Part of each key: entries of another format are never found.
FORMAT = 1
_PREFIX = struct.Struct("<II")


@dataclass(frozen=True, slots=True)
class Kept:
    """One item's features of one tap, and what computed them."""

    piece: Piece
    numerics: Numerics


@dataclass(frozen=True, slots=True)
class _Head:
    """What an entry says of itself; entries of one encoder mostly say the same."""

    shape: tuple[int, int]
    numerics: Numerics
    spans: str = ""  # their kind
    width: int = 0
    parts: bool = False


@lru_cache(1024)
def _said(head: _Head) -> bytes:
    return json.dumps(asdict(head), separators=(",", ":")).encode()


@lru_cache(1024)
def _read(said: bytes) -> _Head:
    record = json.loads(said)
    return _Head(**{**record, "shape": tuple(record["shape"]), "numerics": Numerics(**record["numerics"])})


def packed(kept: Kept) -> bytes:
    rows, spans = kept.piece.rows, kept.piece.spans
    head = _Head((rows.shape[0], rows.shape[1]), kept.numerics)
    arrays = [rows.astype("<f4", copy=False)]
    if spans is not None:
        head = replace(head, spans=spans.kind, width=spans.values.shape[1], parts=spans.parts is not None)
        arrays.append(spans.values.astype("<f4", copy=False))
        if spans.parts is not None:
            arrays.append(spans.parts.astype("<i4", copy=False))
    said = _said(head)
    body = b"".join([said, *(array.tobytes() for array in arrays)])
    return _PREFIX.pack(zlib.crc32(body), len(said)) + body


def unpacked(data: bytes) -> Kept | None:
    """None where the bytes are not what was written."""
    if len(data) < _PREFIX.size:
        return None
    checksum, length = _PREFIX.unpack_from(data)
    if zlib.crc32(memoryview(data)[_PREFIX.size :]) != checksum:
        return None
    start = _PREFIX.size + length
    head = _read(data[_PREFIX.size : start])
    n, dim = head.shape
    rows = np.frombuffer(data, "<f4", n * dim, start).reshape(n, dim)
    return Kept(Piece(rows, _spans(head, data, start + rows.nbytes) if head.spans else None), head.numerics)


def _spans(head: _Head, data: bytes, start: int) -> Spans:
    n, width = head.shape[0], head.width
    values: Array = np.frombuffer(data, "<f4", n * width, start).reshape(n, width)
    parts = np.frombuffer(data, "<i4", n, start + values.nbytes) if head.parts else None
    return Spans(head.spans, values, parts)

"""How the cache writes an entry: one item's rows of one tap as bytes, with a checksum.

crc32 of the rest (4 bytes) | length of the head (4) | head, JSON | rows float32 | values of spans float32 | parts int32
"""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from topwork_server.sets.pieces import Piece
from topwork_server.types import Array, Numerics, Spans

#: Part of each key: entries of another format are never found.
FORMAT = 1
_PREFIX = struct.Struct("<II")


@dataclass(frozen=True, slots=True)
class Kept:
    """One item's features of one tap, and what computed them."""

    piece: Piece
    numerics: Numerics


def packed(kept: Kept) -> bytes:
    rows, spans = kept.piece.rows, kept.piece.spans
    head: dict[str, Any] = {"rows": rows.shape, "numerics": asdict(kept.numerics)}
    arrays = [rows.astype("<f4", copy=False)]
    if spans is not None:
        head["spans"] = {"kind": spans.kind, "width": spans.values.shape[1], "parts": spans.parts is not None}
        arrays.append(spans.values.astype("<f4", copy=False))
        if spans.parts is not None:
            arrays.append(spans.parts.astype("<i4", copy=False))
    said = json.dumps(head, separators=(",", ":")).encode()
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
    head = json.loads(data[_PREFIX.size : start])
    n, dim = head["rows"]
    rows = np.frombuffer(data, "<f4", n * dim, start).reshape(n, dim)
    spans = _spans(head["spans"], data, start + rows.nbytes, n) if "spans" in head else None
    return Kept(Piece(rows, spans), Numerics(**head["numerics"]))


def _spans(said: Mapping[str, Any], data: bytes, start: int, n: int) -> Spans:
    width = said["width"]
    values: Array = np.frombuffer(data, "<f4", n * width, start).reshape(n, width)
    parts = np.frombuffer(data, "<i4", n, start + values.nbytes) if said["parts"] else None
    return Spans(said["kind"], values, parts)

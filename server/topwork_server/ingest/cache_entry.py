"""How the cache writes an entry: one item's rows of one tap as bytes, with a checksum that binds them to their key.

xxh3 of the key and the rest (8 bytes) | length of the head (4) | head, JSON | rows float32 | spans float32 | parts int32
"""

from __future__ import annotations

import json
import struct
from dataclasses import asdict, dataclass, replace
from functools import lru_cache

import numpy as np
import xxhash

from topwork_server.ingest.item_features import ItemFeatures
from topwork_server.types import Array, Numerics, Spans

#: Part of each key: entries of another format are never found.
FORMAT = 2
_CHECKSUM, _LENGTH = struct.Struct("<Q"), struct.Struct("<I")


@dataclass(frozen=True, slots=True)
class CacheEntry:
    """One item's features of one tap, and what computed them."""

    features: ItemFeatures
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
def _head_to_json(head: _Head) -> bytes:
    return json.dumps(asdict(head), separators=(",", ":")).encode()


@lru_cache(1024)
def _head_from_json(head_json: bytes) -> _Head:
    record = json.loads(head_json)
    return _Head(**{**record, "shape": tuple(record["shape"]), "numerics": Numerics(**record["numerics"])})


def pack_entry(key: bytes, entry: CacheEntry) -> bytes:
    rows, spans = entry.features.rows, entry.features.spans
    head = _Head((rows.shape[0], rows.shape[1]), entry.numerics)
    arrays = [rows.astype("<f4", copy=False)]
    if spans is not None:
        head = replace(head, spans=spans.kind, width=spans.values.shape[1], parts=spans.parts is not None)
        arrays.append(spans.values.astype("<f4", copy=False))
        if spans.parts is not None:
            arrays.append(spans.parts.astype("<i4", copy=False))
    head_json = _head_to_json(head)
    body = b"".join([_LENGTH.pack(len(head_json)), head_json, *(array.tobytes() for array in arrays)])
    return _CHECKSUM.pack(_checksum(key, body)) + body


def unpack_entry(key: bytes, data: bytes) -> CacheEntry | None:
    """None where the bytes are not what was written under this key."""
    if len(data) < _CHECKSUM.size + _LENGTH.size:
        return None
    if _checksum(key, memoryview(data)[_CHECKSUM.size :]) != _CHECKSUM.unpack_from(data)[0]:
        return None
    begin = _CHECKSUM.size + _LENGTH.size
    start = begin + _LENGTH.unpack_from(data, _CHECKSUM.size)[0]
    head = _head_from_json(data[begin:start])
    n, dim = head.shape
    rows = np.frombuffer(data, "<f4", n * dim, start).reshape(n, dim)
    return CacheEntry(ItemFeatures(rows, _spans(head, data, start + rows.nbytes) if head.spans else None), head.numerics)


def _checksum(key: bytes, body: bytes | memoryview) -> int:
    hasher = xxhash.xxh3_64(key)
    hasher.update(body)
    return int(hasher.intdigest())


def _spans(head: _Head, data: bytes, start: int) -> Spans:
    n, width = head.shape[0], head.width
    values: Array = np.frombuffer(data, "<f4", n * width, start).reshape(n, width)
    parts = np.frombuffer(data, "<i4", n, start + values.nbytes) if head.parts else None
    return Spans(head.spans, values, parts)

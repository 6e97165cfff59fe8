"""SHA-256 of what an item contains: equal digests mean that it needs no encoding again."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np

from topwork_server.types import Array, Clip, Item, Picture, Text

#: Of a file, read at a time.
CHUNK_BYTES = 1 << 20


def content_hash(item: Item) -> str:
    """64 hex digits. Of a clip the same whether it comes as bytes or as a file; OSError where the file cannot be read."""
    match item:
        case Text(text, None):
            return _hash_parts("text", _utf8(text))
        case Text(text, str(pair)):
            return _hash_parts("pair", _utf8(text), _utf8(pair))
        case Picture(data):
            return _hash_parts("picture", data)
        case Clip(Path() as path):
            return _hash_file(path)
        case Clip(bytes(data)):
            return _hash_parts("clip", data)
    assert isinstance(item, np.ndarray)
    return _hash_array(item)


def _utf8(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")


def _hash_parts(kind: str, *parts: bytes | memoryview) -> str:
    """Each part goes in with its length, so that no two lists of parts give the same bytes."""
    found = hashlib.sha256(kind.encode())
    for part in parts:
        found.update(b":%d:" % len(part))
        found.update(part)
    return found.hexdigest()


def _hash_file(path: Path) -> str:
    """As of the bytes of a clip, a piece at a time."""
    with path.open("rb") as file:
        found = hashlib.sha256(b"clip:%d:" % path.stat().st_size)
        while piece := file.read(CHUNK_BYTES):
            found.update(piece)
    return found.hexdigest()


def _hash_array(array: Array) -> str:
    """With dtype and shape; neither byte order nor layout in memory matters."""
    plain = np.ascontiguousarray(array, array.dtype.newbyteorder("<"))
    return _hash_parts("array", repr((plain.dtype.str, plain.shape)).encode(), plain.reshape(-1).view(np.uint8).data)

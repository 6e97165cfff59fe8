"""An index as one file: faiss's bytes, then what we know of them, then a checksum of both.

faiss trusts what it reads (a length out of a damaged file is allocated, a link out of a damaged graph is followed), so a file is
read only after its checksum was found right. It is read into memory and not mapped: a mapped file that is cut short ends the
process with SIGBUS at the next search.
"""

from __future__ import annotations

import json
import struct
import zlib
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, BinaryIO

from topwork_plugins.faiss_index import library

FOOTER = struct.Struct("<IQ8s")
MAGIC = b"topwork1"
CHUNK = 1 << 20


@dataclass(frozen=True)
class IndexLabel:
    """What a file says of its index. `kind` is what was asked for, `name` what was built."""

    kind: str
    name: str
    metric: str
    dim: int
    count: int
    trained_on: int


def write(index: Any, label: IndexLabel, path: Path) -> None:
    """DiskFull, and no file, where there is no room. faiss writes through us: its own writer loses a late error."""
    faiss = library.load()
    checksum = 0

    def keep(chunk: bytes) -> None:
        nonlocal checksum
        checksum = zlib.crc32(chunk, checksum)
        file.write(chunk)

    try:
        with library.disk_errors(f"cannot write {path.name}"), path.open("wb") as file:
            faiss.write_index(index, faiss.PyCallbackIOWriter(keep, CHUNK))
            encoded = json.dumps(asdict(label)).encode()
            keep(encoded)
            file.write(FOOTER.pack(checksum, len(encoded), MAGIC))
    except BaseException:
        path.unlink(missing_ok=True)
        raise


def read(path: Path) -> tuple[Any, IndexLabel]:
    """ValueError where the file is not as it was written."""
    size = path.stat().st_size
    with path.open("rb") as file:
        file.seek(max(0, size - FOOTER.size))
        end = file.read()
        if len(end) != FOOTER.size or not end.endswith(MAGIC):
            raise ValueError(f"{path.name} is not an index of ours, or it was cut short")
        checksum, length, _ = FOOTER.unpack(end)
        file.seek(0)
        if length > size or _checksum(file, size - FOOTER.size) != checksum:
            raise ValueError(f"{path.name} is damaged: its checksum is wrong")
        file.seek(size - FOOTER.size - length)
        label = IndexLabel(**json.loads(file.read(length)))
    return library.load().read_index(str(path)), label


def _checksum(file: BinaryIO, length: int) -> int:
    checksum = 0
    while length:
        chunk = file.read(min(CHUNK, length))
        if not chunk:
            raise ValueError("the file ends too early")
        checksum = zlib.crc32(chunk, checksum)
        length -= len(chunk)
    return checksum


def size(index: Any) -> int:
    """Bytes that the index would take in a file, which are those of its codes, ids, links and centres in memory."""
    faiss = library.load()
    total = 0

    def count(chunk: bytes) -> None:
        nonlocal total
        total += len(chunk)

    faiss.write_index(index, faiss.PyCallbackIOWriter(count, CHUNK))
    return total

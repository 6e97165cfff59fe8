"""A bounded cache of features that writes to any set may reuse: one SQLite file in $TOPWORK_HOME/cache.

The cache is never needed: one that cannot be read or written is skipped, and a corrupt one is deleted, so no request fails
because of it. An entry holds one item's rows of one tap, with a checksum that binds them to their key:

    xxh3 of the key and the rest (8 bytes) | MessagePack of CacheEntry, an array as its dtype, shape and bytes
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import sqlite3
import struct
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import numpy as np
import xxhash

from topwork_server.features import ItemFeatures
from topwork_server.types import Array, Numerics

#: Part of each key: entries of another format are never found.
FORMAT = 3
_CHECKSUM = struct.Struct("<Q")


@dataclass(frozen=True, slots=True)
class CacheEntry:
    """One item's features of one tap, and what computed them."""

    features: ItemFeatures
    numerics: Numerics


def pack_entry(key: bytes, entry: CacheEntry) -> bytes:
    body = _ENCODER.encode(entry)
    return _CHECKSUM.pack(_checksum(key, body)) + body


def unpack_entry(key: bytes, data: bytes) -> CacheEntry | None:
    """Decode an entry; None where the bytes are not what was written under this key."""
    body = memoryview(data)[_CHECKSUM.size :]
    if not body or _checksum(key, body) != _CHECKSUM.unpack_from(data)[0]:
        return None
    return _DECODER.decode(body)


def _pack_array(array: Array) -> tuple[str, tuple[int, ...], bytes]:
    return array.dtype.str, array.shape, array.tobytes()


def _unpack_array(kind: type, packed: tuple[str, list[int], bytes]) -> Array:
    dtype, shape, data = packed
    return np.frombuffer(data, dtype).reshape(shape)


_ENCODER = msgspec.msgpack.Encoder(enc_hook=_pack_array)
_DECODER = msgspec.msgpack.Decoder(CacheEntry, dec_hook=_unpack_array)


def _checksum(key: bytes, body: bytes | memoryview) -> int:
    hasher = xxhash.xxh3_64(key)
    hasher.update(body)
    return int(hasher.intdigest())


#: Pages that a row of 384 floats fills well.
PAGE = 16 << 10
#: Keys of one query, and entries that are evicted at a time.
BATCH, EVICTED = 500, 50
#: One entry may take so much of the whole; a map of cells larger than that would throw out all else.
LARGEST_SHARE = 1 / 8
#: What of the bound is left free by an eviction, so that the next put does not evict again.
SLACK = 1 / 16

_SCHEMA = """
CREATE TABLE IF NOT EXISTS features (key BLOB PRIMARY KEY, used INTEGER NOT NULL, value BLOB NOT NULL);
CREATE INDEX IF NOT EXISTS by_use ON features (used);
"""
_CORRUPT = {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}

T = TypeVar("T")
log = logging.getLogger(__name__)


def key_of(fingerprint: str, options: Mapping[str, Any], content: str) -> bytes:
    """Hash what was encoded and all that decides its features: 32 bytes."""
    meaning = json.dumps([FORMAT, fingerprint, dict(options), content], sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(meaning.encode()).digest()


class FeatureCache:
    """Blocking and thread-safe. `limit` is in bytes on disk; with 0 it keeps nothing and opens nothing."""

    def __init__(self, folder: Path, limit: int) -> None:
        self.limit = limit
        self._path = folder / "features.sqlite"
        self._lock = threading.Lock()  # one connection: SQLite has one writer, and a get writes too (what was used when)
        self._open: sqlite3.Connection | None = None
        self._uses = 0
        self._failing = False
        self.hits = self.misses = 0  # keys that were asked for

    def get(self, keys: Sequence[bytes]) -> dict[bytes, CacheEntry]:
        """Return the cached entries."""
        if not keys:
            return {}
        found = self._attempt(lambda connection: self._get(connection, keys)) or {}
        self.hits += len(found)
        self.misses += len(keys) - len(found)
        return found

    def put(self, entries: Mapping[bytes, CacheEntry]) -> None:
        """Store entries that may be mixed with rows of other numerics, evicting others."""
        most = self.limit * LARGEST_SHARE
        rows = [(key, pack_entry(key, one)) for key, one in entries.items() if one.numerics.mixes]
        rows = [row for row in rows if len(row[1]) <= most]
        if rows:
            self._attempt(lambda connection: self._put(connection, rows))

    def close(self) -> None:
        with self._lock:
            self._disconnect()

    def _attempt(self, work: Callable[[sqlite3.Connection], T]) -> T | None:
        """Run `work` in a transaction; None where the cache is off or fails. A corrupt cache is deleted."""
        if self.limit <= 0:
            return None
        with self._lock:
            try:
                done = self._run_transaction(work)
                self._failing = False
                return done
            except Exception as error:  # values of other types than were written, say, in a file that is damaged
                self._on_failure(error)
        return None

    def _run_transaction(self, work: Callable[[sqlite3.Connection], T]) -> T:
        if self._open is None:
            self._open = self._connect()
        with self._open:  # a transaction
            return work(self._open)

    def _on_failure(self, error: Exception) -> None:
        """Close the cache, so that the next call opens it again, and warn once."""
        corrupt = getattr(error, "sqlite_errorcode", None) in _CORRUPT or not isinstance(error, sqlite3.Error | OSError)
        if not self._failing:
            log.warning("the feature cache %s: %s", "is corrupt and is emptied" if corrupt else "is left out", error)
        self._failing = True
        self._disconnect()
        if corrupt:
            self._delete()

    def _connect(self) -> sqlite3.Connection:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        connection = sqlite3.connect(self._path, check_same_thread=False)
        try:
            connection.execute(f"PRAGMA page_size = {PAGE}")
            connection.execute("PRAGMA auto_vacuum = INCREMENTAL")
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA synchronous = OFF")  # what a lost cache costs is time
            connection.execute(f"PRAGMA journal_size_limit = {4 << 20}")
            connection.executescript(_SCHEMA)
            (self._uses,) = connection.execute("SELECT coalesce(max(used), 0) FROM features").fetchone()
            self._shrink(connection)
        except BaseException:
            connection.close()
            raise
        return connection

    def _disconnect(self) -> None:
        if self._open is not None:
            self._open.close()
            self._open = None

    def _delete(self) -> None:
        self._disconnect()
        with contextlib.suppress(OSError):
            for suffix in ("", "-wal", "-shm"):
                self._path.with_name(self._path.name + suffix).unlink(missing_ok=True)

    def _get(self, connection: sqlite3.Connection, keys: Sequence[bytes]) -> dict[bytes, CacheEntry]:
        found: dict[bytes, bytes] = {}
        for some in _batches(keys):
            marks = ",".join("?" * len(some))
            found.update(connection.execute(f"SELECT key, value FROM features WHERE key IN ({marks})", some).fetchall())
        found = {key: found[key] for key in keys if key in found}  # a damaged file may answer with what was not asked
        whole = {key: unpack_entry(key, value) for key, value in found.items()}
        with contextlib.suppress(sqlite3.OperationalError):  # on a full disk there are answers still
            self._touch(connection, whole)
        return {key: one for key, one in whole.items() if one is not None}

    def _touch(self, connection: sqlite3.Connection, found: Mapping[bytes, CacheEntry | None]) -> None:
        """Note that these were of use, and delete those that are not what was written."""
        self._uses += 1
        used = [(self._uses, key) for key, one in found.items() if one is not None]
        connection.executemany("UPDATE features SET used = ? WHERE key = ?", used)
        connection.executemany("DELETE FROM features WHERE key = ?", [(key,) for key, one in found.items() if one is None])

    def _put(self, connection: sqlite3.Connection, rows: Sequence[tuple[bytes, bytes]]) -> None:
        self._uses += 1
        entries = [(key, self._uses, value) for key, value in rows]
        connection.executemany("INSERT OR REPLACE INTO features (key, used, value) VALUES (?, ?, ?)", entries)
        if _bytes(connection) > self.limit:
            self._evict(connection)

    def _evict(self, connection: sqlite3.Connection) -> None:
        """The longest unused go; their pages are used again."""
        oldest = "SELECT rowid FROM features ORDER BY used LIMIT ?"
        while _bytes(connection) > self.limit * (1 - SLACK):
            if not connection.execute(f"DELETE FROM features WHERE rowid IN ({oldest})", (EVICTED,)).rowcount:
                return

    def _shrink(self, connection: sqlite3.Connection) -> None:
        """Give back what the file has too much, where the bound is lower than it was."""
        if _bytes(connection) > self.limit:
            self._evict(connection)
            connection.commit()
            connection.executescript("PRAGMA incremental_vacuum")  # `execute` would take one page


def _bytes(connection: sqlite3.Connection) -> int:
    """Count the bytes of pages in use."""
    numbers = [connection.execute(f"PRAGMA {name}").fetchone()[0] for name in ("page_count", "freelist_count", "page_size")]
    return int(numbers[0] - numbers[1]) * int(numbers[2])


def _batches(keys: Sequence[bytes]) -> Iterator[Sequence[bytes]]:
    for start in range(0, len(keys), BATCH):
        yield keys[start : start + BATCH]

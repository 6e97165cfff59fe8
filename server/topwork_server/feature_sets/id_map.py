"""The in-memory map of a set's items: id to key, key to id, and the address of the row.

About 45 bytes an item with ids of 13 characters. An id map never changes: a commit makes a new one that shares what stayed, so a
reader holds one and needs no lock. It is a list of segments, each with greater keys than those before; small ones are merged as
they gather, so that there are few.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np

from topwork_server.types import Array

_CHUNK = 1 << 16
# Random for each process, so that ids that share one hash cannot be constructed.
_MULTIPLIER = np.uint64(secrets.randbits(64) | 1)
_POWERS = np.multiply.accumulate(np.full(1 << 10, _MULTIPLIER, np.uint64))


def hash_ids(ids: Any) -> Array:
    """Hash to (n,) uint64 an Arrow string array without nulls or empty strings: a polynomial over the bytes."""
    parts = [_hash_chunk(ids.slice(start, _CHUNK)) for start in range(0, len(ids), _CHUNK)]
    return np.concatenate(parts) if parts else np.zeros(0, np.uint64)


def _hash_chunk(ids: Any) -> Array:
    _, offsets_buffer, data = ids.buffers()
    offsets = np.frombuffer(offsets_buffer, np.int32)[ids.offset : ids.offset + len(ids) + 1].astype(np.int64)
    lengths = np.diff(offsets)
    text = np.frombuffer(data, np.uint8)[offsets[0] : offsets[-1]].astype(np.uint64)
    starts = offsets[:-1] - offsets[0]
    places = np.arange(len(text)) - np.repeat(starts, lengths)
    sums = np.add.reduceat((text + np.uint64(1)) * _POWERS[places], starts)
    return np.asarray(sums ^ (sums >> np.uint64(29)), np.uint64)


@dataclass(frozen=True)
class IdSegment:
    """keys (n,) int64 ascending; ids Arrow strings; addresses (n,) uint64; by_hash (n,) int32: positions in
    the order of their hashes; live (n,) bool."""

    keys: Array
    ids: Any
    addresses: Array
    sorted_hashes: Array
    by_hash: Array
    live: Array

    @cached_property
    def count(self) -> int:
        return int(np.count_nonzero(self.live))

    def find(self, id_hashes: Array, ids: Any) -> Array:
        """Find the positions of the ids that are live here, -1 for the others."""
        import pyarrow.compute as pc

        found = np.full(len(id_hashes), -1, np.int64)
        left, right = (np.searchsorted(self.sorted_hashes, id_hashes, side) for side in ("left", "right"))
        asked = np.flatnonzero(left < right)
        while len(asked):
            here = self.by_hash[left[asked]].astype(np.int64)
            same = pc.equal(self.ids.take(here), ids.take(asked)).to_numpy(zero_copy_only=False) & self.live[here]
            found[asked[same]] = here[same]
            left[asked] += 1
            asked = asked[~same & (left[asked] < right[asked])]
        return found

    def delete_positions(self, positions: Array) -> IdSegment:
        live = self.live.copy()
        live[positions] = False
        return replace(self, live=live)


def make_segment(keys: Array, ids: Any, addresses: Array) -> IdSegment:
    found = hash_ids(ids)
    order = np.argsort(found).astype(np.int32)
    return IdSegment(keys, ids, addresses, found[order], order, np.ones(len(keys), bool))


def merge_segments(segments: Sequence[IdSegment]) -> IdSegment:
    """Merge the live items of segments into one. Nothing is hashed again, and runs that are sorted are merged, not sorted."""
    import pyarrow as pa

    parts: list[tuple[Array, Array]] = []
    start = 0
    for s in segments:
        live = s.live[s.by_hash]
        parts.append((s.sorted_hashes[live], (np.cumsum(s.live) - 1 + start)[s.by_hash[live]]))
        start += s.count
    found, at = (np.concatenate(column) for column in zip(*parts, strict=True))
    order = np.argsort(found, kind="stable")
    keys = np.concatenate([s.keys[s.live] for s in segments])
    ids = pa.concat_arrays([s.ids.filter(pa.array(s.live)) for s in segments])
    addresses = np.concatenate([s.addresses[s.live] for s in segments])
    return IdSegment(keys, ids, addresses, found[order], at[order].astype(np.int32), np.ones(len(keys), bool))


@dataclass(frozen=True)
class IdMap:
    segments: tuple[IdSegment, ...] = ()

    @cached_property
    def items(self) -> int:
        return sum(s.count for s in self.segments)

    def keys(self) -> Array:
        """Return the keys of all items, ascending (n,) int64."""
        return np.concatenate([np.zeros(0, np.int64), *(s.keys[s.live] for s in self.segments)])

    def find(self, ids: Any) -> tuple[Array, Array]:
        """Keys (n,) int64 and addresses (n,) uint64 of an Arrow array of ids; the key is -1 where there is no such item."""
        keys, addresses = np.full(len(ids), -1, np.int64), np.zeros(len(ids), np.uint64)
        id_hashes = hash_ids(ids) if self.segments else keys
        for s in self.segments:
            at = s.find(id_hashes, ids)
            here = at >= 0
            keys[here], addresses[here] = s.keys[at[here]], s.addresses[at[here]]
        return keys, addresses

    def locate(self, keys: Array) -> Iterator[tuple[IdSegment, Array, Array]]:
        """Yield for each segment the positions in `keys` of those it holds, and their positions in the segment."""
        for s in self.segments:
            at = np.minimum(np.searchsorted(s.keys, keys), len(s.keys) - 1)
            here = np.flatnonzero((s.keys[at] == keys) & s.live[at])
            if len(here):
                yield s, here, at[here]

    def addresses(self, keys: Array) -> tuple[Array, Array]:
        """Addresses (n,) uint64, and which of the keys there are (n,) bool."""
        addresses, there = np.zeros(len(keys), np.uint64), np.zeros(len(keys), bool)
        for s, here, at in self.locate(keys):
            addresses[here], there[here] = s.addresses[at], True
        return addresses, there

    def ids(self, keys: Array) -> list[str | None]:
        found: list[str | None] = [None] * len(keys)
        for s, here, at in self.locate(keys):
            for position, id in zip(here.tolist(), s.ids.take(at).to_pylist(), strict=True):
                found[position] = id
        return found

    def with_changes(self, deleted: Array, inserted: IdSegment | None) -> IdMap:
        """Apply a commit: remove the `deleted` keys (live until now), add those `inserted` (greater than all before)."""
        shrunk = {id(s): s.delete_positions(at) for s, _, at in self.locate(deleted)}
        segments = [s for s in (shrunk.get(id(s), s) for s in self.segments) if s.count]
        if inserted is not None and len(inserted.keys):
            segments.append(inserted)
        return IdMap(_compact_segments(segments))

    def with_addresses(self, keys: Array, addresses: Array) -> IdMap:
        """Return the same items at other addresses, after a compaction. `keys` ascending, of all items."""
        live = [merge_segments([s]) for s in self.segments if s.count]
        return IdMap(tuple(replace(s, addresses=addresses[np.searchsorted(keys, s.keys)]) for s in live))


def _compact_segments(segments: list[IdSegment]) -> tuple[IdSegment, ...]:
    """Merge a segment with the one before while it is at least half as large; rebuild one that is mostly deleted."""
    segments = [merge_segments([s]) if s.count * 2 < len(s.keys) else s for s in segments]
    while len(segments) > 1 and segments[-1].count * 2 >= segments[-2].count:
        segments[-2:] = [merge_segments(segments[-2:])]
    return tuple(segments)


def load_id_map(dataset: Any) -> IdMap:
    """Load the id map of a dataset's version: one scan of two columns."""
    table = dataset.scanner(columns=["id", "key"], with_row_address=True).to_table().sort_by("key").combine_chunks()
    if not len(table):
        return IdMap()
    ids = table["id"].chunk(0)
    return IdMap((make_segment(table["key"].to_numpy(), ids, table["_rowaddr"].to_numpy()),))

"""Filters of a search: the items that a condition selects, as sorted keys, and the rows of an index that are theirs."""

from __future__ import annotations

import threading
from collections import OrderedDict
from dataclasses import dataclass
from typing import Protocol
from weakref import WeakKeyDictionary

import numpy as np

from topwork_server.blocking_calls import Check, always_waits
from topwork_server.feature_sets.filters import changes_with_time
from topwork_server.features import aranges
from topwork_server.types import Array

#: Filters of one set that are remembered, and bytes of their keys.
MOST, MOST_BYTES = 32, 64 << 20
#: Where more than this share of a build is dead, the dead are a filter too.
MOSTLY = 0.8


class FilterableSet(Protocol):
    """The part of a FeatureSet that a filter needs."""

    @property
    def version(self) -> int: ...

    def keys(self, where: str = ..., *, check: Check = ...) -> tuple[int, Array]: ...


class FilterCache:
    """The keys of the items that match a filter, asked of the set once for each version. Thread-safe. The same filter is given
    the same array, by which RowFilterCache recognizes it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._of: WeakKeyDictionary[FilterableSet, OrderedDict[str, tuple[int, Array]]] = WeakKeyDictionary()

    def cached_keys(self, feature_set: FilterableSet, where: str) -> tuple[int, Array] | None:
        """Return the set's version and its matching keys (n,) int64, ascending, or None where they must be looked up."""
        with self._lock:
            found = self._of.get(feature_set, OrderedDict()).get(where)
            if found is None or found[0] != feature_set.version:
                return None
            self._of[feature_set].move_to_end(where)
            return found

    def keys(self, feature_set: FilterableSet, where: str, check: Check = always_waits) -> tuple[int, Array]:
        """Look up the version and the keys. Blocking. InvalidInput where the filter is wrong."""
        version, keys = feature_set.keys(where, check=check)
        if changes_with_time(where):
            return version, keys
        with self._lock:
            filters = self._of.setdefault(feature_set, OrderedDict())
            filters[where] = version, keys
            filters.move_to_end(where)
            while len(filters) > MOST or (len(filters) > 1 and sum(k.nbytes for _, k in filters.values()) > MOST_BYTES):
                filters.popitem(last=False)
        return version, keys


@dataclass(frozen=True, slots=True, eq=False)
class RowFilter:
    """The rows of an index that may be found. `requested` are the keys as they were given (None: no filter). Of the build's
    `total` rows, `count` are left, by the bits of `mask` (None: all), at the positions `matching` (None: all rows alive). Of the
    rows written since, `delta_count` are left, those that `delta` marks (None: all)."""

    requested: Array | None
    total: int
    count: int
    mask: Array | None
    matching: Array | None
    delta: Array | None
    delta_count: int

    @property
    def share(self) -> float:
        return self.count / max(self.total, 1)

    @property
    def filtered(self) -> bool:
        return self.matching is not None or self.share < MOSTLY


def pack_bits(bits: Array) -> Array:
    """Pack (n,) bool as VectorIndex.search wants its mask."""
    return np.packbits(bits, bitorder="little")


def keys_among(keys: Array, wanted: Array) -> Array:
    """Mark the `keys` (n,), in any order, that are in the sorted `wanted`: (n,) bool."""
    if not len(wanted):
        return np.zeros(len(keys), bool)
    at = np.minimum(np.searchsorted(wanted, keys), len(wanted) - 1)
    return np.asarray(wanted[at] == keys)


def positions_of_keys(keys: Array, wanted: Array) -> Array:
    """Find where the sorted `keys`, which may repeat, hold one of `wanted`: positions (m,) int64, in the order of `wanted`."""
    first, end = np.searchsorted(keys, wanted, "left"), np.searchsorted(keys, wanted, "right")
    return aranges(first, end - first)

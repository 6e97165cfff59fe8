"""Which items match a filter: asked of the set once for each version, then remembered."""

from __future__ import annotations

import threading
from collections import OrderedDict
from typing import Protocol
from weakref import WeakKeyDictionary

from topwork_server.blocking_calls import Check, always_waits
from topwork_server.feature_sets.filters import changes_with_time
from topwork_server.types import Array

#: Filters of one set that are remembered, and bytes of their keys.
MOST, MOST_BYTES = 32, 64 << 20


class FilterableSet(Protocol):
    """What is asked of a FeatureSet."""

    @property
    def version(self) -> int: ...

    def keys(self, where: str = ..., *, check: Check = ...) -> tuple[int, Array]: ...


class FilterCache:
    """Thread-safe. The same array is given for the same filter, so that whoever prepares it can know it again."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._of: WeakKeyDictionary[FilterableSet, OrderedDict[str, tuple[int, Array]]] = WeakKeyDictionary()

    def cached_keys(self, feature_set: FilterableSet, where: str) -> tuple[int, Array] | None:
        """The set's version and (n,) int64, ascending, at once; None where they must be looked up."""
        with self._lock:
            found = self._of.get(feature_set, OrderedDict()).get(where)
            if found is None or found[0] != feature_set.version:
                return None
            self._of[feature_set].move_to_end(where)
            return found

    def keys(self, feature_set: FilterableSet, where: str, check: Check = always_waits) -> tuple[int, Array]:
        """The version and the keys. Blocking. InvalidInput where the filter is wrong."""
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

"""Searches of sets without an index: every row is read from the disk and compared, so that a small set needs none."""

from __future__ import annotations

import threading
from collections import OrderedDict

from topwork_server.feature_sets.feature_set import FeatureSet
from topwork_server.feature_sets.set_types import Change, SetDefinition
from topwork_server.indexes.index import OpenedIndex
from topwork_server.indexes.index_types import IndexDefinition
from topwork_server.indexes.live_index import LiveIndex
from topwork_server.models.artifacts import slug
from topwork_server.plugin_api.vector_index import Metric
from topwork_server.types import TapInfo

#: Sets, taps and metrics that are remembered, so that searches of one may ride together.
MOST = 64


class UnindexedSearch:
    """Thread-safe. `threads` is how many a search uses."""

    def __init__(self, threads: int) -> None:
        self._threads = threads
        self._lock = threading.Lock()
        self._known: OrderedDict[tuple[str, str, Metric], OpenedIndex] = OrderedDict()

    def open(self, feature_set: FeatureSet, tap: TapInfo, metric: Metric) -> OpenedIndex:
        """What searches a tap of the set as it is on the disk."""
        key = feature_set.definition.name, tap.tap.name, metric
        with self._lock:
            known = self._known.get(key)
            if known is None or known.feature_set is not feature_set:
                definition = IndexDefinition(key[0], slug(tap.tap.name), tap, "none", metric)
                known = OpenedIndex(
                    definition, LiveIndex(definition, feature_set, self._threads), feature_set, _nothing, indexed=False
                )
                self._known[key] = known
            self._known.move_to_end(key)
            while len(self._known) > MOST:
                self._known.popitem(last=False)
            return known

    def forget(self, set_name: str) -> None:
        """Of a set that is dropped."""
        with self._lock:
            for key in [key for key in self._known if key[0] == set_name]:
                del self._known[key]


def tap_named(wanted: SetDefinition, name: str) -> TapInfo | None:
    """The tap of that name, as indexes are named after taps; the first for no name."""
    taps = wanted.taps
    return taps[0] if not name else next((info for info in taps if name in (info.tap.name, slug(info.tap.name))), None)


def _nothing(change: Change) -> None:
    """What follows no set."""

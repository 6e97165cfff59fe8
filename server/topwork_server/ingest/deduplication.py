"""Which items of a message need no encoding: their features are in the set, or in the cache. Blocking; called in threads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from topwork_server.errors import InvalidInput, TopworkError
from topwork_server.feature_sets.set_types import ItemBatch, SetDefinition, StoredItem
from topwork_server.ingest.cache_entry import CacheEntry
from topwork_server.ingest.content_hash import digest
from topwork_server.ingest.feature_cache import FeatureCache, key_of
from topwork_server.ingest.in_flight import Result
from topwork_server.ingest.item_features import ItemFeatures, split
from topwork_server.types import Array, Features, Item, Numerics

#: One item's features, a piece for each tap of the set.
Pieces = tuple[ItemFeatures, ...]


class Stored(Protocol):
    """The part of a feature set that is asked."""

    def known(self, ids: Sequence[str]) -> dict[str, StoredItem]: ...
    def fetch(
        self, keys: Array, *, taps: Sequence[str] = (), columns: Sequence[str] | None = (), inputs: bool = False
    ) -> ItemBatch: ...


@dataclass(slots=True)
class Recalled:
    """By position in the items: what is known of them. Those in neither `unchanged` nor `pieces` are to be encoded."""

    contents: list[str]
    unchanged: set[int] = field(default_factory=set)
    pieces: dict[int, Pieces] = field(default_factory=dict)
    numerics: set[Numerics] = field(default_factory=set)

    def missing(self) -> list[int]:
        return [i for i in range(len(self.contents)) if i not in self.pieces and i not in self.unchanged]

    def add(self, results: Mapping[int, Result | None]) -> dict[int, TopworkError]:
        """What was encoded, by position; gives the bad ones."""
        for position, result in results.items():
            if result is not None and result.error is None:
                self.pieces[position] = result.pieces
                self.numerics |= {result.numerics} if result.numerics else set()
        return {i: result.error for i, result in results.items() if result is not None and result.error is not None}


def item_key(wanted: SetDefinition, content: str) -> bytes:
    """Of an item's features of all taps."""
    return key_of(" ".join(info.fingerprint for info in wanted.taps), wanted.options, content)


def results_of(features: Features) -> list[Result]:
    """One an item."""
    items = zip(*(split(tap) for tap in features.taps), strict=True)
    return [
        Result(error=features.failures[i]) if i in features.failures else Result(pieces, features.numerics)
        for i, pieces in enumerate(items)
    ]


def recall(
    items: Sequence[Item], block: ItemBatch, wanted: SetDefinition, stored: Stored | None, cache: FeatureCache
) -> Recalled:
    """`block` has the ids and metadata of the items."""
    recalled = Recalled([_digest(item, i) for i, item in enumerate(items)])
    if stored is not None:
        _from_set(recalled, block, wanted, stored)
    _from_cache(recalled, wanted, cache)
    return recalled


def keep(cache: FeatureCache, wanted: SetDefinition, contents: Sequence[str], features: Features) -> None:
    """Put what was encoded into the cache; `contents` are the digests of the items."""
    for tap in features.taps:
        keys = [key_of(tap.tap.fingerprint, wanted.options, content) for content in contents]
        pieces = zip(keys, split(tap), strict=True)
        cache.put(
            {key: CacheEntry(piece, features.numerics) for i, (key, piece) in enumerate(pieces) if i not in features.failures}
        )


def _digest(item: Item, position: int) -> str:
    try:
        return digest(item)
    except OSError as error:
        raise InvalidInput(f"the file cannot be read: {error.strerror}", remedy="check the path", item=position) from error


def _from_set(recalled: Recalled, block: ItemBatch, wanted: SetDefinition, stored: Stored) -> None:
    known = stored.known(block.ids)
    rewritten: dict[int, int] = {}  # key of the stored item -> position
    for position, (id, content) in enumerate(zip(block.ids, recalled.contents, strict=True)):
        found = known.get(id)
        if found is None or found.content != content:
            continue
        if same_metadata(found.metadata, {c.name: c.values[position] for c in block.metadata}):
            recalled.unchanged.add(position)
        else:
            rewritten[found.key] = position
    if rewritten:
        names = [info.tap.name for info in wanted.taps]
        rows = stored.fetch(np.array(list(rewritten), np.int64), taps=names)
        assert rows.keys is not None
        for key, pieces in zip(rows.keys.tolist(), _by_item(rows), strict=True):
            recalled.pieces[rewritten[key]] = pieces  # one that was deleted meanwhile is left out, and encoded


def _from_cache(recalled: Recalled, wanted: SetDefinition, cache: FeatureCache) -> None:
    keys = {
        position: [key_of(info.fingerprint, wanted.options, recalled.contents[position]) for info in wanted.taps]
        for position in recalled.missing()
    }
    found = cache.get([key for some in keys.values() for key in some])
    for position, some in keys.items():
        kept = [found[key] for key in some if key in found]
        if len(kept) == len(some):
            recalled.pieces[position] = tuple(one.piece for one in kept)
            recalled.numerics.update(one.numerics for one in kept)


def _by_item(block: ItemBatch) -> list[Pieces]:
    return list(zip(*(split(tap) for tap in block.taps), strict=True))


def same_metadata(stored: Mapping[str, Any], given: Mapping[str, Any]) -> bool:
    """Whether a write would change nothing: what is not given becomes missing."""
    return all(_equal(stored.get(name), given.get(name)) for name in stored.keys() | given.keys())


def _equal(stored: Any, given: Any) -> bool:
    if isinstance(stored, list | tuple) and isinstance(given, list | tuple):
        return list(stored) == list(given)
    # A whole number goes into a column of floats; True is not 1; NaN is stored as it is.
    same_type = type(stored) is type(given) or (type(stored), type(given)) == (float, int)
    return same_type and (stored == given or (stored != stored and given != given))

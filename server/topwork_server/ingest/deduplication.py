"""Finds the items of a message that need no encoding: the set or the cache has their features. Blocking; runs in threads."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from topwork_server.errors import InvalidInput, TopworkError
from topwork_server.feature_sets.set_types import ItemBatch, SetDefinition, StoredItem
from topwork_server.features import EmbedResult, ItemFeatures
from topwork_server.ingest.feature_cache import CacheEntry, FeatureCache, key_of
from topwork_server.types import Array, AudioItem, ImageItem, Item, Numerics, TextItem, VideoItem

#: Of a file, read at a time.
CHUNK_BYTES = 1 << 20


def content_hash(item: Item) -> str:
    """64 hex digits. Of a clip or recording the same whether it comes as bytes or as a file; OSError where it is not read."""
    match item:
        case TextItem(text, None, chunks=None):
            return _hash_parts("text", _utf8(text))
        case TextItem(text, None, chunks=chunks):
            return _hash_parts("divided text", _utf8(text), repr(chunks).encode())
        case TextItem(text, str(pair)):
            return _hash_parts("pair", _utf8(text), _utf8(pair))
        case ImageItem(data):
            return _hash_parts("picture", data)
        case VideoItem(data):
            return _hash_content("clip", data)
        case AudioItem(data):
            return _hash_content("recording", data)
    assert isinstance(item, np.ndarray)
    return _hash_array(item)


def _utf8(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")


def _hash_parts(kind: str, *parts: bytes | memoryview) -> str:
    """Hash each part with its length, so that no two lists of parts give the same bytes."""
    digest = hashlib.sha256(kind.encode())
    for part in parts:
        digest.update(b":%d:" % len(part))
        digest.update(part)
    return digest.hexdigest()


def _hash_content(kind: str, content: bytes | Path) -> str:
    """Hash bytes, or a file as its bytes, a piece at a time."""
    if isinstance(content, bytes):
        return _hash_parts(kind, content)
    with content.open("rb") as file:
        digest = hashlib.sha256(b"%s:%d:" % (kind.encode(), content.stat().st_size))
        while piece := file.read(CHUNK_BYTES):
            digest.update(piece)
    return digest.hexdigest()


def _hash_array(array: Array) -> str:
    """Hash an array with its dtype and shape; neither byte order nor layout in memory matters."""
    plain = np.ascontiguousarray(array, array.dtype.newbyteorder("<"))
    return _hash_parts("array", repr((plain.dtype.str, plain.shape)).encode(), plain.reshape(-1).view(np.uint8).data)


#: One item's features, a piece for each tap of the set.
FeaturesByTap = tuple[ItemFeatures, ...]


class StoredItems(Protocol):
    """The part of a feature set that is asked."""

    def stored_items(self, ids: Sequence[str]) -> dict[str, StoredItem]: ...
    def fetch(
        self, keys: Array, *, taps: Sequence[str] = (), columns: Sequence[str] | None = (), inputs: bool = False
    ) -> ItemBatch: ...


@dataclass(frozen=True, slots=True)
class EncodeResult:
    """One item's features, a piece a tap, and what computed them; or what is wrong with it."""

    features: tuple[ItemFeatures, ...] = ()
    numerics: Numerics | None = None
    error: TopworkError | None = None


@dataclass(slots=True)
class DeduplicatedItems:
    """Results known before encoding, by position of the item. Those in neither `unchanged` nor `features` are to be encoded."""

    content_hashes: list[str]
    unchanged: set[int] = field(default_factory=set)
    features: dict[int, FeaturesByTap] = field(default_factory=dict)
    numerics: set[Numerics] = field(default_factory=set)

    def missing_positions(self) -> list[int]:
        return [i for i in range(len(self.content_hashes)) if i not in self.features and i not in self.unchanged]

    def add_results(self, results: Mapping[int, EncodeResult | None]) -> dict[int, TopworkError]:
        """Add what was encoded, by position; return the errors of bad items."""
        for position, result in results.items():
            if result is not None and result.error is None:
                self.features[position] = result.features
                self.numerics |= {result.numerics} if result.numerics else set()
        return {i: result.error for i, result in results.items() if result is not None and result.error is not None}


def item_key(definition: SetDefinition, content: str) -> bytes:
    """Return the key of an item's features of all taps."""
    return key_of(" ".join(info.fingerprint for info in definition.taps), definition.options, content)


def split_results(features: EmbedResult) -> list[EncodeResult]:
    """Split an encoder's answer into one result per item."""
    items = zip(*(tap.split() for tap in features.taps), strict=True)
    return [
        EncodeResult(error=features.failures[i]) if i in features.failures else EncodeResult(pieces, features.numerics)
        for i, pieces in enumerate(items)
    ]


def deduplicate(
    items: Sequence[Item], batch: ItemBatch, definition: SetDefinition, stored: StoredItems | None, cache: FeatureCache
) -> DeduplicatedItems:
    """Deduplicate items; `block` has their ids and metadata."""
    deduplicated = DeduplicatedItems([_digest(item, i) for i, item in enumerate(items)])
    if stored is not None:
        _reuse_stored(deduplicated, batch, definition, stored)
    _reuse_cached(deduplicated, definition, cache)
    return deduplicated


def cache_features(cache: FeatureCache, definition: SetDefinition, contents: Sequence[str], features: EmbedResult) -> None:
    """Put what was encoded into the cache; `contents` are the digests of the items."""
    for tap in features.taps:
        keys = [key_of(tap.tap.fingerprint, definition.options, content) for content in contents]
        pieces = zip(keys, tap.split(), strict=True)
        cache.put(
            {key: CacheEntry(piece, features.numerics) for i, (key, piece) in enumerate(pieces) if i not in features.failures}
        )


def _digest(item: Item, position: int) -> str:
    try:
        return content_hash(item)
    except OSError as error:
        raise InvalidInput(f"the file cannot be read: {error.strerror}", remedy="check the path", item=position) from error


def _reuse_stored(deduplicated: DeduplicatedItems, batch: ItemBatch, definition: SetDefinition, stored: StoredItems) -> None:
    known = stored.stored_items(batch.ids)
    rewritten: dict[int, int] = {}  # key of the stored item -> position
    for position, (id, content) in enumerate(zip(batch.ids, deduplicated.content_hashes, strict=True)):
        found = known.get(id)
        if found is None or found.content_hash != content:
            continue
        if same_metadata(found.metadata, {c.name: c.values[position] for c in batch.metadata}):
            deduplicated.unchanged.add(position)
        else:
            rewritten[found.key] = position
    if rewritten:
        names = [info.tap.name for info in definition.taps]
        rows = stored.fetch(np.array(list(rewritten), np.int64), taps=names)
        assert rows.keys is not None
        for key, pieces in zip(rows.keys.tolist(), _by_item(rows), strict=True):
            deduplicated.features[rewritten[key]] = pieces  # one that was deleted meanwhile is left out, and encoded


def _reuse_cached(deduplicated: DeduplicatedItems, definition: SetDefinition, cache: FeatureCache) -> None:
    keys = {
        position: [
            key_of(info.fingerprint, definition.options, deduplicated.content_hashes[position]) for info in definition.taps
        ]
        for position in deduplicated.missing_positions()
    }
    found = cache.get([key for some in keys.values() for key in some])
    for position, some in keys.items():
        entries = [found[key] for key in some if key in found]
        if len(entries) == len(some):
            deduplicated.features[position] = tuple(one.features for one in entries)
            deduplicated.numerics.update(one.numerics for one in entries)


def _by_item(batch: ItemBatch) -> list[FeaturesByTap]:
    return list(zip(*(tap.split() for tap in batch.taps), strict=True))


def same_metadata(stored: Mapping[str, Any], given: Mapping[str, Any]) -> bool:
    """Tell whether a write would change nothing; metadata that is not given becomes missing."""
    return all(_equal(stored.get(name), given.get(name)) for name in stored.keys() | given.keys())


def _equal(stored: Any, given: Any) -> bool:
    if isinstance(stored, list | tuple) and isinstance(given, list | tuple):
        return list(stored) == list(given)
    # A whole number goes into a column of floats; True is not 1; NaN is stored as it is.
    same_type = type(stored) is type(given) or (type(stored), type(given)) == (float, int)
    return same_type and (stored == given or (stored != stored and given != given))

"""Types of feature sets: frozen data, no heavy import.

A set is a Lance dataset with one row an item: `id`, `key`, `content`, the rows of each tap, their spans, and metadata.
An item's `key` (int64) is new each time that it is written and never used again, not even after deletions and
restarts: key = (version of the set before the commit) << KEY_BITS | position in the commit. So the items written since version v
are those with key >= v << KEY_BITS, and an index that holds a key that the set no longer has holds a deleted row.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any

from topwork_server.features import TapRows
from topwork_server.types import Array, FingerprintedTap, Item, Modality, Numerics

KEY_BITS = 24


class ColumnType(StrEnum):
    BOOL = "bool"
    INT = "int"
    FLOAT = "float"
    STRING = "string"
    TIME = "time"
    STRINGS = "strings"


@dataclass(frozen=True, slots=True)
class Column:
    """Metadata of a batch: one value an item, None where it is missing. TIME values are int microseconds since 1970, UTC."""

    name: str
    type: ColumnType
    values: Sequence[Any]


@dataclass(frozen=True, slots=True)
class SetDefinition:
    """The definition that a set is made with. `encoder` is empty for ready vectors of no encoder; `options` are the encoder's,
    as JSON; `modalities` are what the encoder reads."""

    name: str
    taps: tuple[FingerprintedTap, ...]
    encoder: str = ""
    options: Mapping[str, Any] = field(default_factory=dict)
    modalities: tuple[Modality, ...] = ()
    dtype: str = "float32"
    keep_inputs: bool = False


@dataclass(frozen=True, slots=True)
class SetDescription:
    """A set as it stands. `columns` are metadata; `tap_columns` names the dataset's column of each tap; times in seconds."""

    definition: SetDefinition
    columns: Mapping[str, ColumnType]
    tap_columns: Mapping[str, str]
    items: int
    version: int
    bytes: int
    created: float
    numerics: tuple[Numerics, ...]
    path: str
    damage: str = ""  # why the newest version cannot be read, as far as that is known


@dataclass(frozen=True, slots=True)
class ItemBatch:
    """Items to be written, or read. `taps` have as many counts as there are ids; `contents` are SHA-256 digests (hex) of the
    items, "" where unknown; `inputs` are the raw items where the set keeps them (None for one that is missing)."""

    ids: Sequence[str]
    taps: tuple[TapRows, ...] = ()
    metadata: tuple[Column, ...] = ()
    content_hashes: Sequence[str] = ()
    inputs: Sequence[Item | None] = ()
    keys: Array | None = None  # (n,) int64, of items that were read

    def take(self, positions: Sequence[int]) -> ItemBatch:
        """The items at those positions, in their order."""
        if list(positions) == list(range(len(self.ids))):
            return self
        return replace(
            self,
            ids=[self.ids[i] for i in positions],
            taps=tuple(tap.take(positions) for tap in self.taps),
            metadata=tuple(replace(column, values=[column.values[i] for i in positions]) for column in self.metadata),
            content_hashes=[self.content_hashes[i] for i in positions] if self.content_hashes else (),
            inputs=[self.inputs[i] for i in positions] if self.inputs else (),
            keys=None if self.keys is None else self.keys[list(positions)],
        )


@dataclass(frozen=True, slots=True)
class WriteResult:
    """The result of one written batch."""

    version: int
    inserted: int
    updated: int
    unchanged: int = 0


@dataclass(frozen=True, slots=True)
class StoredItem:
    """A stored item, by which a writer decides whether to encode: its content's digest and its metadata (missing ones too)."""

    key: int
    content_hash: str
    metadata: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Change:
    """The changes of one commit, for listeners: sent in the order of versions, before the writers are answered."""

    version: int
    deleted: Array  # (n,) int64 keys that no longer exist
    inserted: ItemBatch  # with keys; all taps; no inputs


@dataclass(frozen=True, slots=True)
class Selection:
    """A selection to read from a set. `version` 0 is the current one; None for `taps` or `columns` is all of them."""

    version: int = 0
    taps: Sequence[str] | None = None
    columns: Sequence[str] | None = None
    inputs: bool = False
    where: str = ""
    ids: Sequence[str] | None = None
    offset: int = 0
    limit: int = 0
    since: int = 0  # only items written after this version
    batch_bytes: int = 4 << 20


@dataclass(frozen=True, slots=True)
class ReadResult:
    """A read under way: its version, how many items it gives in all, and its batches."""

    version: int
    total: int
    batches: Iterator[ItemBatch]

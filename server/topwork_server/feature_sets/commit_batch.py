"""Merges a group of writes and deletions, in order, into inserted rows, deleted keys and counts per operation."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from topwork_server.feature_sets.id_map import IdMap
from topwork_server.feature_sets.set_types import WriteResult
from topwork_server.types import Array, Numerics


@dataclass(frozen=True, eq=False)
class PendingWrite:
    """A queued write: a table of all columns but `key`."""

    table: Any
    numerics: Numerics | None = None
    future: Future[WriteResult] = field(default_factory=Future)

    @property
    def size(self) -> int:
        return int(self.table.nbytes)

    @property
    def ids(self) -> Any:
        return self.table["id"].combine_chunks()


@dataclass(frozen=True, eq=False)
class PendingDelete:
    """A queued deletion of ids (Arrow strings, each once)."""

    ids: Any
    future: Future[tuple[int, int]] = field(default_factory=Future)

    @property
    def size(self) -> int:
        return int(self.ids.nbytes)


@dataclass(frozen=True, slots=True)
class CommitOutcome:
    """`keep` are positions in the tables of the writes, one after another, None for all; `deleted` keys that no longer exist;
    `inserted` (or, of a deletion, deleted) and `updated` by operation."""

    keep: Array | None
    deleted: Array
    counts: list[tuple[int, int]]


def merge_operations(operations: Sequence[PendingWrite | PendingDelete], id_map: IdMap) -> CommitOutcome:
    """Merge operations: of two writes of one id the last wins; a deletion affects only what was written before it."""
    if len(operations) == 1 and isinstance(operations[0], PendingWrite):
        keys, _ = id_map.find(operations[0].ids)
        updated = int(np.count_nonzero(keys >= 0))
        return CommitOutcome(None, np.unique(keys[keys >= 0]), [(len(keys) - updated, updated)])
    merging = _OperationMerger(id_map)
    for operation in operations:
        merging.write(operation.ids) if isinstance(operation, PendingWrite) else merging.delete(operation.ids)
    return merging.outcome()


class _OperationMerger:
    def __init__(self, id_map: IdMap) -> None:
        self._roster = id_map
        self._present: dict[str, bool] = {}
        self._places: dict[str, int] = {}
        self._dead: list[Array] = []
        self._counts: list[tuple[int, int]] = []
        self._rows = 0

    def _before(self, ids: Any) -> list[tuple[str, bool]]:
        """Pair each id with whether such an item exists so far."""
        keys, _ = self._roster.find(ids)
        self._dead.append(keys[keys >= 0])
        stored = (keys >= 0).tolist()
        return [(id, self._present.get(id, there)) for id, there in zip(ids.to_pylist(), stored, strict=True)]

    def write(self, ids: Any) -> None:
        before = self._before(ids)
        updated = sum(there for _, there in before)
        self._counts.append((len(before) - updated, updated))
        for row, (id, _) in enumerate(before, self._rows):
            self._present[id], self._places[id] = True, row
        self._rows += len(before)

    def delete(self, ids: Any) -> None:
        before = self._before(ids)
        self._counts.append((sum(there for _, there in before), 0))
        for id, _ in before:
            self._present[id] = False
            self._places.pop(id, None)

    def outcome(self) -> CommitOutcome:
        keep = np.sort(np.fromiter(self._places.values(), np.int64, len(self._places)))
        deleted = np.unique(np.concatenate(self._dead)) if self._dead else np.zeros(0, np.int64)
        return CommitOutcome(None if len(keep) == self._rows else keep, deleted, self._counts)

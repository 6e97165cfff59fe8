"""Rows written since the build, in memory: appended by the set's commit thread while searches read what stood when they began.

Vectors lie in chunks that are filled once and never moved, so a search may read them while more are appended; keys and the
rest are short, and kept in arrays that double. What dies is marked in a new array: a view that a search holds never changes.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from topwork_server.indexes.exact_search import NearestRows, RowBlock
from topwork_server.indexes.row_filter import keys_among, positions_of_keys
from topwork_server.types import Array

#: Rows of the first and of the largest chunk.
SMALLEST, LARGEST = 256, 16384
#: Dead rows stay until there are so many, and more than are alive.
DEAD = 1024


class GrowingArray:
    """A one-dimensional array that doubles. Views of what was appended stay valid and never change."""

    def __init__(self, dtype: type[np.generic]) -> None:
        self._buffer = np.empty(SMALLEST, dtype)
        self.count = 0

    def append(self, values: Array) -> None:
        end = self.count + len(values)
        if end > len(self._buffer):
            grown = np.empty(max(end, 2 * len(self._buffer)), self._buffer.dtype)
            grown[: self.count] = self._buffer[: self.count]
            self._buffer = grown
        self._buffer[self.count : end] = values
        self.count = end

    @property
    def view(self) -> Array:
        return self._buffer[: self.count]

    @property
    def nbytes(self) -> int:
        return self._buffer.nbytes


@dataclass(frozen=True, slots=True, eq=False)
class DeltaView:
    """A view of fresh rows at one moment. `keys` (n,) ascend; `alive` (n,) bool, or None where none died."""

    chunks: tuple[Array, ...]
    keys: Array
    numbers: Array | None
    squares: Array
    alive: Array | None

    def __len__(self) -> int:
        return len(self.keys)

    @property
    def alive_rows(self) -> int:
        return len(self.keys) if self.alive is None else int(np.count_nonzero(self.alive))

    def select_rows(self, allowed: Array | None) -> Array | None:
        """Mark the rows, (n,) bool, that are alive and of the sorted keys `allowed`. None: all."""
        if allowed is None:
            return self.alive
        kept = keys_among(self.keys, allowed)
        return kept if self.alive is None else kept & self.alive

    def offer_rows(self, nearest: NearestRows, keep: Array | None) -> None:
        for part, rows in self.blocks():
            nearest.offer(rows, None if keep is None else keep[part])

    def blocks(self) -> Iterator[tuple[slice, RowBlock]]:
        """Yield all rows, dead ones too, and where they stand."""
        at = 0
        for chunk in self.chunks:
            part = slice(at, min(at + len(chunk), len(self.keys)))
            numbers = None if self.numbers is None else self.numbers[part]
            yield part, RowBlock(chunk[: part.stop - at], self.keys[part], numbers, self.squares[part])
            at = part.stop


class DeltaSegment:
    """The rows written since the build. One thread at a time may append (LiveIndex holds its lock)."""

    def __init__(self, dim: int, several: bool) -> None:
        self._dim, self._several = dim, several
        self._chunks: list[Array] = []
        self._room = 0
        self._keys, self._numbers, self._squares = GrowingArray(np.int64), GrowingArray(np.int32), GrowingArray(np.float32)
        self._alive: Array | None = None

    @property
    def last_key(self) -> int:
        """The largest key; -1 where nothing was appended."""
        return int(self._keys.view[-1]) if self._keys.count else -1

    @property
    def first_key(self) -> int | None:
        return int(self._keys.view[0]) if self._keys.count else None

    @property
    def memory(self) -> int:
        growing = (self._keys, self._numbers, self._squares)
        return sum(chunk.nbytes for chunk in self._chunks) + sum(part.nbytes for part in growing)

    def append(self, rows: RowBlock) -> bool:
        """Append rows as they are searched. False, and nothing done, where their keys do not follow those that are here."""
        if len(rows.keys) and rows.keys[0] <= self.last_key:
            return False
        self._extend(rows)
        return True

    def _extend(self, rows: RowBlock) -> None:
        for start, stop in self._slots(len(rows.keys)):
            self._chunks[-1][len(self._chunks[-1]) - self._room :][: stop - start] = rows.vectors[start:stop]
            self._room -= stop - start
        self._keys.append(rows.keys)
        self._numbers.append(np.zeros(len(rows.keys), np.int32) if rows.numbers is None else rows.numbers)
        self._squares.append(np.einsum("ij,ij->i", rows.vectors, rows.vectors))
        if self._alive is not None:
            self._alive = np.concatenate([self._alive, np.ones(len(rows.keys), bool)])

    def delete_items(self, dead: Array) -> None:
        """Delete the rows of the items with these keys (int64); keys that are not here are ignored."""
        gone = positions_of_keys(self._keys.view, dead)
        if not len(gone):
            return
        alive = np.ones(self._keys.count, bool) if self._alive is None else self._alive.copy()
        alive[gone] = False
        self._alive = alive
        remain = int(np.count_nonzero(alive))
        if len(alive) - remain > max(DEAD, remain):
            self.__dict__.update(self.copy_range(0, None).__dict__)

    def extend_from(self, other: DeltaSegment) -> None:
        """Append the rows alive of another, whose keys follow."""
        for rows in other.rows():
            self._extend(rows)

    def rows(self) -> Iterator[RowBlock]:
        """Yield the rows alive, in blocks, which may end between two rows of an item."""
        view = self.view()
        for part, rows in view.blocks():
            yield rows if view.alive is None else rows.select(view.alive[part])

    def copy_range(self, first: int, end: int | None) -> DeltaSegment:
        """Copy the rows alive whose key is at least `first` and less than `end`."""
        other = DeltaSegment(self._dim, self._several)
        for rows in self.rows():
            keep = rows.keys >= first
            other._extend(rows.select(keep if end is None else keep & (rows.keys < end)))
        return other

    def with_rows(self, more: list[RowBlock]) -> DeltaSegment:
        """Return this with rows of any other keys, which need not ascend from one block to the next."""
        if not more:
            return self
        blocks = [*self.rows(), *more]
        keys = np.concatenate([rows.keys for rows in blocks])
        vectors = np.concatenate([rows.vectors for rows in blocks])
        numbers = np.concatenate([np.zeros(len(r.keys), np.int32) if r.numbers is None else r.numbers for r in blocks])
        order = np.argsort(keys, kind="stable")
        other = DeltaSegment(self._dim, self._several)
        other._extend(RowBlock(vectors[order], keys[order], numbers[order]))
        return other

    def view(self) -> DeltaView:
        numbers = self._numbers.view if self._several else None
        return DeltaView(tuple(self._chunks), self._keys.view, numbers, self._squares.view, self._alive)

    def _slots(self, rows: int) -> Iterator[tuple[int, int]]:
        """Yield which rows go to the last chunk, until all have a place; new chunks are made as they are needed."""
        done = 0
        while done < rows:
            if not self._room:
                self._room = min(2 * len(self._chunks[-1]) if self._chunks else SMALLEST, LARGEST)
                self._chunks.append(np.empty((self._room, self._dim), np.float32))
            taken = min(self._room, rows - done)
            yield done, done + taken
            done += taken

"""Fresh rows: views that never change, chunks, and what is left after deaths."""

from __future__ import annotations

import numpy as np
from memory_set import DIM, NO_KEYS
from topwork_server.indexes.delta_segment import DEAD, LARGEST, SMALLEST, DeltaSegment, DeltaView
from topwork_server.indexes.exact_search import RowBlock
from topwork_server.types import Array


def block(first: int, rows: int, of_each: int = 1) -> RowBlock:
    """Items of so many rows, with keys from `first` on; a row's numbers are its key and which one it is."""
    keys = first + np.arange(rows) // of_each
    numbers = (np.arange(rows) % of_each).astype(np.int32)
    vectors = np.zeros((rows, DIM), np.float32)
    vectors[:, 0], vectors[:, 1] = keys, numbers
    return RowBlock(vectors, keys, numbers)


def alive(view: DeltaView) -> list[tuple[int, int]]:
    """The key and number of each row alive, as the vectors say; the arrays beside them must agree."""
    found = []
    for part, rows in view.blocks():
        keep = slice(None) if view.alive is None else view.alive[part]
        assert rows.numbers is not None
        assert rows.squares is not None
        assert (rows.vectors[:, 0] == rows.keys).all()
        assert (rows.vectors[:, 1] == rows.numbers).all()
        assert (rows.squares == (rows.vectors**2).sum(axis=1)).all()
        found += [(int(key), int(number)) for key, number in rows.vectors[keep, :2]]
    return found


def wanted(keys: Array, of_each: int = 1) -> list[tuple[int, int]]:
    return [(int(key), number) for key in keys for number in range(of_each)]


def test_a_view_stays_as_it_was_whatever_is_appended_and_dies() -> None:
    fresh = DeltaSegment(DIM, True)
    fresh.append(block(0, 100))
    fresh.delete_items(np.array([7]))
    view = fresh.view()
    before = alive(view)
    fresh.delete_items(np.array([8]))
    fresh.append(block(1000, 3 * SMALLEST))
    fresh.delete_items(np.array([9, 1001]))
    assert alive(view) == before == wanted(np.delete(np.arange(100), 7))
    assert len(alive(fresh.view())) == 100 + 3 * SMALLEST - 4
    assert (len(view), view.alive_rows) == (100, 99)


def test_chunks_are_filled_one_after_another_and_items_may_end_in_the_next() -> None:
    fresh = DeltaSegment(DIM, True)
    for first in range(0, 30_000, 1000):
        fresh.append(block(first, 3000, of_each=3))
    view = fresh.view()
    assert alive(view) == wanted(np.arange(30_000), 3)
    assert [len(chunk) for chunk in view.chunks[:2]] == [SMALLEST, 2 * SMALLEST]
    assert max(len(chunk) for chunk in view.chunks) == LARGEST
    fresh.delete_items(np.arange(0, 30_000, 2))
    assert alive(fresh.view()) == wanted(np.arange(1, 30_000, 2), 3)
    assert alive(fresh.copy_range(5, 5001).view()) == wanted(np.arange(5, 5001, 2), 3)


def test_the_dead_leave_when_they_are_many() -> None:
    fresh = DeltaSegment(DIM, True)
    fresh.append(block(0, 3 * DEAD))
    held = fresh.memory
    fresh.delete_items(np.arange(DEAD))
    assert len(fresh.view()) == 3 * DEAD, "they are few beside the living"
    fresh.delete_items(np.arange(DEAD, 2 * DEAD))
    assert (len(fresh.view()), fresh.first_key, fresh.memory < held) == (DEAD, 2 * DEAD, True)
    fresh.delete_items(np.arange(10 * DEAD))
    assert alive(fresh.view()) == []
    fresh.append(block(99_999, 2))
    assert alive(fresh.view()) == wanted(np.array([99_999, 100_000]))


def test_rows_come_in_the_order_of_their_keys() -> None:
    fresh = DeltaSegment(DIM, True)
    assert fresh.append(block(100, 6, of_each=2))
    assert not fresh.append(block(102, 4)), "the last item is here already"
    assert not fresh.append(block(3, 4))
    assert alive(fresh.view()) == wanted(np.array([100, 101, 102]), 2)
    merged = fresh.with_rows([block(200, 2), block(50, 4, of_each=2)])
    assert alive(merged.view()) == [*wanted(np.array([50, 51, 100, 101, 102]), 2), *wanted(np.array([200, 201]))]


def test_which_rows_a_filter_leaves() -> None:
    fresh = DeltaSegment(DIM, False)
    assert fresh.view().select_rows(np.array([1])) is not None
    fresh.append(block(0, 6))
    assert fresh.view().select_rows(None) is None
    assert np.flatnonzero(fresh.view().select_rows(np.array([-4, 2, 5, 9]))).tolist() == [2, 5]
    fresh.delete_items(np.array([2, 77]))
    view = fresh.view()
    assert view.select_rows(None) is view.alive
    assert np.flatnonzero(view.select_rows(np.array([2, 5]))).tolist() == [5]
    assert not view.select_rows(NO_KEYS).any()
    assert view.numbers is None

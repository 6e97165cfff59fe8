"""pooling.py: items' rows become what a head reads, the same alone and among others."""

from __future__ import annotations

import numpy as np
import pytest
from topwork_server.errors import InvalidInput
from topwork_server.features import Spans, TapRows
from topwork_server.heads.head_types import Pooling, Task
from topwork_server.heads.pooling import (
    check_pooling,
    default_pooling,
    dim_after,
    pool_rows,
    possible_poolings,
    repeat_cells,
    rows_read,
    usable_items,
)
from topwork_server.types import FingerprintedTap, Granularity, Tap

KINDS = {Granularity.TOKEN: "chars", Granularity.WINDOW: "seconds", Granularity.CELL: "box"}


def tap_rows(counts, granularity=Granularity.TOKEN, parts=None, dim=5, seed=0):
    total = sum(counts)
    rows = np.random.default_rng(seed).normal(size=(total, dim)).astype(np.float32)
    width = 4 if granularity is Granularity.CELL else 2
    spans = None
    if granularity in KINDS:
        spans = Spans(
            KINDS[granularity], np.zeros((total, width), np.float32), None if parts is None else np.array(parts, np.int32)
        )
    return TapRows(FingerprintedTap(Tap("t", dim, granularity), "f" * 64), rows, np.array(counts, np.int64), spans)


def item(rows, position):
    end = int(np.cumsum(rows.counts)[position])
    return slice(end - int(rows.counts[position]), end)


@pytest.mark.parametrize(
    ("pooling", "expected"),
    [
        (Pooling.MEAN, lambda x: x.mean(0)),
        (Pooling.MAX, lambda x: x.max(0)),
        (Pooling.MEAN_STD, lambda x: np.concatenate([x.mean(0), x.std(0)])),
    ],
)
@pytest.mark.parametrize("granularity", KINDS)
def test_items_are_pooled_one_by_one(pooling, expected, granularity):
    rows = tap_rows([3, 1, 7, 2], granularity)
    got, counts = pool_rows(Task.CLASSIFICATION, pooling, rows)
    assert got.dtype == np.float32
    assert got.flags.c_contiguous
    assert got.shape == (4, dim_after(pooling, 5))
    assert counts.tolist() == [1, 1, 1, 1]
    wanted = [expected(rows.rows[item(rows, i)].astype(np.float64)) for i in range(4)]
    np.testing.assert_allclose(got, wanted, atol=1e-6)


@pytest.mark.parametrize("pooling", [Pooling.MEAN, Pooling.MAX, Pooling.MEAN_STD, Pooling.PAIR])
def test_an_item_does_not_depend_on_those_beside_it(pooling):
    rows = tap_rows([40, 3, 200, 17], parts=[i % 2 for i in range(260)], dim=64)
    together, _ = pool_rows(Task.CLASSIFICATION, pooling, rows)
    for i in range(4):
        part = item(rows, i)
        spans = Spans("chars", rows.spans.values[part], rows.spans.parts[part])
        alone, _ = pool_rows(Task.CLASSIFICATION, pooling, TapRows(rows.tap, rows.rows[part], rows.counts[i : i + 1], spans))
        np.testing.assert_array_equal(alone[0], together[i])


def test_a_pair_is_its_parts_and_how_they_differ():
    rows = tap_rows([3, 4], parts=[0, 0, 1, 1, 0, 1, 0])
    got, _ = pool_rows(Task.CLASSIFICATION, Pooling.PAIR, rows)
    for i, (u, v) in enumerate([([0, 1], [2]), ([4, 6], [3, 5])]):
        u, v = rows.rows[u].mean(0), rows.rows[v].mean(0)
        np.testing.assert_allclose(got[i], np.concatenate([u, v, abs(u - v), u * v]), atol=1e-6)


def test_an_item_that_is_no_pair_is_named():
    rows = tap_rows([2, 2], parts=[0, 1, 0, 0])
    assert usable_items(Task.CLASSIFICATION, Pooling.PAIR, rows).tolist() == [True, False]
    with pytest.raises(InvalidInput, match="item 1: tap 't' has not both parts of a pair"):
        pool_rows(Task.CLASSIFICATION, Pooling.PAIR, rows)
    with pytest.raises(InvalidInput, match="item 0: tap 't' has not both parts"):
        pool_rows(Task.CLASSIFICATION, Pooling.PAIR, tap_rows([2, 2]))


def test_one_row_stays_itself():
    rows = tap_rows([1, 1, 1], Granularity.ITEM)
    got, counts = pool_rows(Task.REGRESSION, Pooling.ROW, rows)
    np.testing.assert_array_equal(got, rows.rows)
    assert counts.tolist() == [1, 1, 1]
    with pytest.raises(InvalidInput, match="item 1: tap 't' has 2 rows for it"):
        pool_rows(Task.REGRESSION, Pooling.ROW, tap_rows([1, 2]))


def test_rows_of_the_part_that_is_asked_about_are_kept():
    rows = tap_rows([3, 4], parts=[0, 0, 1, 1, 0, 1, 0])
    context, counts = pool_rows(Task.QUESTION_ANSWERING, Pooling.ROWS, rows)
    np.testing.assert_array_equal(context, rows.rows[[2, 3, 5]])
    assert counts.tolist() == [1, 2]
    text, counts = pool_rows(Task.TAGGING, Pooling.ROWS, rows)
    np.testing.assert_array_equal(text, rows.rows[[0, 1, 4, 6]])
    assert counts.tolist() == [2, 2]
    assert rows_read(Task.TAGGING, tap_rows([2])).all(), "texts without parts are no pairs"
    assert not usable_items(Task.QUESTION_ANSWERING, Pooling.ROWS, tap_rows([2])).any()


@pytest.mark.parametrize("pooling", [Pooling.ROWS, Pooling.MEAN, Pooling.MAX, Pooling.MEAN_STD])
def test_an_item_without_rows_is_refused(pooling):
    task = Task.SEGMENTATION if pooling is Pooling.ROWS else Task.CLASSIFICATION
    rows = tap_rows([2, 0, 1], Granularity.CELL)
    assert usable_items(task, pooling, rows).tolist() == [True, False, True]
    with pytest.raises(InvalidInput, match="item 1: tap 't' has no row for it"):
        pool_rows(task, pooling, rows)


@pytest.mark.parametrize("pooling", Pooling)
def test_no_items_are_no_rows(pooling):
    granularity = Granularity.ITEM if pooling is Pooling.ROW else Granularity.TOKEN
    got, counts = pool_rows(Task.CLASSIFICATION, pooling, tap_rows([], granularity, []))
    assert got.shape == (0, dim_after(pooling, 5))
    assert counts.shape == (0,)


def test_what_suits():
    for task in Task:
        for granularity in Granularity:
            assert possible_poolings(task, granularity)[0] is default_pooling(task, granularity)
    check_pooling(Task.CLASSIFICATION, Tap("t", 5, Granularity.TOKEN), Pooling.PAIR)
    check_pooling(Task.SEGMENTATION, Tap("t", 5, Granularity.CELL), Pooling.ROWS)
    for task, granularity, pooling, pattern in [
        (Task.CLASSIFICATION, Granularity.CELL, Pooling.PAIR, "choose 'mean' or 'max' or 'mean\\+std'"),
        (Task.CLASSIFICATION, Granularity.ITEM, Pooling.MEAN, "one row an item .choose 'row'"),
        (Task.REGRESSION, Granularity.WINDOW, Pooling.ROW, "a row for each window"),
        (Task.TAGGING, Granularity.TOKEN, Pooling.MEAN, "choose 'rows'"),
        (Task.TAGGING, Granularity.ITEM, Pooling.ROWS, "tagging needs a row for each token"),
        (Task.SEGMENTATION, Granularity.TOKEN, Pooling.ROWS, "segmentation needs a row for each cell"),
    ]:
        with pytest.raises(InvalidInput, match=pattern):
            check_pooling(task, Tap("t", 5, granularity), pooling)


def test_cells_are_repeated_on_a_finer_grid():
    rows = np.arange(2 * 4, dtype=np.float32)[:, None]  # two pictures of 2 x 2 cells
    found = repeat_cells(rows, (2, 2), (3, 4)).reshape(2, 3, 4)
    np.testing.assert_array_equal(found[0], [[0, 0, 1, 1], [2, 2, 3, 3], [2, 2, 3, 3]])
    np.testing.assert_array_equal(found[1], found[0] + 4)
    assert repeat_cells(rows, (2, 2), (2, 2)) is rows
    assert repeat_cells(rows, None, None) is rows

"""Rows that are split come together again, in any order."""

from __future__ import annotations

import numpy as np
import pytest
from topwork_server import Granularity, Tap, TextItem
from topwork_server.feature_sets.set_types import Column, ColumnType, ItemBatch
from topwork_server.features import Spans, TapRows
from topwork_server.types import FingerprintedTap

INFO = FingerprintedTap(Tap("tokens", 3, Granularity.TOKEN), "f" * 64)


def features(counts, kind="chars"):
    total = sum(counts)
    width = 4 if kind == "box" else 2
    values = np.arange(total * width, dtype=np.float32).reshape(total, width)
    spans = Spans(kind, values, np.arange(total) % 2 if kind == "chars" else None) if kind else None
    return TapRows(INFO, np.arange(total * 3, dtype=np.float32).reshape(total, 3), np.array(counts), spans)


def equal(one, other):
    assert (one.tap, one.counts.tolist()) == (other.tap, other.counts.tolist())
    assert np.array_equal(one.rows, other.rows)
    if one.spans is None or other.spans is None:
        assert one.spans is other.spans
        return
    assert one.spans.kind == other.spans.kind
    assert np.array_equal(one.spans.values, other.spans.values)
    assert np.array_equal(one.spans.parts, other.spans.parts)


@pytest.mark.parametrize("kind", ["chars", "box", "seconds", ""])
@pytest.mark.parametrize("counts", [[1, 1, 1], [2, 0, 3], [0, 4], [5]])
def test_split_and_joined_is_the_same(counts, kind):
    before = features(counts, kind)
    pieces = before.split()
    assert [len(piece.rows) for piece in pieces] == counts
    equal(TapRows.join(INFO, pieces), before)


def test_of_no_items_there_are_no_rows_of_the_same_width():
    joined = TapRows.join(INFO, [])
    assert (joined.rows.shape, joined.counts.shape, joined.spans) == ((0, 3), (0,), None)
    assert joined.split() == []


def test_some_items_of_a_block_are_taken_with_all_that_is_theirs():
    block = ItemBatch(
        ids=["a", "b", "c"],
        taps=(features([2, 0, 3]),),
        metadata=(Column("year", ColumnType.INT, [1, None, 3]),),
        content_hashes=["x", "y", "z"],
        inputs=[TextItem("a"), None, TextItem("c")],
        keys=np.array([7, 8, 9]),
    )
    some = block.take([2, 0])
    assert (some.ids, some.metadata[0].values, some.content_hashes, some.inputs) == (
        ["c", "a"],
        [3, 1],
        ["z", "x"],
        [TextItem("c"), TextItem("a")],
    )
    assert some.keys.tolist() == [9, 7]
    assert some.taps[0].counts.tolist() == [3, 2]
    assert some.taps[0].rows[:, 0].tolist() == [6, 9, 12, 0, 3]
    assert some.taps[0].spans.values[:, 0].tolist() == [4, 6, 8, 0, 2]
    assert block.take([0, 1, 2]) is block

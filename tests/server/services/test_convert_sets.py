"""convert_sets.py: metadata and ready features cross as they are, or are refused by name."""

from __future__ import annotations

import math

import numpy as np
import pytest
from topwork.v1 import sets_pb2 as pb
from topwork.v1 import types_pb2 as t
from topwork_server import Granularity, ImageItem, InvalidInput, Tap, TextItem, VideoItem
from topwork_server.feature_sets.set_types import Column, ColumnType, SetDefinition, SetDescription
from topwork_server.features import Spans, TapRows
from topwork_server.inference.output_format import OutputFormat
from topwork_server.services.convert import item_messages, set_messages
from topwork_server.types import FingerprintedTap

COLUMNS = [
    Column("b", ColumnType.BOOL, [True, None, False]),
    Column("i", ColumnType.INT, [1, None, -(2**63)]),
    Column("f", ColumnType.FLOAT, [0.5, None, math.inf]),
    Column("s", ColumnType.STRING, ["x", None, ""]),
    Column("t", ColumnType.TIME, [1_700_000_000_000_000, None, -1]),
    Column("l", ColumnType.STRINGS, [["a", "b"], None, []]),
    Column("none", ColumnType.STRINGS, [None, None, None]),
    Column("all", ColumnType.INT, [1, 2, 3]),
]


@pytest.mark.parametrize("column", COLUMNS, ids=lambda column: column.name)
def test_a_column_comes_back_as_it_went(column):
    message = pb.Column.FromString(set_messages.column_message(column).SerializeToString())
    (back,) = set_messages.columns([message], 3)
    assert back == column
    assert [type(value) for value in back.values] == [type(value) for value in column.values]


@pytest.mark.parametrize(
    ("message", "complaint"),
    [
        (pb.Column(name="year", ints=[1, 2]), "'year' has no type"),
        (pb.Column(name="year", type=99, ints=[1, 2]), "'year' has no type"),
        (pb.Column(name="year", type=pb.COLUMN_TYPE_INT, ints=[1]), "'year' has 1 values in `ints`, and there are 2 items"),
        (pb.Column(name="year", type=pb.COLUMN_TYPE_FLOAT, ints=[1, 2]), "'year' has 0 values in `floats`"),
        (pb.Column(name="year", type=pb.COLUMN_TYPE_INT, ints=[1, 2], nulls=[2]), "'year' misses its value 2"),
    ],
)
def test_columns_that_do_not_fit_are_refused_by_name(message, complaint):
    with pytest.raises(InvalidInput) as caught:
        set_messages.columns([message], 2)
    assert complaint in caught.value.message


def taps(granularity, counts, kind="", dtype=np.float32):
    total = sum(counts)
    width = 4 if kind == "box" else 2
    parts = np.arange(total, dtype=np.int32) if kind == "chars" else None
    spans = Spans(kind, np.arange(total * width, dtype=np.float32).reshape(total, width), parts) if kind else None
    rows = np.arange(total * 3).reshape(total, 3).astype(dtype)
    return TapRows(FingerprintedTap(Tap("a.b", 3, granularity), "f" * 64), rows, np.array(counts, np.int64), spans)


@pytest.mark.parametrize(
    "rows",
    [
        taps(Granularity.ITEM, [1, 1]),
        taps(Granularity.TOKEN, [2, 0], "chars"),
        taps(Granularity.WINDOW, [1, 3], "seconds"),
        taps(Granularity.CELL, [4, 4], "box"),
        taps(Granularity.WINDOW, [0, 0], "seconds"),
        taps(Granularity.WINDOW, [2, 1]),
    ],
)
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_features_come_back_as_they_went(rows, dtype):
    message = item_messages.tap_features(rows, OutputFormat(dtype))
    (back,) = set_messages.features([t.TapFeatures.FromString(message.SerializeToString())], 2)
    assert back.tap == rows.tap
    assert back.rows.dtype == np.float32
    assert np.array_equal(back.rows, rows.rows)
    assert back.counts.tolist() == rows.counts.tolist()
    assert (back.spans is None) == (rows.spans is None)
    if rows.spans is not None:
        assert back.spans.kind == rows.spans.kind
        assert np.array_equal(back.spans.values, rows.spans.values)
        assert np.array_equal(back.spans.parts, rows.spans.parts)


def made(**fields):
    tensor = item_messages.tensor(np.zeros((2, 3), np.float32))
    return t.TapFeatures(**{"tap": "x", "rows": tensor, **fields})


def test_one_row_an_item_needs_no_counts():
    (rows,) = set_messages.features([made()], 2)
    assert (rows.tap.tap.granularity, rows.counts.tolist()) == (Granularity.ITEM, [1, 1])


BOX = t.Spans(kind=t.SPAN_KIND_BOX, values=item_messages.tensor(np.zeros((2, 2), np.float32)))


@pytest.mark.parametrize(
    ("message", "complaint"),
    [
        (made(rows=item_messages.tensor(np.zeros((2, 3), np.int64))), "rows of the tap x are int64 of shape [2, 3]"),
        (made(rows=item_messages.tensor(np.zeros(6, np.float32))), "float32 of shape [6]"),
        (made(rows=t.Tensor(dtype=t.DTYPE_FLOAT32, shape=[2, 3], data=b"1234")), "has 24 bytes, but 4 came"),
        (made(rows=t.Tensor(dtype=t.DTYPE_BINARY, shape=[2, 8], data=b"12")), "BINARY"),
        (made(rows=item_messages.tensor(np.zeros((3, 3), np.float32))), "3 rows with 3 counts that come to 3 came for 2 ids"),
        (made(counts=[2, 0]), "2 rows with 2 counts that come to 2 came for 2 ids"),
        (made(granularity=t.GRANULARITY_TOKEN), "2 rows with 0 counts that come to 0"),
        (made(granularity=t.GRANULARITY_TOKEN, counts=[1, 2]), "2 rows with 2 counts that come to 3"),
        (made(granularity=t.GRANULARITY_CELL, counts=[1, 1], spans=BOX), "spans of shape [2, 2] came for 2 rows"),
        (made(granularity=t.GRANULARITY_CELL, counts=[1, 1], spans=t.Spans()), "spans of the tap x have no kind"),
    ],
)
def test_features_that_do_not_fit_are_refused(message, complaint):
    with pytest.raises(InvalidInput) as caught:
        set_messages.features([message], 2)
    assert complaint in caught.value.message


@pytest.mark.parametrize("item", [TextItem("a"), TextItem("a", "b"), TextItem("a", ""), ImageItem(b"abc"), VideoItem(b"abc")])
def test_inputs_come_back_as_they_went(item):
    assert item_messages.item(item_messages.item_message(item)) == item


def test_inputs_that_are_arrays_files_or_not_there(tmp_path):
    array = np.arange(6, dtype=np.uint8).reshape(1, 2, 3)
    assert np.array_equal(item_messages.item(item_messages.item_message(array)), array)
    (tmp_path / "clip").write_bytes(b"abc")
    assert item_messages.item(item_messages.item_message(VideoItem(tmp_path / "clip"))) == VideoItem(b"abc")
    assert item_messages.item_message(None).WhichOneof("content") is None


def test_a_set_of_no_encoder_has_no_modality():
    wanted = SetDefinition("v", (FingerprintedTap(Tap("cells", 4, Granularity.CELL, (2, 3)), ""),), dtype="float16")
    found = set_messages.feature_set(
        SetDescription(wanted, {}, {"cells": "features_cells"}, 0, 1, 2, 3.0, (), "/sets/v.lance"), []
    )
    assert (found.modality, found.dtype, list(found.taps[0].tap.grid)) == (t.MODALITY_UNSPECIFIED, t.DTYPE_FLOAT16, [2, 3])


def test_what_a_read_selects():
    all_of_it = set_messages.selection(pb.ReadRequest(set="v", all_taps=True, all_columns=True))
    assert (all_of_it.taps, all_of_it.columns, all_of_it.ids) == (None, None, None)
    some = set_messages.selection(pb.ReadRequest(set="v", taps=["a"], where="x = 1", ids=["i"], offset=2, limit=3, version=4))
    assert (some.taps, some.columns, some.where, some.ids) == (("a",), (), "x = 1", ("i",))
    assert (some.offset, some.limit, some.version) == (2, 3, 4)

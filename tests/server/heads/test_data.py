"""Examples of a pinned version, in any order and state of the set; datasets of raw items."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from sample_batches import CELLS, DIM, POOLED, TOKENS, names
from topwork_server.errors import InvalidInput, NotReady
from topwork_server.feature_sets.set_registry import FeatureSets
from topwork_server.feature_sets.set_types import Column, ColumnType, ItemBatch, Selection, SetDefinition
from topwork_server.features import Spans, TapRows, cell_boxes
from topwork_server.heads.head_types import HeadDefinition, Pooling, Task, UnlabeledUse
from topwork_server.heads.training.dataset import labels_of, load_dataset
from topwork_server.heads.training.fine_tune_dataset import fine_tune_dataset
from topwork_server.plugin_api.trainer import Target
from topwork_server.types import FingerprintedTap, Granularity, Modality, Tap, TextItem

T = ColumnType
OTHER = FingerprintedTap(Tap("other", 3, Granularity.ITEM), "e" * 64)


@pytest.fixture
def sets(tmp_path):
    opened = FeatureSets(tmp_path / "sets")
    yield opened
    opened.close()


def features(info, ids, counts=None, spans=None, parts=None):
    """Rows that tell whose they are: those of id "item-00007" are 7, 7.01, 7.02 ..."""
    counts = [1] * len(ids) if counts is None else counts
    values = [int(id[-5:]) + row / 100 for id, count in zip(ids, counts, strict=True) for row in range(count)]
    rows = np.repeat(np.array(values, np.float32).reshape(-1, 1), info.tap.dim, axis=1)
    kind = {Granularity.TOKEN: "chars", Granularity.CELL: "box", Granularity.WINDOW: "seconds"}.get(info.tap.granularity)
    made = Spans(kind, np.array(spans, np.float32), parts) if spans is not None else None
    return TapRows(info, rows, np.array(counts, np.int64), made)


def column(name, type, values):
    return Column(name, type, values)


def written(sets, ids, taps, *columns, wanted=None, contents=(), inputs=()):
    birds = sets.create(wanted or SetDefinition("birds", tuple(rows.tap for rows in taps)))
    birds.write(ItemBatch(ids, tuple(taps), columns, contents, inputs)).result()
    return birds


def definition(birds, task=Task.CLASSIFICATION, views=((POOLED, Pooling.ROW),), **more):
    return HeadDefinition(
        name="h", set="birds", version=birds.version, path=str(birds.path), target="label", kind="linear", task=task,
        encoder="", encoder_options={}, modality=None, views=tuple(views), **more,
    )  # fmt: skip


def quiet(fraction, message):
    assert 0 <= fraction <= 1
    assert message


def loaded(birds, *args, least=2, **more):
    return load_dataset(definition(birds, *args, **more), least, quiet)


@pytest.fixture
def birds(sets):
    """40 items; every fifth is unlabeled, the others alternate."""
    ids = names(0, 40)
    labels = [None if i % 5 == 0 else ("emu", "owl")[i % 2] for i in range(40)]
    years = [2000 + i for i in range(40)]
    return written(sets, ids, [features(POOLED, ids)], column("label", T.STRING, labels), column("year", T.INT, years))


def test_examples_are_the_labeled_items_in_the_order_of_their_ids(birds):
    data = loaded(birds)
    expected = [i for i in range(40) if i % 5]
    assert data.ids == tuple(f"item-{i:05d}" for i in expected)
    examples = data.examples
    assert examples.names == ("emu", "owl")
    assert examples.values.dtype == np.int64
    assert examples.values.tolist() == [i % 2 for i in expected]
    assert examples.items.tolist() == list(range(32))
    assert examples.groups.tolist() == list(range(32))
    (view,) = examples.views
    assert (view.tap, view.pooling) == ("pooled", "row")
    assert view.rows.dtype == np.float32
    assert view.rows.flags.c_contiguous
    np.testing.assert_array_equal(view.rows, np.repeat(np.array(expected, np.float32)[:, None], DIM, 1))
    assert examples.unlabeled == ()
    assert data.unlabeled == 8
    assert data.test is None
    assert data.warnings == ()
    assert data.labels.values == examples.values.tolist()


def test_updates_and_compactions_change_nothing(sets, birds):
    before = loaded(birds).examples
    ids = names(10, 30)[::-1]
    labels = [None if int(id[-2:]) % 5 == 0 else ("emu", "owl")[int(id[-2:]) % 2] for id in ids]
    birds.write(ItemBatch(ids, (features(POOLED, ids),), (column("label", T.STRING, labels),))).result()
    birds.compact()
    first = next(birds.read(Selection()).batches).ids
    assert list(first) != sorted(first), "the set itself is in another order now"
    after = loaded(birds).examples
    np.testing.assert_array_equal(after.views[0].rows, before.views[0].rows)
    np.testing.assert_array_equal(after.values, before.values)


def test_the_version_is_the_pinned_one(birds):
    old = definition(birds)
    birds.pin("head-h", old.version)
    birds.write(ItemBatch(["item-00001"], (features(POOLED, ["item-99999"]),), (column("label", T.STRING, ["kiwi"]),))).result()
    assert load_dataset(old, 2, quiet).examples.names == ("emu", "owl")
    with pytest.raises(InvalidInput, match="'kiwi' has 1 example"):
        loaded(birds)


def test_filters_choose_and_test_items_test(birds):
    data = loaded(birds, where="year < 2030", test_where="year >= 2020")
    assert data.ids == tuple(f"item-{i:05d}" for i in range(20) if i % 5)
    assert data.test_ids == tuple(f"item-{i:05d}" for i in range(20, 30) if i % 5)
    np.testing.assert_array_equal(data.test.views[0].rows[:, 0], [i for i in range(20, 30) if i % 5])
    assert data.test.values.tolist() == [i % 2 for i in range(20, 30) if i % 5]
    assert data.test.items.tolist() == list(range(8))
    assert data.unlabeled == 4
    with pytest.raises(InvalidInput, match=r"no item matches year > 3000 .correct `where`"):
        loaded(birds, where="year > 3000")
    with pytest.raises(InvalidInput, match="no item matches year > 2035 among the items to learn from"):
        loaded(birds, where="year < 2010", test_where="year > 2035")
    with pytest.raises(InvalidInput, match="every item matches year > 0: none is left"):
        loaded(birds, test_where="year > 0")
    with pytest.raises(InvalidInput, match="no item that matches year = 2005 has a label"):
        loaded(birds, test_where="year = 2005")


def test_unlabeled_rows_come_where_they_are_asked_for(birds):
    examples = loaded(birds, unlabeled=UnlabeledUse.SELF_TRAINING, test_where="year >= 2030").examples
    np.testing.assert_array_equal(examples.unlabeled[0].rows[:, 0], [0, 5, 10, 15, 20, 25])
    assert examples.unlabeled[0].tap == "pooled"


def test_labels_alone_are_read_in_the_server(birds):
    labels = labels_of(birds.read, definition(birds, test_where="year >= 2020"), 2)
    assert labels.names == ("emu", "owl")
    assert int(labels.labeled.sum()) == 16
    assert len(labels.values) == 20
    with pytest.raises(InvalidInput, match=r"'emu' has 1 example"):
        labels_of(birds.read, definition(birds, test_where="year >= 2004"), 2)
    with pytest.raises(InvalidInput, match="has a label that was trained on"):
        labels_of(birds.read, definition(birds, test_where="year = 2005"), 2)


def test_what_is_wrong_names_the_column_or_the_id(sets):
    ids = names(0, 3)
    birds = written(sets, ids, [features(POOLED, ids)], column("label", T.FLOAT, [1.0, float("nan"), 2.0]))
    for asked in (lambda d: load_dataset(d, 2, quiet), lambda d: labels_of(birds.read, d, 2)):
        with pytest.raises(InvalidInput, match="item 'item-00001': column 'label': the number is nan"):
            asked(definition(birds, Task.REGRESSION))
    with pytest.raises(InvalidInput, match=r"no metadata column 'lable' to learn .did you mean label"):
        load_dataset(replace(definition(birds), target="lable"), 2, quiet)


def test_groups_join_items_of_equal_content_and_of_the_group_column(sets):
    ids = names(0, 8)
    birds = written(
        sets, ids, [features(POOLED, ids)],
        column("label", T.STRING, ["a", "b"] * 4), column("who", T.STRING, ["x", "x", "y", None, None, "z", "z", None]),
        column("size", T.FLOAT, [1.0] * 8), contents=["1", "2", "2", "3", "3", "", "", "4"],
    )  # fmt: skip
    assert loaded(birds).examples.groups.tolist() == [0, 1, 1, 2, 2, 3, 4, 5]
    assert loaded(birds, group="who").examples.groups.tolist() == [0, 0, 0, 1, 1, 2, 2, 3]
    with pytest.raises(InvalidInput, match="column 'size' holds float, which groups nothing"):
        loaded(birds, group="size")
    with pytest.raises(InvalidInput, match="no metadata column 'nobody'"):
        loaded(birds, group="nobody")


def test_what_a_test_item_shows_is_not_trained_on(sets):
    ids = names(0, 8)
    labels = column("label", T.STRING, ["a", "b"] * 4)
    birds = written(sets, ids, [features(POOLED, ids)], labels, contents=[*"1234561", ""])
    data = loaded(birds, test_where="id >= 'item-00006'", least=1)
    assert data.ids == tuple(names(1, 6))
    assert data.warnings == ("1 item is not trained on: its content is that of a test item",)
    np.testing.assert_array_equal(data.examples.views[0].rows[:, 0], range(1, 6))


def test_what_equals_a_test_item_as_features_is_not_trained_on(sets):
    ids = names(0, 10)
    rows = np.random.default_rng(0).normal(size=(10, DIM)).astype(np.float32)
    rows[:2] = rows[8:].astype(np.float16)
    birds = written(sets, ids, [TapRows(POOLED, rows, np.ones(10, np.int64))], column("label", T.STRING, ["a", "b"] * 5))
    data = loaded(birds, test_where="id >= 'item-00008'", least=1)
    assert data.ids == tuple(names(2, 8))
    assert data.warnings == ("2 items are not trained on: their features are those of a test item",)
    np.testing.assert_array_equal(data.examples.views[0].rows, rows[2:8])


def test_groups_join_items_of_equal_features_in_any_view(sets):
    ids = names(0, 12)
    random = np.random.default_rng(0)
    pooled, other = (random.normal(size=(12, dim)).astype(np.float32) for dim in (DIM, 3))
    pooled[6:9], other[9:] = pooled[:3], other[3:6]
    taps = [TapRows(tap, rows, np.ones(12, np.int64)) for tap, rows in ((POOLED, pooled), (OTHER, other))]
    birds = written(sets, ids, taps, column("label", T.STRING, ["a", "b"] * 6))
    assert loaded(birds).examples.groups.tolist() == [0, 1, 2, 3, 4, 5, 0, 1, 2, 6, 7, 8]
    both = loaded(birds, views=((POOLED, Pooling.ROW), (OTHER, Pooling.ROW)))
    assert both.examples.groups.tolist() == [0, 1, 2, 3, 4, 5] * 2


def test_pictures_whose_cells_are_all_equal_are_one_group(sets):
    ids = names(0, 6)
    cells = np.random.default_rng(0).normal(size=(6, 4, DIM)).astype(np.float32)
    cells[5] = cells[1][[1, 0, 3, 2]]  # in a mirror
    boxes = np.tile(cell_boxes((2, 2), (0, 0, 20, 20)), (6, 1))
    labels = [["0,0,10,20:owl"]] * 6
    taps = TapRows(CELLS, cells.reshape(-1, DIM), np.full(6, 4), Spans("box", boxes.astype(np.float32)))
    birds = written(sets, ids, [taps], column("label", T.STRINGS, labels))
    data = loaded(birds, Task.SEGMENTATION, views=((CELLS, Pooling.ROWS),))
    assert data.examples.groups.reshape(6, 4)[:, 0].tolist() == [0, 1, 2, 3, 4, 1]


def test_a_group_that_both_learns_and_evaluates_is_told(sets):
    ids = names(0, 8)
    who = column("who", T.STRING, ["x", "x", "y", "y", None, "z", None, "x"])
    birds = written(sets, ids, [features(POOLED, ids)], column("label", T.STRING, ["a", "b"] * 4), who)
    [warning] = loaded(birds, test_where="id >= 'item-00006'", group="who", least=1).warnings
    assert warning == "2 items that are trained on share a who with test items: metrics may be too good"
    assert loaded(birds, test_where="id >= 'item-00006'", least=1).warnings == ()
    assert loaded(birds, group="who", least=1).warnings == ()


@pytest.mark.parametrize(("unlabeled", "free"), [(UnlabeledUse.LEFT_OUT, None), (UnlabeledUse.LABEL_PROPAGATION, [4])])
def test_items_without_rows_are_left_out_and_named(sets, unlabeled, free):
    ids = names(0, 7)
    counts = [2, 0, 3, 1, 2, 0, 1]
    birds = written(sets, ids, [features(TOKENS, ids, counts)], column("label", T.STRING, ["a", "b", "b", "a", None, None, "b"]))
    data = loaded(birds, views=[(TOKENS, Pooling.MAX)], unlabeled=unlabeled)
    assert data.ids == ("item-00000", "item-00002", "item-00003", "item-00006")
    np.testing.assert_allclose(data.examples.views[0].rows[:, 0], [0.01, 2.02, 3, 6])
    assert data.warnings == ("1 labeled item is left out, which has no rows of hidden.6 that the head could read: item-00001",)
    assert [int(row) for view in data.examples.unlabeled for row in view.rows[:, 0]] == (free or [])
    with pytest.raises(InvalidInput, match=r"'b' has 2 examples, and 3 are needed|'a' has 2 examples"):
        loaded(birds, views=[(TOKENS, Pooling.MAX)], least=3)


def test_a_class_that_loses_its_rows_is_told(sets):
    ids = names(0, 6)
    rows = features(TOKENS, ids, [1, 1, 0, 1, 1, 1])
    birds = written(sets, ids, [rows], column("label", T.STRING, ["a", "a", "b", "b", "c", "c"]))
    with pytest.raises(InvalidInput, match="'b' has 1 example, and 2 are needed"):
        loaded(birds, views=[(TOKENS, Pooling.MEAN)])
    labels = column("label", T.STRING, ["a", "b"] * 3)
    birds.write(ItemBatch(ids, (features(TOKENS, ids, [0] * 6),), (labels,))).result()
    with pytest.raises(InvalidInput, match=r"no labeled item has rows to learn from .6 labeled items are left out"):
        loaded(birds, views=[(TOKENS, Pooling.MEAN)])


def test_several_views_have_the_same_items(sets):
    ids = names(0, 6)
    taps = [features(OTHER, ids), features(TOKENS, ids, [2, 1, 0, 1, 1, 1])]
    birds = written(sets, ids, taps, column("label", T.STRINGS, [["a"], ["b", "a"], [], [], ["b"], None]))
    views = [(OTHER, Pooling.ROW), (TOKENS, Pooling.MEAN), (TOKENS, Pooling.MEAN_STD)]
    data = loaded(birds, Task.MULTI_LABEL, views)
    assert [view.rows.shape for view in data.examples.views] == [(4, 3), (4, DIM), (4, 2 * DIM)]
    assert [(view.tap, view.pooling) for view in data.examples.views] == [
        ("other", "row"),
        ("hidden.6", "mean"),
        ("hidden.6", "mean+std"),
    ]
    np.testing.assert_allclose(data.examples.views[1].rows[:, 0], [0.005, 1, 3, 4])
    np.testing.assert_array_equal(data.examples.views[0].rows[:, 0], [0, 1, 3, 4])
    assert data.examples.values.tolist() == [[1, 0], [1, 1], [0, 0], [0, 1]]
    assert data.examples.values.dtype == np.float32


def test_numbers_are_a_column(birds):
    examples = load_dataset(replace(definition(birds, Task.REGRESSION), target="year"), 2, quiet).examples
    assert examples.target is Target.NUMBERS
    assert examples.values.tolist() == [[2000 + i] for i in range(40)]
    assert examples.values.dtype == np.float64


def test_described_classes_need_no_label(sets):
    ids = names(0, 4)
    birds = written(sets, ids, [features(POOLED, ids)], column("label", T.STRING, [None] * 4))
    described = (((1.0,) * DIM, (2.0,) * DIM),)
    more = {"descriptions": {"owl": "an owl", "emu": "an emu"}, "described": described}
    data = loaded(birds, **more, least=0)
    assert data.examples.count == 0
    assert data.examples.views[0].rows.shape == (0, DIM)
    assert data.examples.names == ("owl", "emu")
    np.testing.assert_array_equal(data.examples.described[0], described[0])
    assert data.ids == ()
    assert data.unlabeled == 4
    birds.write(ItemBatch(ids[:2], (features(POOLED, ids[:2]),), (column("label", T.STRING, ["emu", "owl"]),))).result()
    assert loaded(birds, **more, least=0).examples.values.tolist() == [1, 0]
    with pytest.raises(InvalidInput, match="no label for any"):
        load_dataset(definition(birds, where="id > 'item-00001'"), 1, quiet)


def words(text, start=0):
    """Spans of a text's words."""
    spans, at = [], start
    for word in text.split():
        spans.append((at, at + len(word)))
        at += len(word) + 1
    return spans


def test_tags_become_classes_of_tokens(sets):
    ids = names(0, 4)
    # "Ada Lovelace met Babbage"; its pair is not tagged. The last has only a pair's token before its own.
    spans = [words("Ada Lovelace met Babbage"), words("in London"), words("no one"), [(0, 3), *words("Rome")]]
    spans[0].append((0, 3))
    parts = np.array([0, 0, 0, 0, 1, 0, 0, 0, 0, 1, 0], np.int32)
    rows = features(TOKENS, ids, [5, 2, 2, 2], [one for item in spans for one in item], parts)
    tags = [["0:12:PER", "18:30:PER", "40:50:LOC"], ["3:9:LOC"], [], ["2:3:LOC", "3:4:PER"]]
    birds = written(sets, ids, [rows], column("label", T.STRINGS, tags))
    data = loaded(birds, Task.TAGGING, [(TOKENS, Pooling.ROWS)], least=1)
    examples = data.examples
    assert examples.names == ("O", "B-LOC", "I-LOC", "B-PER", "I-PER")
    assert [examples.names[value] for value in examples.values] == [
        "B-PER",
        "I-PER",
        "O",
        "B-PER",
        "O",
        "B-LOC",
        "O",
        "O",
        "B-LOC",
    ]
    assert examples.items.tolist() == [0, 0, 0, 0, 1, 1, 2, 2, 3]
    np.testing.assert_allclose(examples.views[0].rows[:, 0], [0, 0.01, 0.02, 0.03, 1, 1.01, 2, 2.01, 3.01])
    assert data.warnings == (
        "2 spans of the labels cover no token of their own (such as of a cut text): not trained on",
        f"1 span of the labels goes on after the last token of the text, such as 18:30 of {ids[0]!r}",
    )


def test_answers_become_starts_and_ends_of_the_context(sets):
    ids = names(0, 4)
    spans = [(0, 3), *words("the cat sat"), (0, 3), *words("on mats"), (0, 3), (0, 2), (0, 2)]
    parts = np.array([0, 1, 1, 1, 0, 1, 1, 0, 1, 0], np.int32)
    rows = features(TOKENS, ids, [4, 3, 2, 1], spans, parts)
    asked = column("label", T.STRINGS, [["4:11", "8:11"], ["0:1"], ["90:99"], ["0:1"]])
    birds = written(sets, ids, [rows], asked)
    data = loaded(birds, Task.QUESTION_ANSWERING, [(TOKENS, Pooling.ROWS)])
    assert data.ids == tuple(ids[:2])
    assert data.examples.target is Target.SPAN
    assert data.examples.values.tolist() == [[0, 0], [1, 0], [1, 1], [1, 1], [0, 0]]
    assert data.examples.items.tolist() == [0, 0, 0, 1, 1]
    np.testing.assert_allclose(data.examples.views[0].rows[:, 0], [0.01, 0.02, 0.03, 1.01, 1.02])
    assert [warning[:26] for warning in data.warnings] == ["1 labeled item is left out", "1 item is left out: no tok"]


def test_answers_need_a_context(sets):
    ids = names(0, 2)
    rows = features(TOKENS, ids, [1, 1], [(0, 3), (0, 3)], np.zeros(2, np.int32))
    birds = written(sets, ids, [rows], column("label", T.STRINGS, [["0:3"]] * 2))
    with pytest.raises(InvalidInput, match=r"no labeled item has rows .*write pairs of question and context"):
        loaded(birds, Task.QUESTION_ANSWERING, [(TOKENS, Pooling.ROWS)])


def test_cells_take_the_class_of_their_area(sets):
    ids = names(0, 3)
    boxes = np.concatenate([cell_boxes((2, 2), (0, 0, 8, 8))] * 3)
    birds = written(
        sets, ids, [features(CELLS, ids, [4, 4, 4], boxes)], column("label", T.STRINGS, [["0,0,4,8:owl"], ["3,3,8,8:owl"], []])
    )  # fmt: skip
    data = loaded(birds, Task.SEGMENTATION, [(CELLS, Pooling.ROWS)])
    assert data.examples.names == ("background", "owl")
    assert data.examples.values.tolist() == [1, 0, 1, 0, 0, 0, 0, 1, 0, 0, 0, 0]
    assert data.examples.items.tolist() == [0] * 4 + [1] * 4 + [2] * 4
    small = column("label", T.STRINGS, [["0,0,1,1:owl"], ["3,3,4,4:owl"], []])
    birds.write(ItemBatch(ids, (features(CELLS, ids, [4, 4, 4], boxes),), (small,))).result()
    with pytest.raises(InvalidInput, match="all rows of tap 'cells' are of one class"):
        loaded(birds, Task.SEGMENTATION, [(CELLS, Pooling.ROWS)])


def test_rows_that_do_not_say_what_they_cover_cannot_be_tagged(sets):
    ids = names(0, 2)
    birds = written(sets, ids, [features(TOKENS, ids, [1, 1])], column("label", T.STRINGS, [["0:1:X"]] * 2))
    with pytest.raises(InvalidInput, match="do not say what they cover, which tagging needs"):
        loaded(birds, Task.TAGGING, [(TOKENS, Pooling.ROWS)])


def kept(sets, count=60, missing=(), keep=True, **columns):
    ids = names(0, count)
    wanted = SetDefinition("birds", (POOLED,), "letters", modalities=(Modality.TEXT,), keep_inputs=keep)
    inputs = [None if i in missing else TextItem(f"text {i}") for i in range(count)] if keep else ()
    labels = column("label", T.STRING, [f"c{i % 3}" for i in range(count)])
    who = column("who", T.INT, [i // 2 for i in range(count)])
    return written(sets, ids, [features(POOLED, ids)], labels, who, wanted=wanted, inputs=inputs)


def test_a_dataset_splits_raw_items_by_group_and_class(sets):
    wanted = definition(kept(sets), group="who")
    data = load_dataset(wanted, 2, quiet)
    made, ids = fine_tune_dataset(wanted, data, "options", 7)
    assert ids == tuple(names(0, 60))
    assert made.items == [TextItem(f"text {i}") for i in range(60)]
    assert (made.options, made.tap, made.pooling, made.target) == ("options", POOLED.tap, "row", Target.CLASSES)
    assert made.values.tolist() == [i % 3 for i in range(60)]
    assert made.counts.tolist() == [1] * 60
    assert sorted([*made.train, *made.validation, *made.test]) == list(range(60))
    assert 40 <= len(made.train) <= 44
    assert 8 <= len(made.validation) <= 10
    groups = [{i // 2 for i in part} for part in (made.train, made.validation, made.test)]
    assert not groups[0] & groups[1] | groups[0] & groups[2] | groups[1] & groups[2]
    assert all({i % 3 for i in part} == {0, 1, 2} for part in (made.train, made.validation, made.test))
    again, _ = fine_tune_dataset(wanted, data, "options", 7)
    np.testing.assert_array_equal(again.test, made.test)
    other, _ = fine_tune_dataset(wanted, data, "options", 8)
    assert other.test.tolist() != made.test.tolist()


def test_a_dataset_takes_the_test_that_is_given_and_leaves_out_what_is_missing(sets):
    wanted = definition(kept(sets, missing=(3, 50)), test_where="id >= 'item-00040'")
    data = load_dataset(wanted, 2, quiet)
    told: list[str] = []
    made, ids = fine_tune_dataset(wanted, data, None, 0, told.append)
    assert told == ["2 items are left out, whose input the set does not keep (such as 'item-00003')"]
    assert ids == tuple(id for id in names(0, 60) if id not in ("item-00003", "item-00050"))
    assert [ids[i] for i in made.test] == [id for id in names(40, 60) if id != "item-00050"]
    assert sorted([*made.train, *made.validation]) == list(range(39))
    assert made.values.tolist() == [int(id[-2:]) % 3 for id in ids]
    assert [item.text for item in made.items] == [f"text {int(id[-2:])}" for id in ids]


def test_without_raw_inputs_there_is_no_dataset(sets):
    wanted = definition(kept(sets, keep=False))
    data = load_dataset(wanted, 2, quiet)
    assert data.inputs(["item-00001"]) == {}
    with pytest.raises(NotReady, match=r"keeps no raw inputs, and linear trains on them .*keep_inputs=True"):
        fine_tune_dataset(wanted, data, None, 0)


def test_inputs_are_those_of_the_version(sets):
    birds = kept(sets, 8)
    data = load_dataset(definition(birds), 2, quiet)
    assert data.inputs(["item-00001", "item-00005", "nobody"]) == {
        "item-00001": TextItem("text 1"),
        "item-00005": TextItem("text 5"),
    }
    assert data.inputs([]) == {}

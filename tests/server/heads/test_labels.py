"""Labels: what columns hold, and how bad ones are refused."""

from __future__ import annotations

import numpy as np
import pytest
from topwork_server.errors import InvalidInput
from topwork_server.feature_sets.set_types import Column, ColumnType
from topwork_server.heads.head_types import Task
from topwork_server.heads.training.labels import check_target, read_labels, read_test_labels, task_of

T = ColumnType


def read(type, values, task=None, least=2, names=()):
    return read_labels(Column("label", type, values), task, least, "label", names)


def test_texts_are_classes_and_what_is_missing_is_unlabeled():
    labels = read(T.STRING, ["owl", None, "emu", "owl", "emu"])
    assert labels.task is Task.CLASSIFICATION
    assert labels.names == ("emu", "owl")
    assert labels.values == [1, None, 0, 1, 0]
    assert labels.labeled.tolist() == [True, False, True, True, True]
    assert labels.warnings == ()


def test_booleans_and_few_whole_numbers_are_classes():
    assert read(T.BOOL, [True, False, True, False, None]).names == ("false", "true")
    labels = read(T.INT, [10, 9, -1, 10, 9, -1])
    assert labels.task is Task.CLASSIFICATION
    assert labels.names == ("-1", "9", "10")
    assert labels.values == [2, 1, 0, 2, 1, 0]


def test_many_whole_numbers_and_fractions_are_numbers():
    assert read(T.INT, list(range(21))).task is Task.REGRESSION
    assert read(T.INT, list(range(21)) * 2, Task.CLASSIFICATION).task is Task.CLASSIFICATION
    labels = read(T.FLOAT, [0.5, None, -2.0])
    assert labels.task is Task.REGRESSION
    assert labels.names == ()
    assert labels.values == [0.5, None, -2.0]
    assert read(T.INT, [1, 2], Task.REGRESSION).values == [1.0, 2.0]


def test_lists_are_labels_and_an_empty_one_has_none():
    labels = read(T.STRINGS, [["a", "b", "a"], [], None, ["b"], ["a"]])
    assert labels.task is Task.MULTI_LABEL
    assert labels.names == ("a", "b")
    assert labels.values == [{0, 1}, set(), None, {1}, {0}]
    assert labels.labeled.tolist() == [True, True, False, True, True]


def test_spans_are_tags():
    values = [["6:9:LOC", "0:5:PER"], [], None, ["1:2:PER", "2:3:LOC"]]
    labels = read(T.STRINGS, values)
    assert labels.task is Task.TAGGING
    assert labels.names == ("O", "B-LOC", "I-LOC", "B-PER", "I-PER")
    assert labels.values == [[(0, 5, 1), (6, 9, 0)], [], None, [(1, 2, 1), (2, 3, 0)]]
    assert read(T.STRINGS, [["x", "0:1:y"], ["x", "0:1:y"], []]).task is Task.MULTI_LABEL
    assert read(T.STRINGS, [["0:3:a:b"], ["0:3:a:b"]]).names == ("O", "B-a:b", "I-a:b")


def test_answers_are_spans_and_a_question_without_one_is_left_out():
    labels = read(T.STRINGS, [["7:9", "3:5", "7:9"], [], None])
    assert labels.task is Task.QUESTION_ANSWERING
    assert labels.values == [[(3, 5), (7, 9)], None, None]
    assert labels.names == ("start", "end")
    assert labels.labeled.tolist() == [True, False, False]
    assert labels.warnings == ("column 'label': 1 label is empty, and its item counts as unlabeled",)


def test_boxes_are_masks():
    labels = read(T.STRINGS, [["0,0,2,2:owl"], ["1,1,3.5,3:emu", "0,0,1,1:owl"], [], ["1,1,2,2:emu"]])
    assert labels.task is Task.SEGMENTATION
    assert labels.names == ("background", "emu", "owl")
    assert labels.values[0].cells(np.array([[0, 0, 2, 2], [2, 2, 4, 4.0]])).tolist() == [2, 0]
    assert labels.labeled.all()


def test_empty_texts_are_no_class():
    labels = read(T.STRING, ["a", "", " ", "b", "a", "b"])
    assert labels.names == ("a", "b")
    assert labels.warnings == ("column 'label': 2 labels are empty, and their items count as unlabeled",)


def test_classes_that_look_alike_are_told():
    assert read(T.STRING, ["Owl", "owl ", "emu"] * 2).warnings == (
        "column 'label': classes that differ in case or space alone: 'Owl' and 'owl '",
    )


def test_times_are_no_labels():
    with pytest.raises(InvalidInput, match="'label' holds times, which no head predicts"):
        task_of(Column("label", T.TIME, [1]))


@pytest.mark.parametrize(
    ("type", "task", "pattern"),
    [
        (T.FLOAT, Task.CLASSIFICATION, "holds float, and classification reads string or bool or int .*float suits regression"),
        (T.STRING, Task.REGRESSION, "holds string, and regression reads float or int"),
        (T.STRING, Task.MULTI_LABEL, "multi-label reads strings"),
        (T.STRINGS, Task.CLASSIFICATION, "holds strings, and classification"),
        (T.BOOL, Task.REGRESSION, "bool suits classification"),
        (T.TIME, Task.REGRESSION, "holds time, and regression reads"),
        (T.INT, Task.TAGGING, "holds int, and tagging reads strings"),
    ],
)
def test_the_wrong_type_is_named_with_what_it_suits(type, task, pattern):
    with pytest.raises(InvalidInput, match=pattern):
        read(type, [None], task)


@pytest.mark.parametrize(
    ("type", "values", "task", "pattern"),
    [
        (T.STRING, [None, None], None, "column 'label' has no label for any of 2 items"),
        (T.STRING, [], None, "no label for any of 0 items"),
        (T.STRING, ["", None], None, "no label for any of 2 items"),
        (T.STRINGS, [[]], Task.QUESTION_ANSWERING, "no label for any of 1 item "),
        (T.STRING, ["owl"] * 3, None, "all 3 labels are owl: there is nothing to tell apart"),
        (T.BOOL, [True] * 3, None, "all 3 labels are true"),
        (T.STRINGS, [[], []], None, "all 2 labels are empty"),
        (T.STRINGS, [["a"], ["a"]], None, "all 2 labels are a"),
        (T.STRINGS, [[], []], Task.TAGGING, "all 2 labels are empty"),
        (T.STRINGS, [[], []], Task.SEGMENTATION, "all 2 labels are background"),
        (T.FLOAT, [1.5, 1.5, None], None, "2 items have the same number, 1.5"),
        (T.FLOAT, [1.5, None], None, "1 item has a number, 1.5"),
    ],
)
def test_what_says_nothing_is_refused(type, values, task, pattern):
    with pytest.raises(InvalidInput, match=pattern):
        read(type, values, task)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf"), 1e151])
def test_numbers_that_are_not_finite_are_named(bad):
    with pytest.raises(InvalidInput, match="item 2: column 'label': the number is"):
        read(T.FLOAT, [1.0, None, bad])


def test_a_class_of_too_few_is_named_with_its_count_and_what_to_do():
    with pytest.raises(InvalidInput) as caught:
        read(T.STRING, ["a", "a", "b", "b", "it's", "c"])
    assert str(caught.value) == (
        "column 'label': the class 'c' has 1 example, and 2 are needed; the same goes for it's (1) (label more items of them, "
        "choose a kind of training that needs fewer, or leave them out: `where` \"label NOT IN ('c', 'it''s')\")"
    )
    with pytest.raises(InvalidInput, match=r"label more items of it, .* or leave it out: `where` \"label <> 'c'\""):
        read(T.STRING, ["a", "a", "b", "b", "c"])
    with pytest.raises(InvalidInput, match=r"\(label more items of it, or choose a kind of training that needs fewer\)"):
        read(T.STRING, ["a", "a", "c"])
    with pytest.raises(InvalidInput, match="label <> 7"):
        read(T.INT, [7, 8, 8, 9, 9])
    with pytest.raises(InvalidInput, match=r"NOT array_has\(label, 'it''s'\)"):
        read(T.STRINGS, [["it's"], ["b"], ["b"], []])
    with pytest.raises(InvalidInput, match=r"the class 'LOC' has 1 example, and 2 are needed .*take it out of the labels"):
        read(T.STRINGS, [["0:1:PER"], ["0:1:PER"], ["0:1:LOC", "3:4:LOC"]], Task.TAGGING)
    with pytest.raises(InvalidInput, match="the class 'b' has 3 examples, and 4 are needed"):
        read(T.STRING, ["a"] * 4 + ["b"] * 3, least=4)
    assert read(T.STRING, ["a", "b"], least=1).names == ("a", "b")


def test_a_background_is_spared_of_boxes_alone():
    rare = [["0,0,1,1:a"]] * 3
    assert read(ColumnType.STRINGS, rare, Task.SEGMENTATION, least=3).names == ("background", "a")
    with pytest.raises(InvalidInput, match="the class 'background' has 1 example, and 2 are needed"):
        read(ColumnType.STRING, ["background", "a", "a", "b", "b"])


def test_more_classes_than_a_mask_can_tell_are_refused():
    boxes = [[f"{i},0,{i + 1},1:c{i}" for i in range(255)]] * 2
    with pytest.raises(InvalidInput, match="has 256 classes, and a mask tells 255 apart"):
        read(ColumnType.STRINGS, boxes, Task.SEGMENTATION)
    assert len(read(ColumnType.STRINGS, [some[1:] for some in boxes], Task.SEGMENTATION).names) == 255


def test_a_message_stays_short_however_many_classes_and_however_long():
    with pytest.raises(InvalidInput, match=r"c1 .1., .* and 24 more .*or take them out of the labels") as caught:
        read(T.STRING, [f"c{i}" for i in range(30)] + ["a", "a", "b", "b"])
    assert "--where" not in str(caught.value)
    with pytest.raises(InvalidInput) as caught:
        read(T.STRING, ["x" * 5000, "y" * 5000], Task.CLASSIFICATION)
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize(
    ("value", "task", "pattern"),
    [
        (["0-5-PER"], Task.TAGGING, "'0-5-PER' is not a span .*'0:5:PER'"),
        (["0:5:"], Task.TAGGING, "'0:5:' is not a span"),
        (["5:5:PER"], Task.TAGGING, "'5:5:PER' is empty: it ends at 5"),
        (["-1:5:PER"], Task.TAGGING, "is not a span"),
        (["\u0663:\u0665:PER"], Task.TAGGING, "is not a span"),
        (["0:5:PER", "4:6:LOC"], Task.TAGGING, "spans overlap: 'PER' goes to character 5, and 'LOC' begins at 4"),
        (["0:5:PER", "0:5:LOC"], Task.TAGGING, "spans overlap"),
        ([None], Task.TAGGING, "None is not a span"),
        (["0:5:x"], Task.QUESTION_ANSWERING, "'0:5:x' is not an answer"),
        (["9:5"], Task.QUESTION_ANSWERING, "'9:5' is empty"),
        (["1,2,3:owl"], Task.SEGMENTATION, "'1,2,3:owl' is not a box"),
        (["4,0,4,5:owl"], Task.SEGMENTATION, "the box '4,0,4,5:owl' is empty"),
        (["1,2,3,4:"], Task.SEGMENTATION, "the box '1,2,3,4:' has no label"),
        (["1,2,3,4"], Task.DETECTION, "the box '1,2,3,4' has no label"),
        (["-1e300,2,3,4:owl"], Task.DETECTION, "is not a box .*a number such as"),
        (["nan,2,3,4:owl"], Task.SEGMENTATION, "is not a box"),
        (["1,2,3,4:owl"] * 1001, Task.SEGMENTATION, "1,001 boxes .*at most 1,000 .*PNG"),
        (["1,2,3,4:owl"] * 1001, Task.DETECTION, "1,001 boxes .*at most 1,000 .*into parts"),
        (["a", ""], Task.MULTI_LABEL, "one of its labels is empty"),
    ],
)
def test_what_is_badly_written_is_named_with_its_item(value, task, pattern):
    with pytest.raises(InvalidInput, match=f"item 1: column 'label': .*{pattern}") as caught:
        read(T.STRINGS, [[], value], task)
    assert caught.value.item == 1


def test_described_classes_need_no_labels_and_take_no_others():
    labels = read(T.STRING, [None, None], names=("owl", "emu"))
    assert labels.names == ("owl", "emu")
    assert not labels.labeled.any()
    assert read(T.STRING, ["emu", None, "emu"], names=("owl", "emu")).values == [1, None, 1]
    with pytest.raises(InvalidInput, match=r"item 1: column 'label': the class 'kiwi' is not described .*described are owl, emu"):
        read(T.STRING, ["emu", "kiwi"], names=("owl", "emu"))


def test_a_test_set_is_read_under_the_classes_that_were_trained_on():
    known = read(T.STRING, ["a", "b"], least=1)
    test = read_test_labels(Column("label", T.STRING, ["b", "c", None, "a"]), known, "label")
    assert test.values == [1, None, None, 0]
    assert test.warnings == ("1 test item is left out, whose classes no item to train on has: c",)
    tags = read(T.STRINGS, [["0:1:x"]], Task.TAGGING, 1)
    test = read_test_labels(Column("label", T.STRINGS, [["2:3:x"], ["0:1:y"], []]), tags, "label")
    assert test.names == tags.names
    assert test.values == [[(2, 3, 0)], None, []]
    numbers = read(T.FLOAT, [1.0, 2.0])
    assert read_test_labels(Column("label", T.FLOAT, [3.0, None]), numbers, "label").values == [3.0, None]


def test_a_column_that_is_not_there_is_told_with_its_neighbors():
    columns = {"label": T.STRING, "Year": T.INT, "author": T.STRING}
    check_target("label", columns, "birds")
    with pytest.raises(InvalidInput, match=r"the set birds has no metadata column 'lable' to learn .did you mean label"):
        check_target("lable", columns, "birds")
    with pytest.raises(InvalidInput, match="did you mean Year"):
        check_target("year", columns, "birds")
    with pytest.raises(InvalidInput, match="there are: label, Year, author"):
        check_target("zzz", columns, "birds")
    with pytest.raises(InvalidInput, match="there are none"):
        check_target("zzz", {}, "birds")

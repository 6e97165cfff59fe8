"""What heads say, decoded by task: items, spans and masks, also where some items are bad."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import sample_heads
from topwork_server.errors import InvalidInput
from topwork_server.features import Spans, TapRows
from topwork_server.heads.head_types import Pooling, Task
from topwork_server.heads.serving.head_decoding import decode_output
from topwork_server.heads.serving.head_output import PredictedSpan
from topwork_server.heads.span_decoding import bio_names
from topwork_server.types import FingerprintedTap, Granularity, Tap

DIM = 3


def tap(granularity, grid=None):
    return FingerprintedTap(Tap("tap", DIM, granularity, grid), "a" * 64)


def head(task, granularity=Granularity.ITEM, pooling=Pooling.ROW, names=("a", "b", "c"), grid=None):
    return sample_heads.head(task=task, tap=tap(granularity, grid), pooling=pooling, dim=DIM, names=names)


def saying(probabilities):
    """Make a graph that gives these, with any input."""

    def run(rows):
        assert len(rows) == len(probabilities)
        return np.zeros_like(probabilities), np.asarray(probabilities, np.float32)

    return run


def echo(rows):
    """The rows are the probabilities."""
    return rows, rows


def one_hot(classes, sure=0.8):
    made = np.full((len(classes), DIM), (1 - sure) / (DIM - 1), np.float32)
    made[np.arange(len(classes)), classes] = sure
    return made


def of_tokens(counts, parts=None, width=2):
    """Each row covers `width` characters of its item."""
    n = sum(counts)
    starts = np.concatenate([np.arange(count) * width for count in counts])
    spans = Spans("chars", np.stack([starts, starts + width], 1).astype(np.float32), np.array(parts or [0] * n, np.int32))
    rows = np.arange(n * DIM, dtype=np.float32).reshape(n, DIM)
    return TapRows(tap(Granularity.TOKEN), rows, np.array(counts, np.int64), spans)


def of_items(rows, counts=None):
    return TapRows(tap(Granularity.ITEM), rows, np.array(counts or [1] * len(rows), np.int64))


def test_picked_items_keep_their_rows_and_spans():
    rows = of_tokens([2, 0, 3, 1], parts=[0, 1, 0, 0, 1, 1])
    found = rows.take(np.array([3, 0, 1, 0]))
    assert found.counts.tolist() == [1, 2, 0, 2]
    np.testing.assert_array_equal(found.rows, rows.rows[[5, 0, 1, 0, 1]])
    assert found.spans.parts.tolist() == [1, 0, 1, 0, 1]
    assert found.spans.values[:, 0].tolist() == [0, 0, 2, 0, 2]
    assert len(rows.take(np.zeros(0, np.int64)).rows) == 0


@pytest.mark.parametrize("task", [Task.CLASSIFICATION, Task.MULTI_LABEL])
def test_probabilities_of_items(task):
    rows = one_hot([0, 2])
    found = decode_output(head(task), of_items(rows), echo)
    np.testing.assert_array_equal(found.probabilities, rows)
    assert (found.values, found.spans, found.masks) == (None, None, None)


def test_values_of_a_regression():
    found = decode_output(
        head(Task.REGRESSION, names=("value",)), of_items(np.zeros((2, DIM), np.float32)), saying([[1.5], [-2]])
    )
    assert found.values.tolist() == [1.5, -2]
    assert found.probabilities is None


def test_several_rows_are_pooled_as_in_training():
    rows = replace(of_items(one_hot([0, 0, 2, 2]), [2, 2]), tap=tap(Granularity.WINDOW))
    found = decode_output(head(Task.CLASSIFICATION, Granularity.WINDOW, Pooling.MEAN), rows, echo)
    np.testing.assert_allclose(found.probabilities, one_hot([0, 2]), rtol=1e-6)


def test_tags_are_characters_of_the_text():
    tagger = head(Task.TAGGING, Granularity.TOKEN, Pooling.ROWS, names=bio_names(("PER",)))
    rows = of_tokens([4, 2])
    sure = one_hot([1, 2, 0, 1, 0, 2])
    sure[1, 2] = 0.6
    found = decode_output(tagger, rows, saying(sure))
    assert found.spans == (
        (PredictedSpan(0, 4, "PER", pytest.approx(0.7)), PredictedSpan(6, 8, "PER", pytest.approx(0.8))),
        (PredictedSpan(2, 4, "PER", pytest.approx(0.8)),),
    )


def test_a_tagger_reads_the_text_and_not_its_pair():
    tagger = head(Task.TAGGING, Granularity.TOKEN, Pooling.ROWS, names=bio_names(("PER",)))
    found = decode_output(tagger, of_tokens([4], parts=[0, 0, 1, 1]), saying(one_hot([0, 1])))
    assert found.spans == ((PredictedSpan(2, 4, "PER", pytest.approx(0.8)),),)


def test_rows_that_cover_no_character_make_no_span():
    tagger = head(Task.TAGGING, Granularity.TOKEN, Pooling.ROWS, names=bio_names(("PER",)))
    assert decode_output(tagger, of_tokens([2], width=0), saying(one_hot([1, 2]))).spans == ((),)


def test_an_answer_lies_in_the_context():
    answerer = head(Task.QUESTION_ANSWERING, Granularity.TOKEN, Pooling.ROWS, names=())
    rows = of_tokens([5], parts=[0, 0, 1, 1, 1])
    found = decode_output(answerer, rows, saying([[9, 0], [0, 0], [0, 9]]))
    ((span,),) = found.spans
    assert (span.start, span.end, span.part) == (4, 10, 1)
    assert 0.9 < span.probability < 1


def test_masks_have_the_shape_of_the_grid():
    grid = (2, 3)
    segmenter = head(Task.SEGMENTATION, Granularity.CELL, Pooling.ROWS, grid=grid)
    classes = [0, 1, 2, 2, 1, 0, 1, 1, 1, 0, 0, 0]
    cells = np.array([[x, y, x + 10, y + 10] for y in (5, 15) for x in (0, 10, 20)], np.float32)
    boxes = Spans("box", np.concatenate([cells, cells + 100]))
    rows = TapRows(tap(Granularity.CELL, grid), one_hot(classes), np.array([6, 6]), boxes)
    found = decode_output(segmenter, rows, echo)
    assert found.masks.dtype == np.uint8
    np.testing.assert_array_equal(found.masks, np.reshape(classes, (2, 2, 3)))
    np.testing.assert_allclose(found.confidences, np.full((2, 2, 3), 0.8), rtol=1e-6)
    assert found.boxes.tolist() == [[0, 5, 30, 25], [100, 105, 130, 125]]


def test_masks_of_more_than_one_picture_an_item_are_refused():
    segmenter = head(Task.SEGMENTATION, Granularity.CELL, Pooling.ROWS, grid=(1, 2))
    rows = TapRows(tap(Granularity.CELL, (1, 2)), one_hot([0] * 6), np.array([2, 4]))
    with pytest.raises(InvalidInput, match="4 cells") as caught:
        decode_output(segmenter, rows, echo)
    assert caught.value.item == 1
    found = decode_output(segmenter, rows, echo, skip_bad_items=True)
    assert list(found.failures) == [1]
    assert found.masks[1].tolist() == [[255, 255]]
    assert np.isnan(found.boxes[1]).all()


BAD = [
    (head(Task.CLASSIFICATION), of_items(one_hot([0, 1]), [1, 0, 1])),
    (head(Task.CLASSIFICATION, Granularity.TOKEN, Pooling.MEAN), of_tokens([1, 0, 1])),
    (head(Task.QUESTION_ANSWERING, Granularity.TOKEN, Pooling.ROWS, names=()), of_tokens([2, 2, 2], parts=[0, 1, 0, 0, 0, 1])),
]


@pytest.mark.parametrize(("of", "rows"), BAD)
def test_an_item_that_lacks_what_is_read_is_named(of, rows):
    with pytest.raises(InvalidInput) as caught:
        decode_output(of, rows, echo)
    assert caught.value.item == 1
    assert caught.value.remedy


@pytest.mark.parametrize(("of", "rows"), BAD)
def test_bad_items_that_are_skipped_leave_the_others_as_they_are(of, rows):
    run = echo if of.names else lambda rows: (rows[:, :2], rows[:, :2])
    found = decode_output(of, rows, run, skip_bad_items=True)
    alone = decode_output(of, rows.take(np.array([0, 2])), run)
    assert list(found.failures) == [1]
    assert found.failures[1].item == 1
    if of.task is Task.QUESTION_ANSWERING:
        assert found.spans == (alone.spans[0], (), alone.spans[1])
    else:
        np.testing.assert_array_equal(found.probabilities[[0, 2]], alone.probabilities)
        assert np.isnan(found.probabilities[1]).all()


@pytest.mark.parametrize("task", list(Task))
def test_no_items_and_none_that_is_good(task):
    of = {
        Task.TAGGING: head(task, Granularity.TOKEN, Pooling.ROWS, bio_names(("PER",))),
        Task.QUESTION_ANSWERING: head(task, Granularity.TOKEN, Pooling.ROWS, ()),
        Task.SEGMENTATION: head(task, Granularity.CELL, Pooling.ROWS, grid=(2, 2)),
        Task.DETECTION: head(task, Granularity.CELL, Pooling.ROWS, grid=(2, 2)),
    }.get(task, head(task))
    spans = {Granularity.TOKEN: Spans("chars", np.zeros((0, 2)), np.zeros(0, np.int32)), Granularity.CELL: None}
    for items in (0, 2):
        rows = TapRows(of.tap, np.zeros((0, DIM), np.float32), np.zeros(items, np.int64), spans.get(of.tap.tap.granularity))
        found = decode_output(of, rows, echo, skip_bad_items=True)
        assert list(found.failures) == list(range(items))
        told = [found.probabilities, found.values, found.spans, found.masks, found.detections]
        assert [len(one) for one in told if one is not None] == [items]

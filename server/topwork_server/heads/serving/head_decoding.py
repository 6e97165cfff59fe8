"""Decoding of the probabilities of a head by its task: classes, numbers, spans, boxes and masks."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from topwork_server.errors import InvalidInput, TopworkError
from topwork_server.features import TapRows, sums_of
from topwork_server.heads import pooling
from topwork_server.heads.cell_scale import CellScale
from topwork_server.heads.head_types import Head, Task
from topwork_server.heads.serving.head_output import DetectedBox, HeadOutput, PredictedSpan, spread_output
from topwork_server.heads.span_decoding import answer, entities, entity_labels
from topwork_server.plugin_api.average_precision import UNKNOWN
from topwork_server.plugin_api.boxes import MAX_OVERLAP, MOST_BOXES, BoxFilter, decode_boxes
from topwork_server.types import Array

#: Maps rows (n, head.dim) to scores and probabilities (n, outputs).
RunHead = Callable[[Array], tuple[Array, Array]]
#: Maps rows (n, head.dim) to their typicality (n,).
RunTypicality = Callable[[Array], Array]
#: Tasks that read all cells of one picture.
WHOLE_PICTURES = (Task.SEGMENTATION, Task.DETECTION)


@dataclass(frozen=True, slots=True)
class BoxQuery:
    """The boxes that are asked for; None where the head's own least score, or the usual ones, will do. See `BoxFilter`."""

    min_score: float | None = None
    max_overlap: float | None = None
    max_boxes: int = 0

    def filter(self, head: Head) -> BoxFilter:
        least = head.chosen.get("min_score", UNKNOWN) if self.min_score is None else self.min_score
        overlap = MAX_OVERLAP if self.max_overlap is None else self.max_overlap
        return BoxFilter(float(least), overlap, self.max_boxes or MOST_BOXES)


#: Of a request that asks for none in particular.
USUAL_BOXES = BoxQuery()


@dataclass(frozen=True)
class Scored:
    """The output of a head's graph for the rows that it reads, of which each item has `counts` (items,).

    scores and probabilities (rows, outputs); typicality (rows,) where it was asked for; finite (items,) bool: whether all
    numbers of an item are.
    """

    counts: Array
    scores: Array
    probabilities: Array
    typicality: Array | None
    finite: Array

    @classmethod
    def of(cls, rows: Array, counts: Array, run: RunHead, typicality: RunTypicality | None) -> Scored:
        scores, probabilities = run(rows)
        overflow = ~np.logical_and.reduce([np.isfinite(one).all(axis=1) for one in (rows, scores, probabilities)])
        return cls(counts, scores, probabilities, typicality(rows) if typicality else None, sums_of(overflow, counts) == 0)

    def finite_items(self) -> Scored:
        """Leave out the items whose numbers are not finite."""
        kept = np.repeat(self.finite, self.counts)
        typicality = None if self.typicality is None else self.typicality[kept]
        finite = self.finite[self.finite]
        return Scored(self.counts[self.finite], self.scores[kept], self.probabilities[kept], typicality, finite)


def decode_output(
    head: Head,
    rows: TapRows,
    run: RunHead,
    skip_bad_items: bool = False,
    typicality: RunTypicality | None = None,
    boxes: BoxQuery = USUAL_BOXES,
) -> HeadOutput:
    """Run a head on the rows of its tap and decode. InvalidInput for an item that lacks rows, or whose scores overflow, unless
    it is skipped."""
    usable = _usable(head, rows)
    failures = {item: _lacking(head, rows, item) for item in np.flatnonzero(~usable).tolist()}
    if failures and not skip_bad_items:
        raise failures[min(failures)]
    read, counts = pooling.pool_rows(head.task, head.pooling, pooling.chosen_items(rows, usable))
    scored = Scored.of(read, counts, run, typicality)
    good, scored = _finite_items(head, scored, np.flatnonzero(usable), failures, skip_bad_items)
    if not failures:
        return _decoded(head, rows, scored, boxes)
    return replace(spread_output(_decoded(head, rows.take(good), scored, boxes), good, len(usable)), failures=failures)


def output_of_pooled(
    head: Head, rows: Array, run: RunHead, skip_bad_items: bool = False, typicality: RunTypicality | None = None
) -> HeadOutput:
    """Run a head on (n, head.dim) rows, one per item, for tasks that read one row per item. InvalidInput for one whose scores
    overflow, unless it is skipped."""
    failures: dict[int, TopworkError] = {}
    scored = Scored.of(rows, np.ones(len(rows), np.int64), run, typicality)
    good, scored = _finite_items(head, scored, np.arange(len(rows)), failures, skip_bad_items)
    found = _of_items(head, scored)
    return replace(spread_output(found, good, len(rows)), failures=failures) if failures else found


def _finite_items(
    head: Head, scored: Scored, items: Array, failures: dict[int, TopworkError], skip: bool
) -> tuple[Array, Scored]:
    """Return those of the `items` with finite scores; the others become failures, or the first is raised."""
    if scored.finite.all():
        return items, scored
    for item in items[~scored.finite].tolist():
        failures[item] = InvalidInput(
            f"the head {head.name!r} gives it scores that are not finite: its numbers are too large for float32",
            remedy="send numbers of the size that the head learned from",
            item=item,
        )
        if not skip:
            raise failures[item]
    return items[scored.finite], scored.finite_items()


def _of_items(head: Head, scored: Scored) -> HeadOutput:
    """Output of a task that reads one row per item."""
    if head.task is Task.REGRESSION:
        return HeadOutput(head, values=scored.probabilities[:, 0], typicality=scored.typicality)
    return HeadOutput(head, probabilities=scored.probabilities, scores=scored.scores, typicality=scored.typicality)


def _usable(head: Head, rows: TapRows) -> Array:
    usable = pooling.usable_items(head.task, head.pooling, rows)
    return usable & (rows.counts == _cells(head)) if head.task in WHOLE_PICTURES else usable


def _lacking(head: Head, rows: TapRows, item: int) -> TopworkError:
    try:
        pooling.pool_rows(head.task, head.pooling, rows.take(np.array([item])))
    except InvalidInput as error:
        return error.at(item)
    what = f"it has {rows.counts[item]} cells, and {head.name!r} reads {_cells(head)}"
    return InvalidInput(what, remedy="send one picture an item", item=item)


def _decoded(head: Head, rows: TapRows, scored: Scored, boxes: BoxQuery) -> HeadOutput:
    match head.task:
        case Task.TAGGING:
            return HeadOutput(head, spans=_tagged(head, rows, scored))
        case Task.QUESTION_ANSWERING:
            return HeadOutput(head, spans=_answered(head, rows, scored))
        case Task.SEGMENTATION:
            return _segmented(head, rows, scored.probabilities)
        case Task.DETECTION:
            return HeadOutput(head, detections=_detected(head, rows, scored.probabilities, boxes.filter(head)))
    return _of_items(head, scored)


def _tagged(head: Head, rows: TapRows, scored: Scored) -> tuple[tuple[PredictedSpan, ...], ...]:
    labels, chars = entity_labels(head.names), _chars(head, rows)
    classes, sure = scored.probabilities.argmax(axis=1), scored.probabilities.max(axis=1)

    def one(of: slice) -> tuple[PredictedSpan, ...]:
        found = entities(classes[of], head.names)
        made = (_span(chars[of][a:b], labels[label], float(sure[of][a:b].mean()), 0) for a, b, label in found)
        return tuple(span for span in made if span.start < span.end)

    return tuple(map(one, _slices(scored.counts)))


def _answered(head: Head, rows: TapRows, scored: Scored) -> tuple[tuple[PredictedSpan, ...], ...]:
    chars = _chars(head, rows)

    def one(of: slice) -> tuple[PredictedSpan, ...]:
        a, b, probability = answer(scored.probabilities[of])
        return (_span(chars[of][a:b], "", probability, 1),) if a < b else ()

    return tuple(map(one, _slices(scored.counts)))


def _span(chars: Array, label: str, probability: float, part: int) -> PredictedSpan:
    return PredictedSpan(int(chars[:, 0].min()), int(chars[:, 1].max()), label, probability, part)


def _chars(head: Head, rows: TapRows) -> Array:
    """The characters (n, 2) of the rows that the head reads."""
    assert rows.spans is not None, "TOKEN rows have spans"
    return np.asarray(rows.spans.values[pooling.rows_read(head.task, rows)])


def _slices(counts: Array) -> list[slice]:
    ends = np.cumsum(counts).tolist()
    return [slice(start, end) for start, end in zip([0, *ends], ends, strict=False)]


def _cells(head: Head) -> int:
    assert head.tap.tap.grid is not None, "a CELL tap has a grid"
    return math.prod(head.tap.tap.grid)


def _segmented(head: Head, rows: TapRows, probabilities: Array) -> HeadOutput:
    shape = (len(rows.counts), *(head.tap.tap.grid or ()))
    return HeadOutput(
        head,
        masks=probabilities.argmax(axis=1).astype(np.uint8).reshape(shape),
        confidences=probabilities.max(axis=1).reshape(shape),
        boxes=_covered(rows, _cells(head)),
    )


def _detected(head: Head, rows: TapRows, probabilities: Array, keep: BoxFilter) -> tuple[tuple[DetectedBox, ...], ...]:
    if not len(probabilities) or rows.spans is None:
        return ((),) * len(rows.counts)
    grid, cells = head.tap.tap.grid or (1, 1), _cells(head)

    def one(of: slice) -> tuple[DetectedBox, ...]:
        assert rows.spans is not None, "looked at above"
        found = decode_boxes(probabilities[of], grid, keep)
        pixels = CellScale.of(rows.spans.values[of]).to_pixels(found.boxes)
        every = zip(pixels.tolist(), found.labels.tolist(), found.scores.tolist(), strict=True)
        return tuple(DetectedBox(tuple(box), head.names[label], score) for box, label, score in every)

    return tuple(one(slice(start, start + cells)) for start in range(0, len(probabilities), cells))


def _covered(rows: TapRows, cells: int) -> Array:
    """The smallest box around the cells of each item, (items, 4)."""
    if rows.spans is None:
        return np.full((len(rows.counts), 4), np.nan, np.float32)
    boxes = rows.spans.values.reshape(-1, cells, 4)
    return np.concatenate([boxes[..., :2].min(axis=1), boxes[..., 2:].max(axis=1)], axis=1).astype(np.float32)

"""Labels become the values that trainers learn: an entry an item, or an entry a row."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from topwork._display.number_text import counted

from topwork_server.errors import InvalidInput
from topwork_server.heads.head_types import Task
from topwork_server.heads.span_decoding import bio
from topwork_server.heads.training.box_labels import place_boxes
from topwork_server.heads.training.labels import LabelColumn
from topwork_server.heads.training.span_labels import rows_of_tags, values_of_answers
from topwork_server.plugin_api.trainer import Target
from topwork_server.types import Array


@dataclass(frozen=True)
class TargetValues:
    """The values (rows, ...) as Examples has them; `keep` (rows,) bool marks the rows that can be trained on."""

    values: Array
    keep: Array
    warnings: tuple[str, ...] = ()


def item_values(labels: LabelColumn) -> Array:
    """Make the values of tasks with one for each item; all items are labeled."""
    match labels.task.target:
        case Target.NUMBERS:
            return np.array(labels.values, np.float64).reshape(-1, 1)
        case Target.LABELS:
            values = np.zeros((len(labels.values), len(labels.names)), np.float32)
            for row, mine in enumerate(labels.values):
                values[row, list(mine)] = 1
            return values
    return np.array(labels.values, np.int64)


def row_values(labels: LabelColumn, ids: Sequence[str], counts: Array, spans: Array | None) -> TargetValues:
    """Make the values of tasks with one for each row. `spans` (rows, 2 or 4): what each row covers.

    InvalidInput where the set does not know the spans.
    """
    if spans is None:
        raise InvalidInput(
            f"the rows of the set do not say what they cover, which {labels.task} needs", remedy="write them with their spans"
        )
    ends = np.cumsum(counts)
    parts = [spans[end - count : end] for end, count in zip(ends, counts, strict=True)]
    return ROWS[labels.task](labels, ids, parts)


def _tags(labels: LabelColumn, ids: Sequence[str], parts: Sequence[Array]) -> TargetValues:
    values, lost, beyond = [], 0, []
    for id, mine, chars in zip(ids, labels.values, parts, strict=True):
        rows, without = rows_of_tags(mine, chars)
        values.append(bio(rows, len(chars)))
        lost += without
        beyond += [f"{start}:{end} of {id!r}" for start, end, _ in mine if start < chars[:, 1].max(initial=0) < end]
    found = _joined(values, np.int64)
    warnings = []
    if lost:
        which = counted(lost, "span of the labels covers", "spans of the labels cover")
        warnings.append(f"{which} no token of their own (such as of a cut text): not trained on")
    if beyond:
        which = counted(len(beyond), "span of the labels goes", "spans of the labels go")
        warnings.append(f"{which} on after the last token of the text, such as {beyond[0]}")
    return TargetValues(found, np.ones(len(found), bool), tuple(warnings))


def _answers(labels: LabelColumn, ids: Sequence[str], parts: Sequence[Array]) -> TargetValues:
    values = [values_of_answers(mine, chars) for mine, chars in zip(labels.values, parts, strict=True)]
    answered = [bool(one.any()) for one in values]
    lost = answered.count(False)
    keep = np.repeat(answered, [len(one) for one in values]) if values else np.zeros(0, bool)
    which = counted(lost, "item is left out", "items are left out")
    warning = f"{which}: no token of the context covers the answer (such as of a text that was cut)"
    return TargetValues(_joined(values, np.float32, 2), keep, (warning,) if lost else ())


def _cells(labels: LabelColumn, ids: Sequence[str], parts: Sequence[Array]) -> TargetValues:
    values = []
    for id, painted, boxes in zip(ids, labels.values, parts, strict=True):
        try:
            values.append(painted.cells(boxes))
        except InvalidInput as error:
            raise InvalidInput(f"item {id!r}: {error.message}", remedy=error.remedy) from None
    found = _joined(values, np.int64)
    without = [name for number, name in enumerate(labels.names) if not (found == number).any()]
    warning = f"no cell is mostly of {', '.join(without)}: {'it is' if len(without) == 1 else 'they are'} not trained on"
    return TargetValues(found, found >= 0, (warning,) if without and len(found) else ())


def _boxes(labels: LabelColumn, ids: Sequence[str], parts: Sequence[Array]) -> TargetValues:
    placed = [place_boxes(id, truth, cells) for id, truth, cells in zip(ids, labels.values, parts, strict=True)]
    found = _joined([one.values for one in placed], np.float32, 5)
    warnings, clipped, hidden = [], sum(one.clipped for one in placed), sum(one.hidden for one in placed)
    if clipped:
        which = next(id for id, one in zip(ids, placed, strict=True) if one.clipped)
        boxes = counted(clipped, "box reaches out of its picture", "boxes reach out of their pictures")
        warnings.append(f"{boxes}, such as one of {which!r}: it is cut at the edge")
    if hidden:
        boxes = counted(hidden, "box lies", "boxes lie")
        warnings.append(f"{boxes} where the preprocessing cuts pictures off: no head can find what is there")
    return TargetValues(found, np.ones(len(found), bool), tuple(warnings))


ROWS: dict[Task, Callable[[LabelColumn, Sequence[str], Sequence[Array]], TargetValues]] = {
    Task.TAGGING: _tags,
    Task.QUESTION_ANSWERING: _answers,
    Task.SEGMENTATION: _cells,
    Task.DETECTION: _boxes,
}


def _joined(values: Sequence[Array], dtype: Any, *shape: int) -> Array:
    return np.concatenate([np.zeros((0, *shape), dtype), *values])

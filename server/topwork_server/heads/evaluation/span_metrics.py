"""Finds true and predicted spans: entities of a tagger, answers of question answering."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from topwork_server.heads import span_decoding
from topwork_server.heads.evaluation.evaluation_data import EvaluationData
from topwork_server.types import Array


@dataclass(frozen=True)
class EntitySpans:
    """Start, end (half-open, among all rows) and label of each entity, (k,) int64 each, in the order of rows."""

    start: Array
    end: Array
    label: Array

    def key(self, rows: int) -> Array:
        """Number the entities; equal entities have equal numbers."""
        return (self.label * (rows + 1) + self.start) * (rows + 1) + self.end


def entity_spans(data: EvaluationData, classes: Array) -> EntitySpans:
    """Decode the entities of all items at once: a row of no class between items ends an entity that is still open."""
    lengths = np.diff(data.starts)
    outside = len(data.names)
    apart = np.insert(classes, data.starts[1:-1], outside)
    found = span_decoding.entities(apart, (*data.names, span_decoding.OUTSIDE))
    start, end, label = np.array(found, np.int64).reshape(-1, 3).T
    item = np.searchsorted(data.starts[1:] + np.arange(len(lengths)), start, side="right")
    return EntitySpans(start - item, end - item, label)


@dataclass(frozen=True, slots=True)
class AnswerSpans:
    """Right answers (start, end) of one item, half-open in its rows, the predicted one and its probability."""

    right: tuple[tuple[int, int], ...]
    predicted: tuple[int, int]
    probability: float

    @property
    def exact(self) -> bool:
        return self.predicted in self.right

    @property
    def f1(self) -> float:
        """F1 over rows, against the best of the right answers (Rajpurkar et al. 2016, section 6.1, with rows for words)."""
        start, end = self.predicted
        shared = [max(0, min(end, to) - max(start, at)) for at, to in self.right]
        return max(
            (2 * rows / (end - start + to - at) for rows, (at, to) in zip(shared, self.right, strict=True) if rows), default=0.0
        )


def answer_spans(data: EvaluationData) -> list[AnswerSpans]:
    """Decode the answer of each item."""
    found = []
    for start, end in zip(data.starts[:-1], data.starts[1:], strict=True):
        first, last, probability = span_decoding.answer(data.scores[start:end])
        found.append(AnswerSpans(right_answers(data.values[start:end]), (first, last), probability))
    return found


def right_answers(marks: Array) -> tuple[tuple[int, int], ...]:
    """Turn (rows, 2) marks into spans: each start with the next end, each end with the last start before it."""
    starts, ends = np.flatnonzero(marks[:, 0] > 0), np.flatnonzero(marks[:, 1] > 0)
    forth = {(int(start), int(ends[ends >= start][0]) + 1) for start in starts if (ends >= start).any()}
    back = {(int(starts[starts <= end][-1]), int(end) + 1) for end in ends if (starts <= end).any()}
    return tuple(sorted(forth | back))

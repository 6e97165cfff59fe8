"""Spans of judged rows: entities of a tagger, answers of a reader; what is right and what was said."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from topwork_server.heads.evaluation.evaluation_data import EvaluationData
from topwork_server.heads.serving import span_decoding
from topwork_server.types import Array


@dataclass(frozen=True)
class EntitySpans:
    """(k,) int64 each, in the order of rows: start and end (half-open) of an entity among all judged rows, its label."""

    start: Array
    end: Array
    label: Array

    def key(self, rows: int) -> Array:
        """Equal where entities are."""
        return (self.label * (rows + 1) + self.start) * (rows + 1) + self.end


def entity_spans(judged: EvaluationData, classes: Array) -> EntitySpans:
    """Of all items, decoded in one go: a row of no class between items ends what an item leaves open."""
    lengths = np.diff(judged.starts)
    outside = len(judged.names)
    apart = np.insert(classes, judged.starts[1:-1], outside)
    found = span_decoding.entities(apart, (*judged.names, span_decoding.OUTSIDE))
    start, end, label = np.array(found, np.int64).reshape(-1, 3).T
    item = np.searchsorted(judged.starts[1:] + np.arange(len(lengths)), start, side="right")
    return EntitySpans(start - item, end - item, label)


@dataclass(frozen=True, slots=True)
class AnswerSpans:
    """Of one item: the right answers (start, end), half-open, in rows of the item; what was said, and how sure."""

    right: tuple[tuple[int, int], ...]
    predicted: tuple[int, int]
    probability: float

    @property
    def exact(self) -> bool:
        return self.predicted in self.right

    @property
    def f1(self) -> float:
        """Over rows, against the best of the right answers (Rajpurkar et al. 2016, section 6.1, with rows for words)."""
        start, end = self.predicted
        shared = [max(0, min(end, to) - max(start, at)) for at, to in self.right]
        return max(
            (2 * rows / (end - start + to - at) for rows, (at, to) in zip(shared, self.right, strict=True) if rows), default=0.0
        )


def answer_spans(judged: EvaluationData) -> list[AnswerSpans]:
    """One an item."""
    found = []
    for start, end in zip(judged.starts[:-1], judged.starts[1:], strict=True):
        first, last, probability = span_decoding.answer(judged.scores[start:end])
        found.append(AnswerSpans(right_answers(judged.values[start:end]), (first, last), probability))
    return found


def right_answers(marks: Array) -> tuple[tuple[int, int], ...]:
    """(rows, 2) marks to spans: each start with the first end from there on, each end with the last start up to there."""
    starts, ends = np.flatnonzero(marks[:, 0] > 0), np.flatnonzero(marks[:, 1] > 0)
    forth = {(int(start), int(ends[ends >= start][0]) + 1) for start in starts if (ends >= start).any()}
    back = {(int(starts[starts <= end][-1]), int(end) + 1) for end in ends if (starts <= end).any()}
    return tuple(sorted(forth | back))

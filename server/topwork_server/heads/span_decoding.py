"""Decoding of row scores into spans of rows: entities from BIO classes, an answer from its starts and ends.

Evaluation and serving share it. Spans of rows are half-open.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from topwork_server.types import Array

OUTSIDE = "O"
BEGIN, INSIDE = "B-", "I-"
#: Rows that an answer may have, as in SQuAD's published readers (Devlin et al. 2019, run_squad.py: max_answer_length).
LONGEST_ANSWER = 30


def bio_names(labels: Sequence[str]) -> tuple[str, ...]:
    """List the classes of rows: "O", then "B-x" and "I-x" of each label, in order."""
    return (OUTSIDE, *(mark + label for label in labels for mark in (BEGIN, INSIDE)))


def entity_labels(names: Sequence[str]) -> tuple[str, ...]:
    """List the labels of BIO names in the order of their first occurrence, which label indexes count in."""
    return tuple(dict.fromkeys(name[2:] for name in names if name.startswith((BEGIN, INSIDE))))


def bio(spans: Iterable[tuple[int, int, int]], rows: int) -> Array:
    """Encode spans (start, end, label index) as (rows,) int64 classes, in the order of `bio_names`; later spans win."""
    classes = np.zeros(rows, np.int64)
    for start, end, label in spans:
        classes[start:end] = 2 + 2 * label
        classes[start : min(start + 1, end)] = 1 + 2 * label
    return classes


def entities(classes: Array, names: Sequence[str]) -> list[tuple[int, int, int]]:
    """Decode the (rows,) classes of one item into spans (start, end, index into `entity_labels(names)`), in order.

    An I- that continues nothing of its label begins a span, as conlleval counts it (Tjong Kim Sang and Buchholz 2000).
    """
    label, begins = _kinds(names)
    labels, marked = label[classes], begins[classes]
    before = np.concatenate([[-1], labels[:-1]])
    after = np.concatenate([labels[1:], [-1]])
    marked_after = np.concatenate([marked[1:], [True]])
    starts = np.flatnonzero((labels >= 0) & (marked | (labels != before)))
    ends = np.flatnonzero((labels >= 0) & (marked_after | (labels != after))) + 1
    return [(int(a), int(b), int(labels[a])) for a, b in zip(starts, ends, strict=True)]


def _kinds(names: Sequence[str]) -> tuple[Array, Array]:
    """Give for each class the index of its label (-1 where it is no entity), and whether it begins one."""
    places = {label: place for place, label in enumerate(entity_labels(names))}
    entity = [name.startswith((BEGIN, INSIDE)) for name in names]
    label = [places[name[2:]] if known else -1 for name, known in zip(names, entity, strict=True)]
    return np.array(label, np.int64), np.array([name.startswith(BEGIN) for name in names], bool)


def answer(scores: Array, longest: int = LONGEST_ANSWER) -> tuple[int, int, float]:
    """Find the span (start, end) of at most `longest` rows whose start and end are likeliest together, and that probability.

    `scores` (rows, 2) are logits of one item's rows: where an answer starts, and which row is its last. The probability is the
    product of both softmaxes over the rows. (0, 0, 0.0) where there are no rows or no finite scores.
    """
    start, end = softmax(np.asarray(scores, np.float64).T)
    rows = len(start)
    if not rows or not (start.any() and end.any()):
        return 0, 0, 0.0
    # (rows, width): for each start, the ends that its answers may have.
    width = min(longest, rows)
    ends = np.lib.stride_tricks.sliding_window_view(np.concatenate([end, np.full(width - 1, -1.0)]), width)
    together = start[:, None] * ends
    best, length = np.unravel_index(int(np.argmax(together)), together.shape)
    return int(best), int(best + length) + 1, float(together[best, length])


def softmax(scores: Array) -> Array:
    """Compute the softmax over the last axis. Scores that are not finite get 0; all get 0 where none is finite."""
    finite = np.where(np.isfinite(scores), scores, -np.inf)
    highest = finite.max(axis=-1, keepdims=True, initial=-np.inf)
    powers = np.exp(finite - np.where(np.isfinite(highest), highest, 0))
    total = powers.sum(axis=-1, keepdims=True)
    return np.asarray(powers / np.where(total > 0, total, 1))

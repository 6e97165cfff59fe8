"""Counts of the classes that heads have lately predicted, in memory: a few numbers a head, gone with the server."""

from __future__ import annotations

import threading
from dataclasses import dataclass

import numpy as np

from topwork_server.heads.head_types import Head, Task
from topwork_server.heads.serving.head_output import HeadOutput
from topwork_server.types import Array

#: Predictions of a window. The last full one counts until the next is full: the latest 5,000 to 10,000.
WINDOW = 5000
#: Heads whose predictions are counted; of more, those that were used last.
MOST_HEADS = 256


@dataclass
class _Windows:
    """Counts by class: of the window that fills, and of the full one before."""

    created: float  # of the head: another training has other classes
    filling: Array
    full: Array


class PredictionCounts:
    """Counts predictions of heads that were trained here for one class an item. It is thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._by_head: dict[str, _Windows] = {}

    def add(self, output: HeadOutput) -> None:
        """Count the likeliest class of each item that did not fail, whether or not it was answered."""
        head, found = output.head, output.probabilities
        if found is None or head.task is not Task.CLASSIFICATION or head.pretrained:
            return
        likeliest = found.argmax(axis=1)  # of NaN, the first: items that failed have nothing else
        there = ~np.isnan(found[np.arange(len(found)), likeliest])
        counts = np.bincount(likeliest[there], minlength=len(head.names))
        with self._lock:
            self._add(head, counts)

    def recent(self, head: Head) -> Array | None:
        """Return how often each class was predicted lately, (names,) int64; None where nothing was."""
        with self._lock:
            known = self._by_head.get(head.name)
            if known is None or known.created != head.created:
                return None
            counts: Array = known.filling + known.full
            return counts if counts.any() else None

    def _add(self, head: Head, counts: Array) -> None:
        known = self._by_head.pop(head.name, None)
        if known is None or known.created != head.created:
            known = _Windows(head.created, np.zeros(len(head.names), np.int64), np.zeros(len(head.names), np.int64))
        known.filling = known.filling + counts
        if known.filling.sum() >= WINDOW:
            known.full, known.filling = known.filling, np.zeros_like(known.filling)
        self._by_head[head.name] = known  # at the end: the first is the one that was used longest ago
        if len(self._by_head) > MOST_HEADS:
            del self._by_head[next(iter(self._by_head))]

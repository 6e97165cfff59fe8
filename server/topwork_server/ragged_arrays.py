"""Arrays of items that have several rows each, which stand one after another."""

from __future__ import annotations

import numpy as np

from topwork_server.types import Array


def starts_of(counts: Array) -> Array:
    """Where each item's rows begin."""
    return np.asarray(np.cumsum(counts) - counts)


def sums_of(values: Array, counts: Array) -> Array:
    """The sum of each item's rows, 0 of none; `values` (rows,) of integers or bool."""
    before = np.concatenate([[0], np.cumsum(values)])
    ends = np.cumsum(counts)
    return np.asarray(before[ends] - before[ends - counts])


def aranges(starts: Array, counts: Array) -> Array:
    """start .. start + count - 1 of each, one after another."""
    return np.asarray(np.repeat(starts - starts_of(counts), counts) + np.arange(int(counts.sum())))

"""Sorted keys: where they are, and whether they are there."""

from __future__ import annotations

import numpy as np

from topwork_server.types import Array


def contained(keys: Array, among: Array) -> Array:
    """(n,) bool: which of `keys` (any order) are in the sorted `among`."""
    if not len(among):
        return np.zeros(len(keys), bool)
    at = np.minimum(np.searchsorted(among, keys), len(among) - 1)
    return np.asarray(among[at] == keys)


def positions_of(keys: Array, wanted: Array) -> Array:
    """(m,) int64: all positions in the sorted `keys` (which may repeat) that hold one of `wanted`, in its order."""
    first, end = np.searchsorted(keys, wanted, "left"), np.searchsorted(keys, wanted, "right")
    return spread(first, end - first)


def spread(first: Array, lengths: Array) -> Array:
    """first[0], first[0] + 1, ... for as many as lengths[0] says, then first[1] and so on."""
    offsets = np.cumsum(lengths) - lengths
    counted: Array = np.arange(int(lengths.sum()), dtype=np.int64) + np.repeat(first - offsets, lengths)
    return counted

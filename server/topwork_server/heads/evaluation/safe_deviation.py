"""Arithmetic of targets of any scale, from 1e-150 to 1e150."""

from __future__ import annotations

import numpy as np

from topwork_server.types import Array


def deviation(numbers: Array) -> float:
    """The standard deviation in float64; squares of very large or very small numbers neither overflow nor vanish."""
    off = np.asarray(numbers, np.float64) - np.mean(numbers, dtype=np.float64)
    largest = float(np.abs(off).max(initial=0.0))
    return largest * float(np.sqrt(np.mean((off / largest) ** 2))) if largest else 0.0

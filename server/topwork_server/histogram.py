"""A histogram as Prometheus has them, cheap enough to observe each request."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence


class BucketHistogram:
    """Counts observations by upper bounds (inclusive), the last of which is infinite, and sums them. One thread at a time."""

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.sum = 0.0

    def observe(self, value: float) -> None:
        self.counts[bisect_left(self.bounds, value)] += 1
        self.sum += value


#: Seconds: 15 microseconds to 22 minutes, each bound one and a half times the one before.
SECONDS = tuple(1e-5 * 1.5**k for k in range(1, 47))
#: Counts of items or tokens, by powers of two.
COUNTS = tuple(float(1 << k) for k in range(21))

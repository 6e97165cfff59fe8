"""Counts the requests to an encoder or a head since the server began: how many, how long in each step, and why they failed."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Protocol

from topwork_server.histogram import COUNTS, SECONDS, BucketHistogram
from topwork_server.types import Timings


class Measured(Protocol):
    """The result of a request: what it cost, and where its time went."""

    @property
    def cost(self) -> int: ...

    @property
    def timings(self) -> Timings: ...


def _seconds() -> BucketHistogram:
    return BucketHistogram(SECONDS)


@dataclass(eq=False, slots=True)
class EmbedStatistics:
    """Statistics of an encoder or a head. `failures` counts by the name of the gRPC status; `cost` is in the encoder's unit, of
    texts tokens; `last_success` is in seconds of time.time()."""

    succeeded: int = 0
    failures: Counter[str] = field(default_factory=Counter)
    items: int = 0
    cost: int = 0
    pending: int = 0
    last_success: float = 0.0
    total: BucketHistogram = field(default_factory=_seconds)
    preprocess: BucketHistogram = field(default_factory=_seconds)
    queue: BucketHistogram = field(default_factory=_seconds)
    compute: BucketHistogram = field(default_factory=_seconds)
    costs: BucketHistogram = field(default_factory=lambda: BucketHistogram(COUNTS))

    @contextmanager
    def request(self) -> Iterator[None]:
        """Count a request as pending, and in the end its failure, if it has one."""
        self.pending += 1
        try:
            yield
        except asyncio.CancelledError:
            self.failures["CANCELLED"] += 1
            raise
        except Exception as error:
            self.failures[getattr(getattr(error, "code", None), "name", "INTERNAL")] += 1
            raise
        finally:
            self.pending -= 1

    def add(self, result: Measured, items: int, seconds: float) -> None:
        """Count a request that was answered after so many seconds."""
        self.succeeded += 1
        self.items += items
        self.cost += result.cost
        self.last_success = time.time()
        self.total.observe(seconds)
        self.preprocess.observe(result.timings.preprocess)
        self.queue.observe(result.timings.queue)
        self.compute.observe(result.timings.compute)
        self.costs.observe(result.cost)

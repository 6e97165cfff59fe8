"""Recall of live searches: one in so many is kept, repeated exactly when the server is idle, and compared.

What callers ask may be unlike the rows of the set, on which an index is measured when it is built. Cost: an offer is a counter
and, once in EVERY searches, a reference to the query and its hits; a repetition is one exact search of one query, and takes at
most a SHARE of the time of one thread, when no search waits and no encoder computes.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Protocol

import numpy as np

from topwork_server.errors import TopworkError
from topwork_server.indexes.effort_calibration import RECALL_AT
from topwork_server.indexes.index_types import BuildFacts, LiveRecallFigure, SearchHits, SearchQuery
from topwork_server.indexes.live_index import LiveIndex
from topwork_server.types import Array

#: One search in so many is sampled, the first among them; so many wait at the most, and so many of the latest of each filter
#: share count.
EVERY, WAITING, LATEST = 100, 16, 1000
#: Shares of the rows that a filter leaves, by their upper bounds; no filter is a class of its own, and comes last.
SHARES = (0.01, 0.1, 1.0)
#: Of one thread's time; and seconds between two looks at whether the server is idle.
SHARE, PAUSE = 0.05, 0.5
#: What float32 leaves uncertain of a score.
ROUNDING = 1e-5

log = logging.getLogger(__name__)


class IdleExecutor(Protocol):
    """The part of a SearchExecutor that is used here."""

    @property
    def idle(self) -> bool: ...

    async def search(self, live: LiveIndex, query: SearchQuery) -> SearchHits: ...


@dataclass(slots=True)
class _Record:
    """The latest recalls of one build of an index, by class of filter share."""

    facts: BuildFacts
    searches: int = 0
    recalls: dict[int, deque[float]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, eq=False)
class _Sample:
    live: LiveIndex
    facts: BuildFacts
    query: SearchQuery
    version: int
    scores: Array
    share: int


class LiveRecallSampler:
    """Samples and repeats searches, on the event loop. `every` 0 turns it off."""

    def __init__(self, executor: IdleExecutor, every: int = EVERY, clock: Callable[[], float] = time.monotonic) -> None:
        self._executor, self._every, self._clock = executor, every, clock
        self._records: dict[tuple[str, str], _Record] = {}
        self._waiting: deque[_Sample] = deque(maxlen=WAITING)
        self._task: asyncio.Task[None] | None = None

    def offer(self, live: LiveIndex, query: SearchQuery, hits: SearchHits) -> None:
        """Offer a search; one in `every` that the index answered at its measured effort is kept."""
        facts = live.facts
        if not self._every or facts is None or hits.how != "index" or query.effort or query.within is not None:
            return
        record = self._record(live, facts)
        record.searches += 1
        if (record.searches - 1) % self._every == 0:
            self._waiting.append(_sample(live, facts, query, hits))
            self._task = self._task or asyncio.create_task(self._run())

    def figures(self, set_name: str, name: str, facts: BuildFacts | None) -> tuple[LiveRecallFigure, ...]:
        """Return the recalls of the build that is used now, by filter share; empty where none of its searches was repeated."""
        record = self._records.get((set_name, name))
        if record is None or record.facts != facts:
            return ()
        bounds = (0.0, *SHARES)
        return tuple(
            LiveRecallFigure(
                i < len(SHARES), bounds[min(i, len(SHARES) - 1)], bounds[min(i, len(SHARES) - 1) + 1], len(r), float(np.mean(r))
            )
            for i, r in sorted(record.recalls.items(), reverse=True)
        )

    def means(self) -> list[tuple[str, str, float]]:
        """The mean recall of each index whose searches were repeated: set, index, recall."""
        repeated = [
            (key, [value for recalls in record.recalls.values() for value in recalls]) for key, record in self._records.items()
        ]
        return [(*key, float(np.mean(values))) for key, values in sorted(repeated) if values]

    async def close(self) -> None:
        if self._task:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def repeat_oldest(self) -> None:
        """Repeat the search that waits longest, exactly. A set of another version by now is left out."""
        sample = self._waiting.popleft()
        try:
            exact = await self._executor.search(sample.live, replace(sample.query, exact=True))
        except TopworkError as error:
            log.info("a search was not repeated to measure its recall: %s", error)
            return
        record = self._record(sample.live, sample.facts)
        if exact.version == sample.version and record.facts == sample.facts and len(exact.scores):
            recalls = record.recalls.setdefault(sample.share, deque(maxlen=LATEST))
            recalls.append(_recall(sample, exact.scores))

    async def _run(self) -> None:
        while self._waiting:
            if not self._executor.idle:
                await asyncio.sleep(PAUSE)
                continue
            began = self._clock()
            await self.repeat_oldest()
            await asyncio.sleep((self._clock() - began) * (1 / SHARE - 1))
        self._task = None

    def _record(self, live: LiveIndex, facts: BuildFacts) -> _Record:
        key = live.definition.set, live.definition.name
        record = self._records.get(key)
        if record is None or record.facts != facts:
            record = self._records[key] = _Record(facts)
        return record


def _sample(live: LiveIndex, facts: BuildFacts, query: SearchQuery, hits: SearchHits) -> _Sample:
    """Take the first query of a request and the best of its hits."""
    vectors = int(np.searchsorted(query.groups, query.groups[0], side="right")) if len(query.groups) else 0
    first = int(query.groups[0]) if vectors else 0
    without = None if query.without is None else query.without[first : first + 1]
    k = min(query.k, RECALL_AT)
    start = int(hits.counts[:first].sum())
    scores = hits.scores[start : start + min(k, int(hits.counts[first]))].copy()
    one = replace(query, vectors=query.vectors[:vectors].copy(), groups=np.zeros(vectors, np.int64), without=without, k=k)
    return _Sample(live, facts, one, hits.version, scores, _class(live, query.allowed))


def _class(live: LiveIndex, allowed: Array | None) -> int:
    if allowed is None:
        return len(SHARES)
    share = len(allowed) / max(live.alive_rows, 1)
    return next((i for i, bound in enumerate(SHARES) if share <= bound), len(SHARES) - 1)


def _recall(sample: _Sample, exact: Array) -> float:
    """Compute the recall. A hit counts where it is as near as the last of the nearest: of equal rows any will do."""
    distances = sample.live.definition.metric.value == "l2"
    last = float(exact[-1])
    room = ROUNDING * max(1.0, abs(last))
    right = sample.scores <= last + room if distances else sample.scores >= last - room
    return min(1.0, int(np.count_nonzero(right)) / len(exact))

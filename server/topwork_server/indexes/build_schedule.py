"""State of an index's builds: the newest one, what went wrong with the last one, and when the next is due."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass

from topwork_server.indexes.index_types import BuildFacts, IndexState
from topwork_server.indexes.live_index import LiveIndex

#: A build starts by itself where so many rows are fresh (or dead), and more than this share of those built.
FRESH, FRESH_SHARE = 10_000, 0.02
DEAD, DEAD_SHARE = 1_000, 0.2
#: Seconds until a failed build is tried again by itself; doubled each time.
PATIENCE = 300.0


@dataclass(slots=True)
class BuildSchedule:
    """The builds of one index. `facts` are of the build that is used, None where there is none."""

    facts: BuildFacts | None
    target_recall: float
    error: str = ""
    _failures: int = 0
    _not_before: float = 0.0

    def built(self, facts: BuildFacts) -> None:
        self.facts, self.error, self._failures = facts, "", 0
        self._not_before = time.monotonic() + facts.seconds  # while much is written, builds take half of the time

    def failed(self, why: str, *, again: bool = True) -> None:
        """Note a failure. `again`: where an older build serves and has become too old, a new one is tried when some time has
        passed. A first build that failed would fail again: it is tried when a caller asks for it."""
        self.error = why
        self._not_before = time.monotonic() + PATIENCE * 2**self._failures if again else math.inf
        self._failures += 1

    def due(self, live: LiveIndex) -> float:
        """Return the seconds until a build should start by itself: 0 at once, infinite for none."""
        return max(0.0, self._not_before - time.monotonic()) if self._outdated(live) else math.inf

    def _outdated(self, live: LiveIndex) -> bool:
        if self.facts is None:
            return False
        rows = self.facts.rows
        if live.fresh_rows > max(FRESH, FRESH_SHARE * rows):
            return True
        return live.dead_rows > max(DEAD, DEAD_SHARE * rows)

    def state(self, building: bool) -> IndexState:
        if building:
            return IndexState.REBUILDING if self.facts else IndexState.BUILDING
        if self.facts:
            return IndexState.READY
        return IndexState.FAILED if self.error else IndexState.BUILDING

    def detail(self, building: bool, waiting: bool = False) -> str:
        facts = self.facts
        if building:
            return "its build waits for another job" if waiting else ""
        if self.error:
            kept = "; searches go on on the build before it" if facts else "; searches compare with every row"
            return f"the last build failed: {self.error}{kept}"
        if facts and facts.held_out and facts.recall < self.target_recall:
            return f"recall is {facts.recall:.2f} at most; the target was {self.target_recall:g}"
        return ""

"""What a filter leaves of an index, and how to search that: one by one where it is little, else by the index, trying harder.

An index stops when it has looked at as many rows as usually suffice, and a filter takes most of these away. The rules here use
only what VectorIndex promises and what was measured at the build.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from topwork_server.indexes.fresh import FreshView
from topwork_server.indexes.main import Check, Main, Trial, packed
from topwork_server.types import Array

#: Rows left that are compared one by one, whatever share they are, and the share below which they are, however many: where the
#: index could leave some out.
FEW, SMALL = 2048, 0.1
#: The same where it leaves none out at its last effort. Its vectors may be far between, so one by one pays for very few of many
#: rows, or for so many queries at once.
FEWEST, SMALLEST, AT_ONCE = 64, 0.001, 32
#: The effort of a build was measured at so many hits, and is good for that of so many.
MEASURED, TRUSTED = 10, 32
#: Where more than this share of a build is dead, the dead are a filter too.
MOSTLY = 0.8


@dataclass(frozen=True, slots=True, eq=False)
class Left:
    """Rows of `main` that may be found: `count` of them, by their bits (None: all). `fresh` says which fresh rows may, None: all.
    `asked` are the keys as they were given, `allowed` None where they leave all, `matching` the positions where they do not."""

    main: Main
    asked: Array | None
    allowed: Array | None
    count: int
    mask: Array | None
    matching: Array | None
    fresh: Array | None
    fresh_count: int

    def positions(self) -> Array:
        """In the order of their keys."""
        return self.main.positions(self.allowed) if self.matching is None else self.matching

    @property
    def matches(self) -> int:
        return self.count + self.fresh_count

    @property
    def share(self) -> float:
        return self.count / max(len(self.main.keys), 1)

    @property
    def filtered(self) -> bool:
        return self.allowed is not None or self.share < MOSTLY

    def one_by_one(self, vectors: int) -> bool:
        """Whether to compare so many query vectors with each row that is left rather than ask the index."""
        index = self.main.built.index
        if not self.filtered or not self.main.gives_vectors or index.exact:
            return False
        if index.thorough:
            return self.count <= FEWEST or self.share <= (SMALLEST if vectors < AT_ONCE else SMALL)
        return self.count <= FEW or self.share <= SMALL

    def trial(self, fetch: int, threads: int, check: Check) -> Trial:
        """How to ask the index for so many rows, where the effort of the build finds ten without a filter.

        To find k among a share s of the rows is to find k / s of all, and more where the filter takes away just what is near:
        the effort grows so, and is then doubted. Of a small share nothing less than the last effort is trusted.
        """
        effort = self.main.built.facts.effort
        if self.main.built.index.exact or (not self.filtered and fetch <= TRUSTED):
            return Trial(effort, False, threads, check)
        times = np.inf if self.share <= SMALL else max(fetch / MEASURED / self.share, 1)
        return Trial(self.main.harder(effort, times), True, threads, check)


def left(main: Main, fresh: FreshView, allowed: Array | None) -> Left:
    """What is alive of the items with the sorted keys `allowed` (None: of all)."""
    kept = fresh.matching(allowed)
    fresh_count = len(fresh) if kept is None else int(np.count_nonzero(kept))
    matching = None if allowed is None else main.positions(allowed)
    if matching is None or len(matching) == main.alive:
        return Left(main, allowed, None, main.alive, main.mask, None, kept, fresh_count)
    bits = np.zeros(len(main.keys), bool)
    bits[matching] = True
    return Left(main, allowed, allowed, len(matching), packed(bits), matching, kept, fresh_count)

"""Choice of the search: as the build was measured; by the index with more effort; or row by row.

The effort of a build was measured at ten hits of all its rows. To find k among a share s of the rows is to find k / s of all,
and more where a filter takes away just what is near: the index is then tried harder until that changes nothing, or all rows that
are left are compared, whichever is likely to be faster. Only what VectorIndex promises and what the build measured is used.
"""

from __future__ import annotations

from topwork_server.blocking_calls import Check
from topwork_server.indexes.base_segment import EFFORT_FACTOR, SearchEffort
from topwork_server.indexes.row_filter import RowFilter

#: The effort of a build was measured at so many hits, and is good for that of so many.
MEASURED, TRUSTED = 10, 32
#: Below this share of the rows nothing less than the last effort is trusted, and a graph not at all.
SMALL = 0.1
#: Seconds to take a number out of an index, where it keeps a matrix and where it keeps lists, and to compare it with a query's.
TAKE, TAKE_FROM_LISTS, COMPARE = 0.7e-9, 2.5e-9, 0.035e-9
#: What is certain may take so many times longer than what is likely.
CERTAIN = 4
#: Whatever the filter, this share of the work of looking into all lists remains.
OVERHEAD = 0.02
#: Queries a second at the effort of the build, where it is too small to have measured them.
QPS = 5000.0


def is_unmeasured(rows: RowFilter, fetch: int) -> bool:
    """Tell whether the build did not measure what its effort finds of so many rows."""
    return not rows.base.built.index.exact and (rows.filtered or fetch > TRUSTED)


def choose_effort(rows: RowFilter, fetch: int, threads: int, check: Check) -> SearchEffort:
    """Choose the effort with which the index is asked for so many rows."""
    effort = rows.base.built.facts.effort
    if not is_unmeasured(rows, fetch):
        return SearchEffort(effort, False, threads, check)
    return SearchEffort(_first_effort(rows, fetch), True, threads, check)


def prefers_exact(rows: RowFilter, fetch: int, vectors: int, dim: int) -> bool:
    """Tell whether to compare the query vectors with every row of `rows` rather than ask the index for `fetch` of them."""
    index = rows.base.built.index
    if not rows.base.gives_vectors or not is_unmeasured(rows, fetch):
        return False
    if rows.share <= SMALL and not index.thorough:
        return True
    compared = rows.count * dim * ((TAKE_FROM_LISTS if index.thorough else TAKE) + vectors * COMPARE)
    return compared < (1 if index.thorough else CERTAIN) * vectors * _seconds(rows, fetch)


def _first_effort(rows: RowFilter, fetch: int) -> int:
    times = float("inf") if rows.share <= SMALL else max(fetch / MEASURED / rows.share, 1)
    return rows.base.higher_effort(rows.base.built.facts.effort, times)


def _seconds(rows: RowFilter, fetch: int) -> float:
    """Estimate the seconds of one query by the index, with more effort once."""
    facts, first = rows.base.built.facts, _first_effort(rows, fetch)
    harder = rows.base.higher_effort(first, EFFORT_FACTOR)
    effort = first if harder == first else first + harder
    qps = next((one.qps for one in facts.operating if one.effort == facts.effort and one.qps > 0), QPS)
    looked_at = max(rows.share, OVERHEAD) if rows.base.built.index.thorough else 1
    return looked_at * effort / max(facts.effort, 1) / qps

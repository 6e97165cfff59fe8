"""Choice of the search effort that reaches the target: recall on rows that the index has not seen, against exact search.

A row that the index found counts where it is at least as near as the last of the k nearest: of equal rows any will do.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np

from topwork_server.blocking_calls import Report
from topwork_server.indexes.exact_search import NearestRows, RowBlock
from topwork_server.indexes.index_types import MeasuredEffort
from topwork_server.indexes.prepared_query import PreparedQuery
from topwork_server.plugin_api.result_checks import search_index
from topwork_server.plugin_api.vector_index import Metric, VectorIndex
from topwork_server.types import Array

#: Recall is measured at so many hits.
RECALL_AT = 10
#: What float32 leaves uncertain of a score, as a share of the vectors' squared lengths.
ROUNDING = 1e-6
#: A batch that takes less than so many seconds is timed again.
SHORT = 0.1


#: (n,) positions of the index -> their rows (n, dim), as they are in the set.
Gather = Callable[[Array], Array]


@dataclass(frozen=True, slots=True)
class CalibrationQueries:
    """Queries (q, dim) float32 and their exact answer: `bar` (q,) float64 is the nearness of the last of the `k` nearest, less
    what rounding leaves open. `mask` as VectorIndex.search has it: the positions that count, None for all."""

    queries: Array
    bar: Array
    k: int
    mask: Array | None = None


def nearest_positions(queries: Array, blocks: Iterable[Array], metric: Metric, k: int) -> Array:
    """Find the k nearest of all rows that the blocks hold (at least k), by comparing with every one: places (q, k) int64."""
    exact, start = NearestRows(PreparedQuery(queries, metric, k)), 0
    for vectors in blocks:
        exact.offer(RowBlock(vectors, np.arange(start, start + len(vectors)), None))
        start += len(vectors)
    return exact.top_k().keys


def similarities(queries: Array, rows: Array, metric: Metric) -> Array:
    """Compare queries (q, dim) and, for each, rows (q, k, dim): (q, k) float64, larger is nearer, for every metric."""
    near: Array = np.einsum("qd,qkd->qk", queries, rows, dtype=np.float64)
    return near - np.einsum("qkd,qkd->qk", rows, rows, dtype=np.float64) / 2 if metric is Metric.L2 else near


def prepare_calibration(queries: Array, neighbors: Array, metric: Metric, mask: Array | None = None) -> CalibrationQueries:
    """Prepare queries whose k nearest rows are `neighbors` (q, k, dim)."""
    near = similarities(queries, neighbors, metric)
    lengths = np.einsum("qd,qd->q", queries, queries) + np.einsum("qkd,qkd->qk", neighbors, neighbors).max(1)
    return CalibrationQueries(queries, near.min(1) - ROUNDING * lengths / 2, neighbors.shape[1], mask)


def calibrate(
    index: VectorIndex, probe: CalibrationQueries, gather: Gather, metric: Metric, target: float, threads: int, report: Report
) -> tuple[MeasuredEffort, ...]:
    """Measure each effort, ascending, up to the first that reaches the target: the last is the one to use."""
    efforts = index.efforts()
    measured: list[MeasuredEffort] = []
    for i, effort in enumerate(efforts):
        report(i / len(efforts), f"measuring recall at effort {effort}" if effort else "measuring recall")
        measured.append(_measure(index, probe, gather, metric, effort, threads))
        if measured[-1].recall >= target:
            break
    return tuple(measured)


def _measure(
    index: VectorIndex, probe: CalibrationQueries, gather: Gather, metric: Metric, effort: int, threads: int
) -> MeasuredEffort:
    if not len(probe.queries):
        return MeasuredEffort(effort, float(index.exact), 0.0)
    seconds: list[float] = []
    while not seconds or (sum(seconds) < SHORT and len(seconds) < 5):
        began = time.perf_counter()
        _, found = search_index(index, probe.queries, probe.k, effort=effort, threads=threads, mask=probe.mask)
        seconds.append(time.perf_counter() - began)
    return MeasuredEffort(effort, _recall(probe, found, gather, metric), len(probe.queries) / min(seconds))


def _recall(probe: CalibrationQueries, positions: Array, gather: Gather, metric: Metric) -> float:
    rows = gather(np.maximum(positions, 0).ravel()).reshape(*positions.shape, -1)
    right = (similarities(probe.queries, rows, metric) >= probe.bar[:, None]) & (positions >= 0)
    return float(right.mean())

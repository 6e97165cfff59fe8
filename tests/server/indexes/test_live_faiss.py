"""Live on the kinds that come with the server: what filters, large k and ranges cost in recall."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache

import numpy as np
import pytest
from memory_set import FakeSet, build, definition, query, tap_info
from topwork_plugins.faiss_index.plugin import FlatIndex, HnswIndex, IvfIndex, IvfPqIndex, IvfSq8Index
from topwork_server.indexes.index_types import BuiltIndex, MeasuredEffort
from topwork_server.indexes.live_index import LiveIndex
from topwork_server.inference.output_format import normalize
from topwork_server.plugin_api.options import parse
from topwork_server.plugin_api.vector_index import Metric, VectorIndex
from topwork_server.testing.vectors import ArrayVectors
from topwork_server.types import Array

ROWS, DIM, KINDS = 6000, 32, 300
TARGET = 0.95
CLASSES = [FlatIndex, HnswIndex, IvfIndex, IvfSq8Index, IvfPqIndex]


@cache
def made() -> tuple[FakeSet, Array, Array, Array]:
    """A set of many small clusters, its rows, the cluster of each, and queries near them: ten hits soon reach beyond one."""
    rng = np.random.default_rng(21)
    centers = rng.standard_normal((KINDS, DIM))
    kinds = rng.integers(0, KINDS, ROWS + 60)
    rows = normalize((centers[kinds] + 0.4 * rng.standard_normal((len(kinds), DIM))).astype(np.float32))
    fake = FakeSet(tap_info(dim=DIM))
    fake.commit(list(rows[:ROWS, None]))
    return fake, rows[:ROWS], kinds[:ROWS], rows[ROWS:]


@cache
def opened(kind: type[VectorIndex]) -> LiveIndex:
    """With the least effort that reaches the target, as a build chooses it."""
    fake, rows, _, queries = made()
    index = kind.build(
        ArrayVectors(rows), Metric.COSINE, parse(kind.options, {}, "this kind"), TARGET, 1, lambda done, doing: None
    )
    wanted = np.argsort(-(queries @ rows.T), axis=1)[:, :10]
    for effort in index.efforts():
        _, found = index.search(queries, 10, effort=effort, threads=1)
        recall = np.mean([len(set(a) & set(b)) / 10 for a, b in zip(found.tolist(), wanted.tolist(), strict=True)])
        if recall >= TARGET:
            break
    like = build(fake)
    facts = replace(like.facts, effort=effort, operating=(MeasuredEffort(effort, float(recall), 20_000.0),))
    live = LiveIndex(definition(dim=DIM), fake, 1)
    live.install(BuiltIndex(facts, index, like.keys, None), fake.keys()[1])
    return live


def recall(live: LiveIndex, k: int, allowed: Array | None = None) -> float:
    """At k, of what is there."""
    fake, rows, _, queries = made()
    keys = np.array(sorted(fake.items), np.int64)
    near = queries @ rows.T
    if allowed is not None:
        near[:, ~np.isin(keys, allowed)] = -np.inf
    most = k if allowed is None else min(k, len(allowed))
    wanted = [set(keys[best].tolist()) for best in np.argsort(-near, axis=1)[:, :most]]
    hits = live.search(query(queries, k=k, allowed=allowed))
    found = np.split(hits.keys, np.cumsum(hits.counts)[:-1])
    assert [len(one) for one in found] == [most] * len(queries), "there are as many hits as there can be"
    return sum(len(set(a.tolist()) & b) for a, b in zip(found, wanted, strict=True)) / (most * len(queries))


def at_random(share: float) -> Array:
    keys = np.array(sorted(made()[0].items), np.int64)
    return np.sort(np.random.default_rng(5).choice(keys, int(share * len(keys)), replace=False))


def by_cluster(share: float) -> Array:
    """Whole clusters, so that what is nearest to a query is there or is all gone."""
    keys = np.array(sorted(made()[0].items), np.int64)
    kept = np.random.default_rng(6).choice(KINDS, max(1, int(share * KINDS)), replace=False)
    return keys[np.isin(made()[2], kept)]


@pytest.mark.parametrize("kind", CLASSES)
@pytest.mark.parametrize("filtered", [at_random, by_cluster])
@pytest.mark.parametrize("share", [0.5, 0.05, 0.005])
def test_filters_cost_no_recall(kind: type[VectorIndex], filtered: Callable[[float], Array], share: float) -> None:
    live = opened(kind)
    assert recall(live, 10, filtered(share)) >= min(recall(live, 10), TARGET)


@pytest.mark.parametrize("kind", CLASSES)
@pytest.mark.parametrize("k", [100, 1000, 10_000])
def test_a_large_k_costs_no_recall(kind: type[VectorIndex], k: int) -> None:
    assert recall(opened(kind), min(k, ROWS)) >= 0.93
    hits = opened(kind).search(query(made()[3], k=10_000, within=0.3))
    wanted = (made()[3] @ made()[1].T >= 0.3).sum()
    assert 0.93 * wanted <= len(hits.keys) <= 1.05 * wanted


@pytest.mark.parametrize("kind", CLASSES)
def test_exact_is_exact(kind: type[VectorIndex]) -> None:
    fake, rows, _, queries = made()
    hits = opened(kind).search(query(queries, exact=True))
    assert hits.how == "exact"
    wanted = np.argsort(-(queries @ rows.T), axis=1)[:, :10]
    assert np.sort(hits.keys.reshape(-1, 10)).tolist() == np.sort(np.array(sorted(fake.items))[wanted]).tolist()


@pytest.mark.parametrize(("kind", "thorough"), [(FlatIndex, True), (HnswIndex, False), (IvfIndex, True), (IvfSq8Index, True)])
def test_an_index_that_says_it_leaves_none_out_leaves_none_out(kind: type[VectorIndex], thorough: bool) -> None:
    index = opened(kind)._state.base.built.index  # type: ignore[union-attr]
    assert index.thorough is thorough
    _, rows, _, queries = made()
    bits = np.random.default_rng(8).random(ROWS) < 0.03
    _, found = index.search(queries, 10, effort=index.efforts()[-1], threads=1, mask=np.packbits(bits, bitorder="little"))
    wanted = np.argsort(-np.where(bits, queries @ rows.T, -9), axis=1)[:, :10]
    same = np.mean([len(set(a) & set(b)) / 10 for a, b in zip(found.tolist(), wanted.tolist(), strict=True)])
    assert same >= (0.97 if thorough else 0.9), "SQ8 orders the nearly equal otherwise"

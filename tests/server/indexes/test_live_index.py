"""Live beside brute force: after any writes, deletions and installed builds, a search finds what is there, and nothing else."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from memory_set import DIM, NO_KEYS, FakeSet, build, definition, expected, query, tap_info
from topwork_server.indexes.index_types import SearchHits, SearchQuery
from topwork_server.indexes.live_index import LiveIndex
from topwork_server.plugin_api.vector_index import Metric
from topwork_server.types import Array, Granularity

METRICS = list(Metric)


def rows(rng: np.random.Generator, items: int, most: int = 1) -> list[Array]:
    """Of each item, 1 to `most` rows."""
    return [rng.standard_normal((rng.integers(1, most + 1), DIM)).astype(np.float32) for _ in range(items)]


def following(fake: FakeSet, metric: Metric = Metric.COSINE) -> LiveIndex:
    live = LiveIndex(definition(metric, fake.info.tap.granularity), fake, 1)
    fake.follow(live.apply)
    return live


def installed(fake: FakeSet, metric: Metric = Metric.COSINE, **options: Any) -> LiveIndex:
    live = following(fake, metric)
    live.install(build(fake, metric, **options), fake.keys()[1])
    return live


def filled(items: int = 300, seed: int = 1) -> FakeSet:
    fake = FakeSet()
    fake.commit(rows(np.random.default_rng(seed), items))
    return fake


def answers(hits: SearchHits) -> list[list[tuple[int, int, float]]]:
    flat = list(zip(hits.keys.tolist(), hits.rows.tolist(), hits.scores.tolist(), strict=True))
    ends = np.cumsum(hits.counts)
    return [flat[end - n : end] for end, n in zip(ends, hits.counts, strict=True)]


def check(found: SearchHits, wanted: list[list[tuple[int, int, float]]]) -> None:
    """The same hits with the same scores; those whose scores differ by less than float32 says may have changed places."""
    got = answers(found)
    assert [len(one) for one in got] == [len(one) for one in wanted]
    for ours, theirs in zip(got, wanted, strict=True):
        scores = np.array([hit[2] for hit in theirs])
        np.testing.assert_allclose([hit[2] for hit in ours], scores, atol=2e-6, rtol=1e-5)
        assert len({hit[:2] for hit in ours}) == len(ours)
        for place, (one, other) in enumerate(zip(ours, theirs, strict=True)):
            close = np.abs(scores - scores[place]) < 4e-6 * max(1, abs(scores[place]))
            assert one[:2] == other[:2] or close.sum() > 1 or place == len(ours) - 1


def some_query(rng: np.random.Generator, fake: FakeSet) -> SearchQuery:
    """Any that a caller could ask."""
    vectors = rng.standard_normal((int(rng.integers(1, 6)), DIM)).astype(np.float32)
    groups = np.sort(rng.integers(0, len(vectors), len(vectors))) if rng.random() < 0.3 else np.arange(len(vectors))
    groups = np.unique(groups, return_inverse=True)[1]
    keys = np.array(sorted(fake.items), np.int64)
    allowed = keys[rng.random(len(keys)) < rng.choice([0.002, 0.05, 0.5, 0.95])] if rng.random() < 0.4 else None
    queries = int(groups.max()) + 1
    without = rng.choice(keys, queries) if len(keys) and rng.random() < 0.3 else None
    within = float(rng.choice([0.2, 0.6, 3.0])) if rng.random() < 0.2 else None
    k = int(rng.choice([1, 3, 10, 40, 2000]))
    flags = {"every_row": bool(rng.random() < 0.3), "exact": bool(rng.random() < 0.2)}
    return SearchQuery(vectors, groups, k, within, allowed, without, **flags)


def change(rng: np.random.Generator, fake: FakeSet, most: int) -> None:
    """Write, update, delete, or all at once."""
    here = list(fake.items)
    dead = rng.choice(here, min(len(here), int(rng.integers(0, 12))), replace=False).tolist() if here else []
    fake.commit(rows(rng, int(rng.integers(0, 15)), most), dead)


#: Changes in each of the 18 tests of random ones; $TOPWORK_STEPS makes them more.
STEPS = int(os.environ.get("TOPWORK_STEPS", "40"))


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("granularity", [Granularity.ITEM, Granularity.WINDOW])
@pytest.mark.parametrize("options", [{}, {"lossy": True}, {"flat": True}])
def test_agrees_with_brute_force_through_any_changes(metric: Metric, granularity: Granularity, options: dict[str, Any]) -> None:
    rng = np.random.default_rng([*METRICS].index(metric) + 10 * (granularity is Granularity.ITEM) + len(str(options)))
    fake, most = FakeSet(tap_info(granularity)), 1 if granularity is Granularity.ITEM else 4
    live, built, beside = following(fake, metric), None, 0
    for step in range(STEPS):
        change(rng, fake, most)
        if rng.random() < 0.1 or step == STEPS // 4:  # as a job does: it reads one version, and is done at a later one
            n = sum(len(item) for item in fake.items.values())
            built = build(fake, metric, effort=16, order=rng.permutation(n) if rng.random() < 0.5 else None, **options)
        elif built and (rng.random() < 0.3 or step >= STEPS // 2):
            live.install(built, fake.keys()[1])
            built = None
        asked = some_query(rng, fake)
        hits = live.search(asked)
        check(hits, expected(fake, metric, asked))
        assert hits.version == live.version == fake.version
        beside = max(beside, live.dead_rows + live.fresh_rows)
    assert beside > 0, "no index was installed and then followed its set"


def test_counts_what_is_in_memory() -> None:
    fake = filled(300)
    live = installed(fake)
    first = list(fake.items)[:10]
    new = fake.commit(rows(np.random.default_rng(3), 7), first)
    assert (live.alive_rows, live.fresh_rows, live.dead_rows) == (297, 7, 10)
    fake.commit([], new[:3])
    assert (live.alive_rows, live.fresh_rows, live.dead_rows) == (294, 4, 10)
    assert live.memory > 300 * DIM * 4
    live.install(build(fake), fake.keys()[1])
    assert (live.alive_rows, live.fresh_rows, live.dead_rows) == (294, 0, 0)


def test_an_item_without_rows_is_no_hit_and_a_query_without_vectors_has_none() -> None:
    fake = FakeSet(tap_info(Granularity.WINDOW))
    fake.commit([np.ones((2, DIM), np.float32), np.zeros((0, DIM), np.float32), np.ones((1, DIM), np.float32)])
    for live in (following(fake), installed(fake)):
        hits = live.search(query(np.ones((2, DIM), np.float32), groups=np.array([1, 3]), without=np.full(6, -1)))
        assert hits.counts.tolist() == [0, 2, 0, 2, 0, 0]
        assert live.search(query(np.zeros((0, DIM), np.float32))).counts.tolist() == []


def test_equal_scores_stand_by_key_and_answers_repeat() -> None:
    fake = FakeSet()
    fake.commit([np.ones((1, DIM), np.float32)] * 60)
    live = installed(fake, flat=True)
    fake.commit([np.ones((1, DIM), np.float32)] * 60)
    asked = query(np.ones((2, DIM), np.float32), k=90)
    hits = live.search(asked)
    assert hits.keys.tolist() == sorted(fake.items)[:90] * 2
    exact = live.search(replace(asked, exact=True))
    assert exact.keys.tolist() == hits.keys.tolist()
    assert following(fake).search(asked).keys.tolist() == hits.keys.tolist()


def test_within_is_complete_up_to_k() -> None:
    fake = filled(3000)
    live = installed(fake, lossy=True, effort=16)
    asked = query(np.random.default_rng(5).standard_normal((3, DIM)).astype(np.float32), k=2500, within=0.2)
    wanted = expected(fake, Metric.COSINE, asked)
    assert min(len(one) for one in wanted) > 300
    check(live.search(asked), wanted)
    index = live._state.base.built.index  # type: ignore[union-attr]
    index.calls.clear()
    assert live.search(replace(asked, within=1.5)).counts.tolist() == [0, 0, 0]
    assert [call[1] for call in index.calls] == [64], "where few are near, few are asked for"


def test_k_items_are_found_where_the_nearest_rows_are_all_of_one() -> None:
    rng = np.random.default_rng(7)
    crowd = (np.ones((300, DIM)) + 1e-3 * rng.standard_normal((300, DIM))).astype(np.float32)
    fake = FakeSet(tap_info(Granularity.CELL))
    fake.commit([crowd, *rows(rng, 50)])
    live = installed(fake)
    asked = query(np.ones((1, DIM), np.float32), k=10)
    hits = live.search(asked)
    check(hits, expected(fake, Metric.COSINE, asked))
    assert len(set(hits.keys.tolist())) == 10
    rows_of_one = live.search(replace(asked, every_row=True))
    assert len(set(rows_of_one.keys.tolist())) == 1


def test_only_queries_that_lack_items_are_asked_again() -> None:
    rng = np.random.default_rng(9)
    crowd = (np.ones((100, DIM)) + 1e-3 * rng.standard_normal((100, DIM))).astype(np.float32)
    fake = FakeSet(tap_info(Granularity.CELL))
    fake.commit([crowd, *rows(rng, 80)])
    live = installed(fake, effort=16)
    vectors = np.concatenate([-np.ones((2, DIM)), np.ones((2, DIM)), rng.standard_normal((2, DIM))]).astype(np.float32)
    vectors[1, 0] = vectors[3, 1] = 0.5
    for groups in (np.array([0, 0, 1, 1, 2, 2]), np.arange(6)):
        asked = query(vectors, groups=groups, k=8, without=np.array(sorted(fake.items))[groups[-1] + 1 : 2 * groups[-1] + 2])
        check(live.search(asked), expected(fake, Metric.COSINE, asked))
    index = live._state.base.built.index  # type: ignore[union-attr]
    assert {call[0] for call in index.calls} == {6, 2}


def test_what_an_index_never_finds_is_found_where_there_is_nothing_else() -> None:
    fake = filled(200)
    live = installed(fake, blind=True, effort=16)
    asked = query(np.eye(DIM, dtype=np.float32), k=30)
    assert (live.search(asked).counts == 30).all()
    whole = replace(asked, k=190, effort=16)
    check(live.search(whole), expected(fake, Metric.COSINE, whole))


def test_a_zero_row_has_no_direction_but_is_a_row() -> None:
    fake = FakeSet()
    keys = fake.commit([np.zeros((1, DIM), np.float32), np.ones((1, DIM), np.float32)])
    live = installed(fake)
    more = fake.commit([np.zeros((1, DIM), np.float32)])
    hits = live.search(query(np.ones((1, DIM), np.float32)))
    assert hits.keys.tolist() == [keys[1], keys[0], *more]
    assert hits.scores.tolist() == pytest.approx([1, 0, 0])


@pytest.mark.parametrize("opened", [following, installed])
def test_distances_of_far_and_close_rows_keep_their_digits(opened: Callable[[FakeSet, Metric], LiveIndex]) -> None:
    """|a|^2 + |b|^2 - 2ab has none left here."""
    rng = np.random.default_rng(8)
    base = 1000 + rng.standard_normal((1, DIM))
    near = [(base + 1e-2 * rng.standard_normal((1, DIM))).astype(np.float32) for _ in range(800)]
    fake = FakeSet()
    live = opened(fake, Metric.L2)
    fake.commit(near)
    for vectors in (base, base + 1e-2 * rng.standard_normal((40, DIM))):  # few pairs to look at again, and many
        asked = query(vectors.astype(np.float32), k=10)
        wanted = [score for one in expected(fake, Metric.L2, asked) for _, _, score in one]
        np.testing.assert_allclose(live.search(asked).scores, wanted, rtol=1e-3)


def test_few_matches_are_compared_one_by_one_and_a_filter_is_prepared_once() -> None:
    fake = filled(6000)
    live = installed(fake, lists=64)
    fake.commit(rows(np.random.default_rng(3), 40))
    index = live._state.base.built.index  # type: ignore[union-attr]
    vectors = np.ones((1, DIM), np.float32)
    few = np.array(sorted(fake.items)[::100], np.int64)
    assert live.search(query(vectors, allowed=few)).how == f"exact over {len(few)} matches"
    assert not index.calls
    many = np.array(sorted(fake.items)[::2], np.int64)
    live.search(query(vectors, allowed=many))
    known = live._state.filters._known  # type: ignore[union-attr]
    live.search(query(vectors, allowed=many))
    assert live._state.filters._known is known  # type: ignore[union-attr]
    assert all(masked for _, _, _, masked, _ in index.calls)


def test_an_effort_that_is_asked_for_is_taken() -> None:
    live = installed(filled(3000), lists=64)
    index = live._state.base.built.index  # type: ignore[union-attr]
    live.search(query(np.ones((1, DIM), np.float32), effort=7))
    live.search(query(np.ones((1, DIM), np.float32)))
    assert [call[2] for call in index.calls] == [7, 4]
    live.search(query(np.ones((1, DIM), np.float32)), threads=3)
    assert index.calls[-1][4] == 3


def test_many_updates_of_the_same_items_do_not_fill_the_memory() -> None:
    fake = filled(10)
    live = installed(fake)
    rng = np.random.default_rng(0)
    keys: Sequence[int] = fake.commit(rows(rng, 200))
    for _ in range(100):
        keys = fake.commit(rows(rng, 200), keys)
    assert live.fresh_rows == 200
    assert live.memory < 8000 * DIM * 4
    asked = query(np.eye(DIM, dtype=np.float32), k=20)
    check(live.search(asked), expected(fake, Metric.COSINE, asked))


def test_tens_of_thousands_of_fresh_rows_and_their_deaths() -> None:
    """Rows of one item lie in several chunks, and the dead are many enough to be dropped."""
    fake = FakeSet(tap_info(Granularity.WINDOW))
    live, rng = installed(fake), np.random.default_rng(2)
    for _ in range(6):
        fake.commit(rows(rng, 3000, 4))
    asked = query(np.eye(DIM, dtype=np.float32)[:2], k=30, allowed=np.array(sorted(fake.items)[::3]))
    check(live.search(asked), expected(fake, Metric.COSINE, asked))
    fake.commit([], sorted(fake.items)[:15_000])
    check(live.search(asked), expected(fake, Metric.COSINE, asked))
    assert live.fresh_rows == sum(len(item) for item in fake.items.values())


def test_exact_search_of_an_index_that_keeps_no_vectors_reads_the_set() -> None:
    fake = filled(400)
    live = installed(fake, lossy=True, effort=1)
    reads = fake.reads
    asked = query(np.eye(DIM, dtype=np.float32), exact=True)
    hits = live.search(asked)
    check(hits, expected(fake, Metric.COSINE, asked))
    assert (hits.how, fake.reads) == ("exact", reads + 1)
    few = query(np.eye(DIM, dtype=np.float32), exact=True, allowed=np.array(sorted(fake.items)[:30]))
    hits = live.search(few)
    check(hits, expected(fake, Metric.COSINE, few))
    assert (hits.how, fake.reads, fake.fetches) == ("exact over 30 matches", reads + 1, 1)


def test_an_empty_filter_and_an_empty_set() -> None:
    live = installed(filled(50))
    assert live.search(query(np.ones((2, DIM), np.float32), allowed=NO_KEYS)).counts.tolist() == [0, 0]
    empty = FakeSet()
    for live in (installed(empty), following(empty)):
        assert live.search(query(np.ones((2, DIM), np.float32))).counts.tolist() == [0, 0]
        assert live.search(query(np.ones((2, DIM), np.float32), exact=True)).counts.tolist() == [0, 0]
    fake = FakeSet()
    live = installed(fake)
    key = fake.commit([np.ones((1, DIM), np.float32)])
    assert live.search(query(np.ones((1, DIM), np.float32))).keys.tolist() == key

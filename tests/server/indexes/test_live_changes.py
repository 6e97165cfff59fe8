"""What is committed, installed and searched at once: nothing is lost, nothing is seen twice, and each search sees one version."""

from __future__ import annotations

import threading
from collections.abc import Callable

import numpy as np
import pytest
from memory_set import DIM, FakeSet, build, definition, query
from topwork_server.indexes.live_index import LiveIndex
from topwork_server.types import Array

ALL = 10_000


def rows(items: int, seed: int = 0) -> list[Array]:
    return [r[None] for r in np.random.default_rng(seed).standard_normal((items, DIM)).astype(np.float32)]


def followed(items: int = 200) -> tuple[FakeSet, LiveIndex]:
    fake = FakeSet()
    fake.commit(rows(items))
    live = LiveIndex(definition(), fake, 1)
    fake.follow(live.apply)
    return fake, live


def seen(live: LiveIndex) -> list[int]:
    """The keys of all items that a search can find."""
    return sorted(live.search(query(np.ones((1, DIM), np.float32), k=ALL, effort=16)).keys.tolist())


def during_reads(fake: FakeSet, act: Callable[[], object]) -> None:
    """Do it once, when the next snapshot of the set was taken and is about to be read."""

    def once() -> None:
        fake.on_read = lambda: None
        act()

    fake.on_read = once


def test_what_is_written_between_a_build_and_its_installation_stays_fresh() -> None:
    fake, live = followed()
    built = build(fake)
    old = sorted(fake.items)
    new = fake.commit(rows(30, 1), old[:5])
    live.install(built, fake.keys()[1])
    assert (live.fresh_rows, live.dead_rows, live.version) == (30, 5, fake.version)
    assert seen(live) == [*old[5:], *new]


def test_what_is_committed_while_the_first_build_is_installed_is_there_once() -> None:
    fake, live = followed()
    built = build(fake)
    old, between = sorted(fake.items), fake.commit(rows(20, 1))
    during_reads(fake, lambda: fake.commit(rows(3, 2), [old[0], between[0]]))
    live.install(built, fake.keys()[1])
    assert seen(live) == sorted(fake.items)
    assert (live.fresh_rows, live.dead_rows, live.version) == (22, 1, fake.version)


def test_a_commit_that_is_told_after_its_rows_were_read_is_there_once() -> None:
    """The set shows a version before it tells of it: the reading for an installation can be ahead of the follower."""
    fake = FakeSet()
    first = fake.commit(rows(50))
    live = LiveIndex(definition(), fake, 1)
    built = build(fake)
    changes: list[Callable[[], None]] = []
    fake.follow(lambda change: changes.append(lambda: live.apply(change)))
    second = fake.commit(rows(20, 1))
    fake.commit(rows(5, 2), [first[0], second[0]])
    passing = fake.commit(rows(5, 3))
    fake.commit([], passing)
    live.install(built, fake.keys()[1])
    assert seen(live) == sorted(fake.items)
    for tell in changes:
        tell()
        assert seen(live) == sorted(fake.items)
    assert live.version == fake.version
    fake.commit(rows(5, 4))
    changes[-1]()
    assert seen(live) == sorted(fake.items)


@pytest.mark.parametrize("again", [False, True])
def test_keys_read_before_a_deletion_do_not_bring_it_back(again: bool) -> None:
    fake, live = followed()
    if again:
        live.install(build(fake), fake.keys()[1])
    built, stale = build(fake), fake.keys()[1]
    fake.commit(rows(2, 1), sorted(fake.items)[:9])
    live.install(built, stale)
    assert seen(live) == sorted(fake.items)


def test_a_later_build_takes_over_what_was_fresh() -> None:
    fake, live = followed()
    live.install(build(fake), fake.keys()[1])
    fake.commit(rows(40, 1), sorted(fake.items)[:10])
    built = build(fake)
    new = fake.commit(rows(6, 2), sorted(fake.items)[:4])
    reads = fake.reads
    live.install(built, fake.keys()[1])
    assert (live.fresh_rows, live.dead_rows, fake.reads) == (len(new), 4, reads)
    assert seen(live) == sorted(fake.items)


def test_an_older_build_reads_what_it_lacks() -> None:
    fake, live = followed()
    older = build(fake)
    fake.commit(rows(40, 1), sorted(fake.items)[:10])
    live.install(build(fake), fake.keys()[1])
    fake.commit(rows(6, 2), sorted(fake.items)[-3:])
    live.install(older, fake.keys()[1])
    assert (live.fresh_rows, live.dead_rows) == (43, 10)
    assert seen(live) == sorted(fake.items)


def test_an_installation_that_fails_leaves_what_was() -> None:
    fake, live = followed()
    built = build(fake)

    def fail() -> None:
        raise OSError("the disk is gone")

    during_reads(fake, fail)
    with pytest.raises(OSError, match="gone"):
        live.install(built, fake.keys()[1])
    fake.commit(rows(4, 1), sorted(fake.items)[:2])
    assert seen(live) == sorted(fake.items)
    live.install(built, fake.keys()[1])
    assert seen(live) == sorted(fake.items)
    assert live.fresh_rows == 4


def test_a_search_under_way_finishes_on_what_it_began_with() -> None:
    fake, live = followed()
    built = build(fake)
    live.install(built, fake.keys()[1])
    new = fake.commit(rows(20, 5), sorted(fake.items)[:3])
    fake.commit([], new[:3])
    before, version = sorted(fake.items), fake.version

    def meanwhile(queries: Array) -> None:
        fake.commit(rows(50, 1), sorted(fake.items)[:50])
        live.install(build(fake), fake.keys()[1])

    built.index.before = meanwhile  # type: ignore[attr-defined]
    hits = live.search(query(np.ones((1, DIM), np.float32), k=ALL, effort=16))
    assert (sorted(hits.keys.tolist()), hits.version) == (before, version)
    assert seen(live) == sorted(fake.items)


def test_searches_commits_and_installations_at_once() -> None:
    """Each commit replaces all of a group's items by as many: a search sees every group whole, and none mixed."""
    groups, size = 8, 25
    fake = FakeSet()
    owner: dict[int, int] = {}
    of = [fake.commit(rows(size, g)) for g in range(groups)]
    owner.update({key: g for g in range(groups) for key in of[g]})
    live = LiveIndex(definition(), fake, 1)
    fake.follow(live.apply)
    live.install(build(fake), fake.keys()[1])
    stop = threading.Event()
    wrong: list[tuple[Array, int]] = []
    done: list[int] = []

    def search() -> None:
        last = 0
        while not stop.is_set():
            hits = live.search(query(np.ones((2, DIM), np.float32), k=ALL, effort=16))
            counts = np.bincount([owner[key] for key in hits.keys.tolist()], minlength=groups)
            if (counts != 2 * size).any() or hits.version < last:
                wrong.append((counts, hits.version))
            last = hits.version
        done.append(last)

    def install() -> None:
        while not stop.is_set():
            with fake._lock:
                built = build(fake)
            live.install(built, fake.keys()[1])

    threads = [threading.Thread(target=work) for work in (search, search, install)]
    for thread in threads:
        thread.start()
    for step in range(150):
        g = step % groups
        owner.update({(fake.version << 24) + i: g for i in range(size)})
        of[g] = fake.commit(rows(size, step), of[g])
    stop.set()
    for thread in threads:
        thread.join()
    assert not wrong
    assert len(done) == 2
    assert min(done) > 9, "the searches began before the commits"
    assert seen(live) == sorted(fake.items)

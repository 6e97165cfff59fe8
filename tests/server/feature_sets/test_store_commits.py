"""Group commits: what waits together is one version, in order; failures stay with their writes; listeners hear all."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import lance
import numpy as np
import pytest
from sample_batches import block, everything, hold, names, wanted
from topwork_server.errors import DiskFull, InvalidInput, Overloaded, TopworkError, Unavailable
from topwork_server.feature_sets import lance_io
from topwork_server.feature_sets.commit_queue import CommitQueue, CommitTask
from topwork_server.feature_sets.daemon_pool import MOST_THREADS, DaemonPool
from topwork_server.feature_sets.feature_set import FeatureSet
from topwork_server.feature_sets.set_registry import FeatureSets
from topwork_server.feature_sets.set_types import Change, WriteResult


@pytest.fixture
def together(birds: FeatureSet) -> Iterator[Callable[[], None]]:
    """The commit thread is busy from now on, until the test calls this: what is queued meanwhile shares a commit."""
    go = hold(birds)
    yield go
    go()


class Mirror:
    """A listener that keeps the set as it hears of it."""

    def __init__(self, feature_set: FeatureSet) -> None:
        """Start from a set without writes under way."""
        now = feature_set.fetch(feature_set.keys()[1], taps=None)
        assert now.keys is not None
        self.items = dict(zip(now.keys.tolist(), zip(now.ids, now.taps[0].rows, strict=True), strict=True))
        self.versions = [feature_set.add_listener(self)]

    def __call__(self, change: Change) -> None:
        self.versions.append(change.version)
        for key in change.deleted.tolist():
            del self.items[key]
        assert change.inserted.keys is not None
        for key, id, row in zip(change.inserted.keys.tolist(), change.inserted.ids, change.inserted.taps[0].rows, strict=True):
            assert key not in self.items
            self.items[key] = (id, row)

    def agrees(self, feature_set: FeatureSet) -> bool:
        stored = everything(feature_set)
        heard = dict(self.items.values())
        assert sorted(self.items) == feature_set.keys()[1].tolist()
        return stored.keys() == heard.keys() and all(np.array_equal(stored[id]["rows"][0], heard[id]) for id in heard)


def test_small_writers_share_commits(birds: FeatureSet) -> None:
    writers, writes = 8, 25
    before = birds.version

    def write(writer: int) -> list[WriteResult]:
        ids = names(writer * writes, writer * writes + writes)
        return [future.result() for future in [birds.write(block([id])) for id in ids]]

    with ThreadPoolExecutor(writers) as pool:
        written = [one for result in pool.map(write, range(writers)) for one in result]
    assert sum(one.inserted for one in written) == writers * writes
    assert set(everything(birds)) == set(names(0, writers * writes))
    assert birds.version - before < writers * writes / 4


def test_in_one_commit_the_last_of_an_id_wins_and_deletions_keep_their_place(
    birds: FeatureSet, together: Callable[[], None]
) -> None:
    futures: list[Future[Any]] = [
        birds.write(block(["a", "b", "held"], 1, n=[1, 1, 1])),
        birds.delete(["a", "nobody"]),
        birds.write(block(["b", "c"], 2, n=[2, 2])),
        birds.delete(["c", "held"]),
        birds.write(block(["c"], 3, n=[3])),
        birds.delete(["b"]),
    ]
    together()
    version = futures[-1].result()[1]
    assert [future.result() for future in futures] == [
        WriteResult(version, 2, 1),
        (1, version),
        WriteResult(version, 1, 1),
        (2, version),
        WriteResult(version, 1, 0),
        (1, version),
    ]
    assert {id: item["n"] for id, item in everything(birds).items()} == {"c": 3}
    np.testing.assert_array_equal(everything(birds)["c"]["rows"], block(["c"], 3).taps[0].rows)


def test_listeners_hear_every_change_before_the_writers_do(sets: FeatureSets) -> None:
    birds = sets.create(wanted("half", dtype="float16"))
    birds.write(block(["before"])).result()
    mirror = Mirror(birds)
    assert mirror.versions == [birds.version]
    for number in range(5):
        written = birds.write(block(["a", f"b{number}"], number, **{f"n{number}": [1, None]})).result()
        assert mirror.versions[-1] == written.version
    birds.delete(None, "n4 is not null").result()
    assert mirror.versions == list(range(mirror.versions[0], birds.version + 1))
    assert mirror.agrees(birds)


def test_a_mirror_agrees_with_the_set(birds: FeatureSet) -> None:
    mirror = Mirror(birds)
    rng = np.random.default_rng(1)
    for number in range(40):
        some = [f"i{n}" for n in rng.choice(30, 5, replace=False)]
        birds.delete(some[:2]) if number % 3 == 0 else birds.write(block(some, number))
    birds.prune(0)
    assert mirror.agrees(birds)


def test_a_listener_that_fails_is_removed_and_told_so(birds: FeatureSet) -> None:
    lost: list[BaseException] = []
    calls: list[int] = []
    mirror = Mirror(birds)

    def failing(change: Change) -> None:
        calls.append(change.version)
        raise ValueError("full up")

    birds.add_listener(failing, lost.append)
    birds.add_listener(failing)
    last = Mirror(birds)
    assert birds.write(block(["a"])).result().inserted == 1
    birds.write(block(["b"])).result()
    assert [str(error) for error in lost] == ["full up"]
    assert len(calls) == 2
    assert mirror.agrees(birds)
    assert last.agrees(birds)


def failing_commit(after: bool) -> Callable[..., Any]:
    """Lance's commit, which fails as a full disk does, before the version is made or after."""
    commit = lance.LanceDataset.commit

    def failing(*arguments: Any, **named: Any) -> Any:
        if after:
            commit(*arguments, **named)
        raise OSError("LanceError(IO): No space left on device (os error 28), /rust/lance-io/src/local.rs:1:1")

    return failing


def test_a_full_disk_fails_those_writes_only(birds: FeatureSet, monkeypatch: pytest.MonkeyPatch) -> None:
    birds.write(block(["a", "b"], 1)).result()
    mirror, before = Mirror(birds), files(birds, "data")
    with monkeypatch.context() as patch:
        patch.setattr(lance.LanceDataset, "commit", failing_commit(after=False))
        with pytest.raises(DiskFull, match="no space left") as caught:
            birds.write(block(["b", "c"], 2)).result()
        with pytest.raises(DiskFull):
            birds.delete(["a"]).result()
    assert ".rs" not in str(caught.value)
    assert files(birds, "data") == before, "what the failed attempts wrote is gone"
    birds.write(block(["d"], 3)).result()
    assert sorted(everything(birds)) == ["a", "b", "d"]
    assert mirror.agrees(birds)
    birds.prune(0)
    assert files(birds, "_deletions") == set()


def test_a_commit_that_fails_after_all_is_acknowledged(birds: FeatureSet, monkeypatch: pytest.MonkeyPatch) -> None:
    birds.write(block(["a"], 1)).result()
    mirror = Mirror(birds)
    with monkeypatch.context() as patch:
        patch.setattr(lance.LanceDataset, "commit", failing_commit(after=True))
        assert birds.write(block(["a", "b"], 2)).result() == WriteResult(birds.version, 1, 1)
    birds.write(block(["c"], 3)).result()
    assert sorted(everything(birds)) == ["a", "b", "c"]
    assert mirror.agrees(birds)


def test_what_happened_unseen_is_caught_up_with(birds: FeatureSet, monkeypatch: pytest.MonkeyPatch) -> None:
    """The commit succeeds but says it failed, and then the folder cannot even be opened: the next write finds out."""
    birds.write(block(["a"], 1)).result()
    mirror = Mirror(birds)

    def unreadable(path: Path) -> None:
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(lance.LanceDataset, "commit", failing_commit(after=True))
        patch.setattr(lance_io, "open_dataset", unreadable)
        with pytest.raises(DiskFull):
            birds.write(block(["a", "b"], 2)).result()
    birds.write(block(["c"], 3)).result()
    assert sorted(everything(birds)) == ["a", "b", "c"]
    assert mirror.agrees(birds)


def test_a_panic_is_an_error_of_its_writers(birds: FeatureSet, monkeypatch: pytest.MonkeyPatch) -> None:
    class Panic(BaseException):
        pass

    def panic(*_: Any) -> None:
        raise Panic("not yet implemented")

    with monkeypatch.context() as patch:
        patch.setattr(lance_io, "write_rows", panic)
        with pytest.raises(TopworkError, match="not yet implemented"):
            birds.write(block(["a"])).result()
    assert birds.write(block(["a"])).result().inserted == 1


def test_a_bad_filter_fails_its_deletion_only(birds: FeatureSet, together: Callable[[], None]) -> None:
    written, deleted, later = birds.write(block(["a"])), birds.delete(None, "nope = 3"), birds.write(block(["b"]))
    together()
    with pytest.raises(InvalidInput, match="'nope'"):
        deleted.result()
    assert written.result().inserted == later.result().inserted == 1


def test_closing_finishes_what_waits_and_takes_no_more(birds: FeatureSet) -> None:
    futures = [birds.write(block([id])) for id in names(0, 50)]
    birds.close()
    assert all(future.done() for future in futures)
    assert birds.describe().items == 50
    with pytest.raises(Unavailable, match="'birds'"):
        birds.write(block(["late"]))


def test_a_writer_that_left_is_not_written_for(birds: FeatureSet, together: Callable[[], None]) -> None:
    left, stays = birds.write(block(["left"])), birds.write(block(["stays"]))
    assert left.cancel()
    together()
    stays.result()
    assert sorted(everything(birds)) == ["held", "stays"]


def files(feature_set: FeatureSet, folder: str) -> set[Path]:
    return set((feature_set.path / folder).glob("*"))


def test_many_sets_share_a_few_threads(sets: FeatureSets) -> None:
    before = committing()
    made = [sets.create(wanted(f"set{number}")) for number in range(MOST_THREADS + 12)]
    for _ in range(3):
        for future in [one.write(block(["a"])) for one in made]:
            future.result()
    assert 1 <= len(committing() - before) <= MOST_THREADS
    assert all(one.describe().items == 1 for one in made)


def committing() -> set[threading.Thread]:
    return {thread for thread in threading.enumerate() if thread.name.startswith("commits-")}


def test_a_set_that_writes_much_does_not_keep_the_others_waiting(tmp_path: Path) -> None:
    """With one thread for all: the second set's write comes before the rest of the first's."""
    threads, reached, go = DaemonPool(1), threading.Event(), threading.Event()

    def held() -> None:
        reached.set()
        assert go.wait(60)

    order: list[str] = []
    one, other = (CommitQueue(name, lambda group: None, lambda busy: None, threads) for name in ("one", "other"))
    one.put(CommitTask(held))
    assert reached.wait(60)
    tasks = [CommitTask(lambda: order.append("one")) for _ in range(5)] + [CommitTask(lambda: order.append("other"))]
    for task in tasks:
        (other if task is tasks[-1] else one).put(task)
    go.set()
    for task in tasks:
        task.future.result(60)
    assert order.index("other") < 2
    one.close()
    other.close()


def test_without_memory_the_writers_are_told_and_the_set_goes_on(
    birds: FeatureSet, together: Callable[[], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    waiting = [birds.write(block([id])) for id in "abc"]

    def no_memory(*arguments: object) -> None:
        raise MemoryError

    monkeypatch.setattr(CommitQueue, "_fits_group", no_memory)  # between two commits, where no commit has taken an operation
    together()
    for future in waiting:
        with pytest.raises(Overloaded, match="no room left"):
            future.result(60)
    monkeypatch.undo()
    assert birds.write(block(["d"])).result(60).inserted == 1


def test_without_a_thread_the_writers_are_told(sets: FeatureSets, monkeypatch: pytest.MonkeyPatch) -> None:
    feature_set = sets.create(wanted("lonely"))

    def no_thread(self: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", no_thread)
        with pytest.raises(Overloaded, match="new thread"):
            feature_set.write(block(["a"])).result(60)
    assert feature_set.write(block(["a"])).result(60).inserted == 1


def test_threads_that_have_nothing_to_do_end() -> None:
    before, threads, ran = committing(), DaemonPool(2, idle_seconds=0.01), threading.Event()
    for _ in range(2):
        ran.clear()
        threads.submit(ran.set)
        assert ran.wait(60)
        for thread in committing() - before:
            thread.join(60)
            assert not thread.is_alive()

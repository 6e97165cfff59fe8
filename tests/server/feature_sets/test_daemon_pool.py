"""Calls that are made side by side: at a time, to their ends, and also where no thread can be had."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from topwork_server.feature_sets import daemon_pool


def test_files_of_one_commit_wait_for_the_disk_together() -> None:
    together = threading.Barrier(3)
    assert sorted(daemon_pool.run_parallel([lambda: together.wait(20)] * 3)) == [0, 1, 2]


def test_results_are_in_the_order_of_the_calls_and_nothing_needs_no_thread() -> None:
    assert daemon_pool.run_parallel([lambda: "a", lambda: "b", lambda: "c"]) == ["a", "b", "c"]
    assert daemon_pool.run_parallel([]) == []


def test_an_error_is_raised_once_all_have_ended() -> None:
    done: list[int] = []

    def fail() -> None:
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space"):
        daemon_pool.run_parallel([fail, lambda: done.append(1), lambda: done.append(2)])
    assert sorted(done) == [1, 2]


def test_where_no_thread_can_be_had_the_caller_does_it_all(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def refuse(turn: Callable[[], None]) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(daemon_pool._threads, "submit", refuse)
    (tmp_path / "a").write_bytes(b"a")
    daemon_pool.sync([tmp_path / "a", tmp_path])
    with pytest.raises(FileNotFoundError):
        daemon_pool.sync([tmp_path, tmp_path / "gone"])

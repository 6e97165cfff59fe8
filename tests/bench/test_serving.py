"""The bench's own parts: what counts as answered, who is asked when, what a cut-off run keeps, and the page."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks import processes
from benchmarks.serving import load, page, plan, results
from benchmarks.serving.load import Tally
from benchmarks.serving.parts import PARTS
from benchmarks.serving.peers import Item, Model, Peer, Rows
from benchmarks.serving.results import Results, chosen, middle


def tally(seconds: float) -> Tally:
    now = time.perf_counter()
    return Tally(now, now + seconds)


def test_a_request_counts_by_the_share_of_its_time_within_the_clock() -> None:
    now = time.perf_counter()
    measured = Tally(now - 1, now + 1000)
    measured.answered(now - 2, 100, 100)
    assert measured.rows == pytest.approx(50, rel=0.05)
    measured.answered(now - 2, 1, 1, whole=True)
    assert measured.rows == pytest.approx(51, rel=0.05)


def test_a_closed_loop_keeps_so_many_requests_under_way() -> None:
    under_way, most = 0, 0

    async def send(items: Sequence[Item]) -> int:
        nonlocal under_way, most
        under_way += 1
        most = max(most, under_way)
        await asyncio.sleep(0)
        under_way -= 1
        return len(items)

    found = tally(0.05)
    asyncio.run(load.closed(send, ["a", "b", "c"], 5, 2, found))
    assert most == 5
    assert found.rows > 10
    assert not found.errors


def test_an_open_loop_goes_on_whatever_becomes_of_the_requests() -> None:
    async def send(items: Sequence[Item]) -> int:
        raise ConnectionError("gone")

    found = tally(0.1)
    asyncio.run(load.opened(send, ["a"], 1000, found))
    assert found.errors["ConnectionError"] > 1
    assert found.due >= found.errors["ConnectionError"]


def test_a_stream_counts_whole_calls() -> None:
    async def send(items: Sequence[Item]) -> int:
        await asyncio.sleep(0.001)
        return len(items)

    found = tally(0.0)
    asyncio.run(load.streamed(send, ["a", "b"], 3, found))
    assert found.rows == 6
    assert found.began < found.ended < float("inf")


def test_a_worker_that_dies_is_named_with_its_status() -> None:
    with (
        processes.Worker("no_such_module") as worker,
        pytest.raises(processes.WorkerError, match="no_such_module ended with status 1"),
    ):
        worker.ask("anything")
    assert worker.process.poll() is not None


class Slow(Peer):
    name = "slow"

    def start(self, model: Model) -> str:
        raise NotImplementedError

    def stop(self) -> None: ...

    def pids(self) -> Sequence[int]:
        return []

    def versions(self) -> dict[str, str]:
        return {}

    async def connect(self, address: str) -> None: ...

    async def embed(self, items: Sequence[Item]) -> Rows:
        return np.zeros((len(items), 1), np.float32)


class Ours(Slow):
    name = "topwork cpu"
    streams = True


def test_contenders_take_turns_and_peers_may_have_fewer_rounds() -> None:
    turns = plan.turns(PARTS["text"], [Ours, Slow], {"rounds": 3, "peer_rounds": 2, "open_rounds": 1})
    assert [turn.key for turn in turns] == ["topwork cpu 0", "slow 0", "slow 1", "topwork cpu 1", "topwork cpu 2"]
    assert [turn.open_loop for turn in turns] == [True, True, False, False, False]


SETTINGS = {"rounds": 1, "peer_rounds": 1, "open_rounds": 1, "seconds": 1.0}


def test_a_run_goes_on_from_its_file_unless_the_settings_changed(tmp_path: Path) -> None:
    path = tmp_path / "results.json"
    first = Results(path)
    first.part("text", SETTINGS)["done"].append("slow 0")
    first.save()
    assert Results(path).part("text", SETTINGS)["done"] == ["slow 0"]
    assert Results(path).part("text", SETTINGS | {"seconds": 2.0})["done"] == []
    assert Results(path, again=True).part("text", SETTINGS)["done"] == []


def test_figures_of_another_machine_are_put_aside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "results.json"
    first = Results(path)
    first.part("text", SETTINGS)["done"].append("slow 0")
    first.save()
    monkeypatch.setattr(results, "machine", lambda: {"processor": "another"})
    assert Results(path).part("text", SETTINGS)["done"] == []
    assert (tmp_path / "results.json.old").exists()


def stored() -> dict[str, Any]:
    """Two contenders of texts, one of them ours."""
    records = [
        {"contender": name, "round": 0, "load": "closed", "callers": callers, "size": 1, "rows_per_s": rate * callers,
         "items_per_s": rate * callers, "p50_ms": 5.0, "p99_ms": 9.0, "server_cores": 1.5, "client_cores": 0.2,
         "ceiling": ceiling, "call_ms": 4.5 if ceiling else None}
        for name, rate, ceiling in (("topwork cpu", 6.0, 400.0), ("slow", 2.0, None))
        for callers in (1, 16, 64)
    ]  # fmt: skip
    records += [{"contender": "slow", "round": 0, "load": "open", "rate": 50.0, "rows_per_s": 50.0, "p99_ms": 20.0}]
    about = {"device": "cpu fp32", "versions": {"slow": "1.0"}}
    return {"settings": SETTINGS, "commit": "abc", "began": "today", "contenders": {"topwork cpu": about, "slow": about},
            "records": records, "failed": {"other 0": "it would not start"}, "done": []}  # fmt: skip


def test_the_page_tells_which_targets_are_reached_and_keeps_the_rest(tmp_path: Path) -> None:
    written = tmp_path / "benchmarks.md"
    written.write_text(f"# Mine\n\n{page.BEGIN}\nold\n{page.END}\n\n## Also mine\n")
    found = {"machine": results.machine(), "parts": {"text": stored()}}
    page.write(found, written)
    once = written.read_text()
    page.write(found, written)
    assert written.read_text() == once
    assert once.startswith("# Mine\n")
    assert once.endswith("## Also mine\n")
    assert "old" not in once
    assert "share of the ceiling | >= 0.85 | 0.96 | yes |" in once
    assert "times the best peer (slow) at the most callers | >= 2 | 3 | yes |" in once
    assert "above the call in process, ms | <= 1 | 0.5 | yes |" in once
    assert "|  | 50 |\n| --- | --- |\n| **topwork cpu** |  |\n| slow | 20 |" in once
    assert "other 0, round 1: not measured: it would not start" in once


def test_medians_leave_out_what_was_not_measured() -> None:
    part = stored()
    assert middle(chosen(part, "slow", "closed"), "ceiling") is None
    assert middle(chosen(part, "slow", "closed", callers=16), "rows_per_s") == 32.0

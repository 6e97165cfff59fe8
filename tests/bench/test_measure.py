"""Turns, ratios and loops of the benchmarks."""

from __future__ import annotations

import asyncio

from benchmarks import measure


def test_every_second_round_goes_backwards() -> None:
    asked: list[str] = []
    found = measure.turns({name: lambda name=name: asked.append(name) or len(asked) for name in "ab"}, 3)
    assert asked == ["a", "b", "b", "a", "a", "b"]
    assert found == {"a": [1, 4, 5], "b": [2, 3, 6]}


def test_a_ratio_is_taken_within_its_round() -> None:
    assert measure.median_ratio([10.0, 100.0, 30.0], [5.0, 50.0, 10.0]) == 2.0


def test_a_loop_ends_when_there_is_no_more() -> None:
    calls: list[int] = []
    assert measure.loop(calls.append, 60.0, lambda: len(calls) < 3)["p50_ms"] >= 0
    assert calls == [0, 1, 2]


def test_concurrent_callers_wait_each_for_its_own_answer() -> None:
    under_way, most = 0, 0

    async def call(number: int) -> None:
        nonlocal under_way, most
        under_way, most = under_way + 1, max(most, under_way + 1)
        await asyncio.sleep(0)
        under_way -= 1

    assert asyncio.run(measure.concurrent_loop(call, 5, 0.05))["per_s"] > 0
    assert most == 5


def test_a_table_has_three_significant_digits() -> None:
    lines = measure.table(["", "rate"], [["ours", 1234.5], ["theirs", None]]).splitlines()
    assert lines[2:] == ["| ours | 1,230 |", "| theirs |  |"]

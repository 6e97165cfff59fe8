"""Loops that time calls, ratios of pairs, and tables. It needs numpy alone, so that it runs in every side's own environment."""

from __future__ import annotations

import asyncio
import itertools
import json
import statistics
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

Figures = dict[str, float]


def percentiles(seconds: Sequence[float], of: Sequence[int] = (50, 99)) -> Figures:
    """Milliseconds, as p50_ms and so on; NaN without a measurement."""
    return {f"p{q}_ms": 1e3 * float(np.percentile(seconds, q)) if len(seconds) else float("nan") for q in of}


def loop(call: Callable[[int], object], seconds: float, more: Callable[[], bool] = lambda: True) -> Figures:
    """Calls a second (`per_s`) of one caller and their percentiles; `call` gets its number. Ends early without `more`."""
    times: list[float] = []
    began = time.perf_counter()
    while (sent := time.perf_counter()) < began + seconds and more():
        call(len(times))
        times.append(time.perf_counter() - sent)
    return {"per_s": len(times) / (time.perf_counter() - began), **percentiles(times)}


async def concurrent_loop(call: Callable[[int], Awaitable[object]], callers: int, seconds: float) -> Figures:
    """Measure as `loop` does, with many callers that each wait for their answer; `requests` counts all that were answered. The
    last request of each caller counts by its share within the time: where requests are long, whole ones would be too few to
    compare."""
    times: list[float] = []
    within = 0.0
    numbers = itertools.count()
    ended = time.perf_counter() + seconds

    async def caller() -> None:
        nonlocal within
        while (sent := time.perf_counter()) < ended:
            await call(next(numbers))
            times.append(took := time.perf_counter() - sent)
            within += min(1.0, (ended - sent) / took)

    await asyncio.gather(*(caller() for _ in range(callers)))
    return {"per_s": within / seconds, "requests": len(times), **percentiles(times)}


def rate(work: Callable[[], int], seconds: float) -> float:
    """Items a second of calls that return how many items they did; at least one call is made."""
    began, count = time.perf_counter(), 0
    while True:
        count += work()
        if (took := time.perf_counter() - began) > seconds:
            return count / took


def turns(works: Mapping[str, Callable[[], Any]], rounds: int) -> dict[str, list[Any]]:
    """Return what each work returned, a value a round. Every second round goes backwards, so that a drift of speed cancels."""
    found: dict[str, list[Any]] = {name: [] for name in works}
    for number in range(rounds):
        for name in list(works)[:: 1 if number % 2 == 0 else -1]:
            found[name].append(works[name]())
    return found


def medians(records: Sequence[Mapping[str, float]]) -> Figures:
    """The median of each key."""
    return {key: statistics.median(record[key] for record in records) for key in records[0]}


def median_ratio(measured: Sequence[float], references: Sequence[float]) -> float:
    """Median of the rounds' own ratios: shared machines change their speed from minute to minute, alike for both of a round."""
    return statistics.median(a / b for a, b in zip(measured, references, strict=True))


def number(value: object) -> str:
    """Three significant digits of a float, thousands apart; all else as it is."""
    if not isinstance(value, float):
        return "" if value is None else str(value)
    return f"{float(f'{value:.3g}'):,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def table(header: Sequence[object], lines: Iterable[Sequence[object]]) -> str:
    """Markdown."""
    rows = [header, ["---"] * len(header), *lines]
    return "\n".join(f"| {' | '.join(map(number, row))} |" for row in rows) + "\n"


def show(figures: Mapping[str, Any], as_json: bool = False) -> None:
    """Print figures, a line each, or all as one line of JSON."""
    if as_json:
        print(json.dumps(figures), flush=True)
        return
    for name, value in figures.items():
        shown = ", ".join(f"{key} {number(v)}" for key, v in value.items()) if isinstance(value, Mapping) else number(value)
        print(f"{name:>44}  {shown}", flush=True)

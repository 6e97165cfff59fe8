"""How far long work has come: a bar for people, a function for programs."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeAlias

#: True for a bar on a terminal's stderr; a function of (items done, items in all or None); or nothing.
Progress: TypeAlias = bool | Callable[[int, int | None], object] | None


@contextmanager
def reporting(progress: Progress, total: int | None, label: str) -> Iterator[Callable[[int], None]]:
    """Yields a function to be called with the number of items that were just done."""
    if callable(progress):
        yield _counting(progress, total)
    elif progress and sys.stderr.isatty():
        with _bar(total, label) as advance:
            yield advance
    else:
        yield lambda count: None


def _counting(report: Callable[[int, int | None], object], total: int | None) -> Callable[[int], None]:
    done = 0

    def advance(count: int) -> None:
        nonlocal done
        done += count
        report(done, total)

    return advance


@contextmanager
def _bar(total: int | None, label: str) -> Iterator[Callable[[int], None]]:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

    rate = TextColumn("{task.fields[rate]}")
    columns = (TextColumn(label), BarColumn(), MofNCompleteColumn(), rate, TimeElapsedColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(label, total=total, rate="")

        def advance(count: int) -> None:
            bar.advance(task, count)
            speed = bar.tasks[0].speed
            bar.update(task, rate=f"{speed:,.0f}/s" if speed else "")

        yield advance

"""Progress of long work: a bar for people, a function for programs."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeAlias

from topwork.jobs import Job, JobProgress

#: True for a bar on a terminal's stderr; a function of (items done, items in all or None); or nothing.
Progress: TypeAlias = bool | Callable[[int, int | None], object] | None


#: Called with the number of items that were just done, and how many there are in all where only that call knows it.
Advance: TypeAlias = Callable[..., None]


@contextmanager
def reporting(progress: Progress, total: int | None, label: str) -> Iterator[Advance]:
    """Yield a function to be called as items are done."""
    if callable(progress):
        yield _counting(progress, total)
    elif progress and sys.stderr.isatty():
        with _bar(total, label) as advance:
            yield advance
    else:
        yield lambda count, total=None: None


def _counting(report: Callable[[int, int | None], object], total: int | None) -> Advance:
    done, known = 0, total

    def advance(count: int, total: int | None = None) -> None:
        nonlocal done, known
        done, known = done + count, known if total is None else total
        report(done, known)

    return advance


@contextmanager
def watching(progress: JobProgress, label: str) -> Iterator[Callable[[Job], object]]:
    """Yield a function to be called with a job at each change."""
    if callable(progress):
        yield progress
    elif progress and sys.stderr.isatty():
        with _job_bar(label) as show:
            yield show
    else:
        yield lambda job: None


@contextmanager
def _job_bar(label: str) -> Iterator[Callable[[Job], object]]:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn

    message = TextColumn("{task.fields[message]}", markup=False)
    columns = (TextColumn(label, markup=False), BarColumn(), TaskProgressColumn(), TimeElapsedColumn(), message)
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(label, total=1.0, message="")
        yield lambda job: bar.update(task, completed=job.fraction, message=job.message)


@contextmanager
def _bar(total: int | None, label: str) -> Iterator[Advance]:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

    rate = TextColumn("{task.fields[rate]}")
    columns = (
        TextColumn(label, markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        rate,
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(label, total=total, rate="")

        def advance(count: int, total: int | None = None) -> None:
            bar.update(task, advance=count, total=total)
            speed = bar.tasks[0].speed
            bar.update(task, rate=f"{speed:,.0f}/s" if speed else "")

        yield advance

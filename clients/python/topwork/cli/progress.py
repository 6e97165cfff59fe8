"""How far a write or a job has come: a bar on a terminal's stderr, a line now and then where there is none."""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from topwork._display.number_text import counted
from topwork.cli.output import cut, seconds
from topwork.jobs import Job

#: Seconds between lines where there is no terminal.
INTERVAL = 5.0
COUNTS = re.compile(r"[\d.,]+")


@contextmanager
def of_items(total: int | None, quiet: bool, clock: Callable[[], float] = time.monotonic) -> Iterator[Callable[[int, str], None]]:
    """Yield a function to call with how many items are done, and a text to show beside."""
    if quiet:
        yield lambda done, text: None
    elif sys.stderr.isatty():
        with _item_bar(total, clock) as show:
            yield show
    else:
        yield _item_lines(total, clock)


@contextmanager
def _item_bar(total: int | None, clock: Callable[[], float]) -> Iterator[Callable[[int, str], None]]:
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn

    started = clock()
    with _bar(BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[text]}")) as bar:
        task = bar.add_task("", total=total, text="")

        def show(done: int, text: str) -> None:
            bar.update(task, completed=done, text=f"{_pace(done, total, clock() - started)}: {text}")

        yield show


def _bar(*columns: Any) -> Any:
    from rich.console import Console
    from rich.progress import Progress

    return Progress(*columns, console=Console(stderr=True), transient=True)


def _item_lines(total: int | None, clock: Callable[[], float]) -> Callable[[int, str], None]:
    started = last = clock()

    def show(done: int, text: str) -> None:
        nonlocal last
        now = clock()
        if now - last < INTERVAL:
            return
        last = now
        print(_line(done, total, now - started, text), file=sys.stderr, flush=True)

    return show


def _line(done: int, total: int | None, elapsed: float, text: str) -> str:
    """Format as "12,000 of 50,000 items, 161/s, 3 min 56 s left: 11,000 encoded, 1,000 known already"."""
    of = f"{done:,} of {counted(total, 'item')}" if total else counted(done, "item")
    return f"{of}, {_pace(done, total, elapsed)}: {text}"


def _pace(done: int, total: int | None, elapsed: float) -> str:
    rate = done / elapsed if elapsed > 0 else 0.0
    left = f", {seconds((total - done) / rate)} left" if total and rate and done < total else ""
    return f"{rate:,.0f}/s{left}"


@contextmanager
def of_job(quiet: bool, clock: Callable[[], float] = time.monotonic) -> Iterator[Callable[[Job], None]]:
    """Yield a function to call with the job at each change."""
    if quiet:
        yield lambda job: None
    elif sys.stderr.isatty():
        with _job_bar() as show:
            yield show
    else:
        yield _job_lines(clock)


@contextmanager
def _job_bar() -> Iterator[Callable[[Job], None]]:
    from rich.progress import BarColumn, TaskProgressColumn, TextColumn

    text = TextColumn("{task.fields[text]}", markup=False)
    with _bar(TextColumn("{task.description}", markup=False), BarColumn(), TaskProgressColumn(), text) as bar:
        task = bar.add_task("", total=1.0, text="")

        def show(job: Job) -> None:
            bar.update(task, completed=job.fraction, description=job.subject, text=_doing(job))

        yield show


def _job_lines(clock: Callable[[], float]) -> Callable[[Job], None]:
    """Print a line when the job does something else than to count on, now and then, and when it is done."""
    last, doing = clock() - INTERVAL, ""

    def show(job: Job) -> None:
        nonlocal last, doing
        now = COUNTS.sub("", job.message)
        if job.running and (now != doing or clock() - last >= INTERVAL):
            last, doing = clock(), now
            print(f"{job.subject}: {job.fraction:.0%}, {_doing(job, 200)}", file=sys.stderr, flush=True)
        elif job.state == "done" and doing:
            print(f"{job.subject}: 100%", file=sys.stderr, flush=True)

    return show


def _doing(job: Job, width: int = 60) -> str:
    left = f"{seconds(job.seconds_left)} left" if job.seconds_left and job.running else ""
    return ", ".join(text for text in (cut(job.message, width), left) if text)

"""`topwork jobs`: long work on the server."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, contextmanager
from types import SimpleNamespace

import click

from topwork.cli import output, progress
from topwork.cli.connection import connected, connection
from topwork.cli.verb import verb
from topwork.client import Client
from topwork.jobs import Job
from topwork.pretraining import PretrainReport
from topwork.probes import ProbeTable

EXAMPLES = """\
examples:
  topwork jobs
  topwork jobs 7c41 --watch
  topwork jobs 7c41 --cancel
"""


@verb(EXAMPLES, only_with={"watch": ("id",), "cancel": ("id",)}, not_with={"watch": ("cancel",)})
@click.argument("id", required=False, metavar="[ID]")
@click.option("--watch", is_flag=True, help="until it has ended; status 1 where it did not end well")
@click.option("--cancel", is_flag=True, help="end it")
@connection
def jobs(arguments: SimpleNamespace) -> int:
    with connected(arguments) as client:
        if not arguments.id:
            return _list(client, arguments)
        if arguments.watch:
            job = follow(client, arguments.id, arguments.json)
        else:
            job = client.cancel_job(arguments.id) if arguments.cancel else client.job(arguments.id)
    if arguments.json:
        output.as_json(job)
    else:
        output.facts(_facts(job))
        if job.kind == "probe" and job.result:
            print(f"\n{ProbeTable.of(job)}")
        if job.kind == "pretrain" and job.result:
            print(f"\n{PretrainReport.of(job)}")
    return 1 if arguments.watch and job.state != "done" else 0


def follow(client: Client, id: str, quiet: bool) -> Job:
    """Show how far the job has come until it has ended, and return it. Ctrl-C ends the watching, not the job."""
    with closing(client.watch_job(id)) as changes, progress.of_job(quiet) as show:
        try:
            for job in changes:
                show(job)
        except KeyboardInterrupt:
            if not quiet:
                say_it_goes_on(id)
            raise
    return job


class JobWatch:
    """A progress that shows the job, and remembers it."""

    def __init__(self, show: Callable[[Job], object]) -> None:
        self.job: Job | None = None
        self._show = show

    def __call__(self, job: Job) -> None:
        self.job = job
        self._show(job)


@contextmanager
def awaited(quiet: bool) -> Iterator[JobWatch]:
    """Yield what a verb that waits for a job takes as its progress. Ctrl-C ends the waiting, not the job."""
    with progress.of_job(quiet) as show:
        seen = JobWatch(show)
        try:
            yield seen
        except KeyboardInterrupt:
            if seen.job and not quiet:
                say_it_goes_on(seen.job.id)
            raise


def say_it_goes_on(id: str) -> None:
    output.say(f"it goes on in the server: `topwork jobs {id} --watch` shows it, --cancel ends it")


def _list(client: Client, arguments: SimpleNamespace) -> int:
    found = client.jobs()
    if arguments.json:
        output.as_json(found)
    elif not found:
        output.console().print("there are no jobs", style="dim")
    else:
        table = output.table("job", "what", "state", "done", "begun", "", right=("done",), whole=("job", "begun"))
        output.rows(table, (_line(job) for job in found))
    return 0


def _line(job: Job) -> Iterable[str]:
    text = job.error or job.message
    return job.id, f"{job.kind} {job.subject}", job.state, f"{job.fraction:.0%}", output.when(job.created), text


def _facts(job: Job) -> Iterable[tuple[str, str]]:
    yield "job", job.id
    yield "what", f"{job.kind} {job.subject}"
    yield "state", f"{job.state}, {job.fraction:.0%}" if job.running else job.state
    if job.message and job.running:
        yield "now", job.message
    if job.error:
        yield "error", job.error
    yield "begun", output.when(job.created)
    if job.ended:
        yield "ended", f"{output.when(job.ended)}, after {output.seconds((job.ended - job.created).total_seconds())}"
    if job.seconds_left:
        yield "left", output.seconds(job.seconds_left)

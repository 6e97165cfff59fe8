"""Long work on the server."""

from __future__ import annotations

import time
from collections.abc import Callable

from topwork._codec import decode_sets
from topwork._ops.progress_bar import watching
from topwork._transport.calls import ClientState, Steps, StreamCall, unary
from topwork._transport.methods import CANCEL_JOB, GET_JOB, LIST_JOBS, WATCH_JOB
from topwork._transport.streams import DownloadStream
from topwork.errors import DeadlineExceeded, JobFailed
from topwork.jobs import Job, JobProgress
from topwork.v1 import jobs_pb2


def jobs(session: ClientState, kind: str = "", subject: str = "", *, timeout: float | None = None) -> Steps[list[Job]]:
    """Jobs that run and that have ended, newest first: all, or those of a kind ("index", "train") or subject ("birds/pooled")."""
    reply = yield from unary(LIST_JOBS, jobs_pb2.ListJobsRequest(kind=kind, subject=subject), timeout)
    return [decode_sets.job(message) for message in reply.jobs]


def job(session: ClientState, id: str, *, timeout: float | None = None) -> Steps[Job]:
    """One job, as it stands now. Raises NotFound."""
    return decode_sets.job((yield from unary(GET_JOB, jobs_pb2.GetJobRequest(id=id), timeout)))


def watch_job(session: ClientState, id: str, *, timeout: float | None = None) -> Steps[StreamCall[Job]]:
    """The job as it stands, then again at each change, until it has ended: the last one says how. Raises NotFound.

    `timeout` in seconds is for all of it; None watches as long as it takes. A server that restarts meanwhile is met with retries.
    """
    yield from ()
    request = jobs_pb2.WatchJobRequest(id=id)
    return StreamCall(
        WATCH_JOB, DownloadStream(session, lambda: request, timeout, in_all=True), lambda reply, _: decode_sets.job(reply)
    )


def cancel_job(session: ClientState, id: str, *, timeout: float | None = None) -> Steps[Job]:
    """End a job, and its process. One that has ended stays as it is. Raises NotFound."""
    return decode_sets.job((yield from unary(CANCEL_JOB, jobs_pb2.CancelJobRequest(id=id), timeout)))


def ended(session: ClientState, job: Job, show: Callable[[Job], object], timeout: float | None) -> Steps[Job]:
    """The job once it has ended; `show` is called at each change. For verbs that wait."""
    seen = [job]

    def receive(reply: jobs_pb2.Job, _: None) -> None:
        seen.append(decode_sets.job(reply))
        show(seen[-1])

    request = jobs_pb2.WatchJobRequest(id=job.id)
    try:
        yield StreamCall(WATCH_JOB, DownloadStream(session, lambda: request, timeout, in_all=True), receive)
    except DeadlineExceeded:
        raise unfinished(seen[-1]) from None
    return seen[-1]


def done(session: ClientState, job: Job, label: str, progress: JobProgress, timeout: float | None) -> Steps[Job]:
    """The job, which is done; else JobFailed."""
    with watching(progress, label) as show:
        job = yield from ended(session, job, show, timeout)
    if job.state != "done":
        raise JobFailed(job)
    return job


def left(timeout: float | None, started: float) -> float | None:
    """Compute the seconds that are left of a timeout which began at `started`, by time.monotonic()."""
    return None if timeout is None else max(0.0, started + timeout - time.monotonic())


def unfinished(job: Job) -> DeadlineExceeded:
    """Make the error for a wait that ended before its job."""
    message = f", {job.message}" if job.message else ""
    return DeadlineExceeded(
        f"{job.kind} job {job.id} on {job.subject!r} is not done in time: {job.fraction:.0%}{message}",
        remedy=f"it goes on: `watch_job({job.id!r})` waits for it; or pass a longer `timeout`",
    )

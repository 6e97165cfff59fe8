"""What a caller who waited in vain is told: what the server was doing, and under which name it goes on."""

from __future__ import annotations

from topwork._codec import messages
from topwork._transport.calls import ClientState, Steps, unary
from topwork._transport.methods import GET_ENCODER
from topwork.errors import DeadlineExceeded, TopworkError
from topwork.jobs import Job
from topwork.v1 import encoders_pb2

#: Seconds that the server is given to say what it does.
SOON = 2.0
IDLE = ("ready", "loaded")


def explained(session: ClientState, encoder: str, error: DeadlineExceeded) -> Steps[DeadlineExceeded]:
    """The error with what the encoder was doing: its first use exports, measures and loads it."""
    if not encoder:
        return error
    try:
        reply = yield from unary(GET_ENCODER, encoders_pb2.GetEncoderRequest(name=encoder), SOON)
    except TopworkError:
        return error
    info = messages.encoder(reply)
    if info.state not in IDLE or info.detail:
        error.message += f"; {encoder} is {info.state}" + (f": {info.detail}" if info.detail else "")
    return error


def unfinished(job: Job) -> DeadlineExceeded:
    """The error of a caller who waited for the end of a job."""
    said = f", {job.message}" if job.message else ""
    return DeadlineExceeded(
        f"{job.kind} job {job.id} on {job.subject!r} is not done in time: {job.fraction:.0%}{said}",
        remedy=f"it goes on: `topwork jobs {job.id} --watch` or watch_job({job.id!r}) waits; or pass a longer timeout",
    )

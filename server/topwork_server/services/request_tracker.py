"""Tracks what is in flight through every door, and is the one place where any error becomes one of ours.

An error that leaves here lets go of its traceback once its door has told it (`release`). Its frames hold the request, and often
the error itself: such a cycle of 60 MiB would stay until Python's collector looks, which counts objects and not bytes.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, TypeVar

from topwork_server.access.caller import was_granted
from topwork_server.access.gate import Gate
from topwork_server.errors import Overloaded, Refused, TopworkError, Unavailable, exhausted
from topwork_server.feature_sets import lance_io
from topwork_server.histogram import SECONDS, BucketHistogram
from topwork_server.plugin_crashes import contained
from topwork_server.telemetry import OFF, Telemetry

#: Seconds in which a server that stops may be back.
BACK = 1.0

T = TypeVar("T")
#: Called with whatever a callback is given.
Sent = Callable[[Any], None]
log = logging.getLogger(__name__)


class RequestTracker:
    """Counts requests by method and status, translates their errors, and drains."""

    def __init__(self, gate: Gate, telemetry: Telemetry = OFF) -> None:
        self.gate, self.telemetry = gate, telemetry
        self.counts: Counter[tuple[str, str]] = Counter()
        self.seconds: defaultdict[str, BucketHistogram] = defaultdict(lambda: BucketHistogram(SECONDS))
        #: From then on new requests are refused, and streams that are open take no more messages.
        self.stopping = asyncio.Event()
        self._active: set[asyncio.Task[Any]] = set()
        self._unsent: set[asyncio.Task[Any]] = set()
        self._idle = asyncio.Event()
        self._idle.set()
        self._cut = False

    async def serve(
        self,
        method: str,
        work: Callable[[], Awaitable[T]],
        peer: str,
        sent: Callable[[Sent], object],
        *,
        full_name: str = "",
        headers: Mapping[str, str],
        traced: Callable[[str], object] = bool,
    ) -> T:
        """The result of one request's work, in flight until it has cleaned up, and until its reply has left: `sent` is given what
        to call then. Raises nothing but TopworkError, and CancelledError where its caller left. `full_name` names it in traces,
        `headers` are its metadata, which say who calls and may hold a trace context, and `traced` is given the request's own,
        where there are traces."""
        task, started, code = asyncio.current_task(), time.monotonic(), "OK"
        assert task is not None
        self._active.add(task)
        self._unsent.add(task)
        self._idle.clear()
        sent(lambda _: self._gone(self._unsent, task))
        try:
            with self.telemetry.call(full_name or method, headers, traced):
                return await self._run(work, method, headers)
        except TopworkError as error:
            code = error.code.name
            raise
        except asyncio.CancelledError:
            code = "CANCELLED"
            raise
        finally:
            self.counts[method, code] += 1
            self.seconds[method].observe(time.monotonic() - started)
            self._gone(self._active, task)
            if log.isEnabledFor(logging.DEBUG):
                log.debug("method=%s code=%s ms=%.1f peer=%s", method, code, (time.monotonic() - started) * 1e3, peer)

    @property
    def reads_headers(self) -> bool:
        """Tell whether the headers of requests mean anything here."""
        return self.telemetry.on or not self.gate.is_open

    def let_in(self, method: str, headers: Mapping[str, str]) -> None:
        """Let a request in, before its body is read. Refused (UNAUTHENTICATED, PERMISSION_DENIED) as the gate says, and counted.
        `serve` does it for those that were not let in before."""
        try:
            self.gate.let_in(method, headers)
        except Refused as error:
            self.counts[method, error.code.name] += 1
            raise

    async def _run(self, work: Callable[[], Awaitable[T]], method: str, headers: Mapping[str, str]) -> T:
        try:
            if not was_granted(method):
                self.gate.let_in(method, headers)
            if self.stopping.is_set():
                raise _stopping()
            return await work()
        except asyncio.CancelledError as error:
            if self._cut:
                raise Unavailable("the server stopped before the request was done", remedy="send it again") from error
            if _left(asyncio.current_task()):
                raise
            # something that this request waited for was stopped: nothing else would answer the caller
            raise Unavailable("what the request waited for was stopped", remedy="send it again") from error
        except Exception as error:
            found = _exhausted(error) or _as_ours(error)
            if found is error:
                raise
            raise found from error
        except GeneratorExit:  # the loop is closed
            raise
        except BaseException as error:
            raise (_internal() if lance_io.is_panic(error) else _as_ours(contained(error))) from error

    @property
    def in_flight(self) -> int:
        """Requests that are being worked on."""
        return len(self._active)

    async def idle(self) -> None:
        """Wait until nothing is in flight."""
        await self._idle.wait()

    def refuse(self) -> None:
        """Take no new requests, and of open streams no new messages."""
        self.stopping.set()

    async def drain(self, seconds: float) -> None:
        """Refuse new requests and wait for those accepted; after `seconds` the rest is cut off with UNAVAILABLE."""
        self.refuse()
        try:
            await asyncio.wait_for(self.idle(), seconds)
        except TimeoutError:
            await self.cut()

    async def cut(self) -> None:
        """End what is in flight with UNAVAILABLE."""
        self.refuse()
        self._cut = True
        for task in self._active | self._unsent:
            task.cancel()
        await self.idle()

    def _gone(self, tasks: set[asyncio.Task[Any]], task: asyncio.Task[Any]) -> None:
        tasks.discard(task)
        if not self._active and not self._unsent:
            self._idle.set()


def release(error: BaseException) -> None:
    """Let go of the frames that the error and those behind it came through."""
    errors: list[BaseException | None] = [error]
    seen: set[int] = set()
    while errors:
        one = errors.pop()
        if one is not None and id(one) not in seen:
            seen.add(id(one))
            one.__traceback__ = None
            errors += [one.__cause__, one.__context__]


def _as_ours(error: Exception) -> TopworkError:
    return error if isinstance(error, TopworkError) else _internal()


def _exhausted(error: Exception) -> Overloaded | None:
    found = exhausted(error)
    if found is not None:
        log.warning("%s", found.message)
    return found


def _stopping() -> Unavailable:
    """Return the error of a request that was not begun: a RetryInfo says that any such request may be sent again."""
    return Unavailable("the server is stopping", remedy="try again in a moment, or at another address", retry_after=BACK)


def _internal() -> TopworkError:
    mark = secrets.token_hex(4)
    log.exception("error=%s", mark)
    return TopworkError(f"internal error {mark}", remedy=f"the server's log has the reason under {mark}")


def _left(task: asyncio.Task[Any] | None) -> bool:
    """Tell whether the request itself was cancelled: its caller left, or its time is over."""
    return task is not None and task.cancelling() > 0

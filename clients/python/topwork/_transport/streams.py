"""Streams that outlast a break, with a watch over the time; and those of one request that many replies answer."""

from __future__ import annotations

import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, Generic, TypeVar

from google.protobuf.message import Message

from topwork._transport import status
from topwork._transport.calls import ClientState
from topwork._transport.retry import RetryPolicy
from topwork.errors import TopworkError

A = TypeVar("A")


class StreamRetries(ABC, Generic[A]):
    """gRPC itself never retries a stream of which a reply has come, so a long job would die with one restart of its server. Here
    a stream that broke is opened again for what has not been answered yet.

    `timeout` (seconds, None for no limit) is the longest wait in which nothing moves while a reply is due, or, with `in_all`, the
    longest that the whole may take. `release` is called once nothing is read any more. `method` names what is waited for.
    """

    method = ""
    #: The encoder whose work counts as movement, too; `activity` says what it has done. Without either only replies count.
    encoder = ""
    activity: Callable[[str], object] | None = None

    def __init__(
        self, session: ClientState, timeout: float | None, release: Callable[[], object] = bool, in_all: bool = False
    ) -> None:
        self.failure: BaseException | None = None
        self._session = session
        self._timeout = timeout
        self._release = release
        self._in_all = in_all
        self._changed = threading.Condition()
        self._abort: Callable[[], object] = bool
        self._patience = RetryPolicy(session.retry_for, reached=lambda: session.reached)
        self._moved = time.monotonic()
        self._reading = True
        self._watched = self._closed = False

    @abstractmethod
    def requests(self) -> Any:
        """The messages of one try; None where nothing is left to be asked."""

    @abstractmethod
    def answered(self) -> A:
        """Note a reply and what it answers. The clock stands until `reading`."""

    @abstractmethod
    def finish(self) -> None:
        """Note that the server ended the stream without an error. Raises where it should not have."""

    def _awaits(self) -> bool:
        """Tell whether a reply is due."""
        return True

    def _first(self) -> int:
        """The position of the first item that an error of the server counts from."""
        return 0

    def _over(self) -> None:
        """Note the end of the current try."""

    def opened(self, abort: Callable[[], object]) -> None:
        """Note the call of the current try; `abort` ends it from any thread."""
        with self._changed:
            self._abort = abort
            self._reading = True
            self._move()
        if self._closed:
            abort()
        elif self._timeout is not None and not self._watched:
            self._watched = True
            threading.Thread(target=self._watch, args=(self._timeout,), name="topwork-watch", daemon=True).start()

    def reading(self) -> None:
        with self._changed:
            self._reading = True
            self._move()

    def rest(self, error: TopworkError) -> None:
        """Wait until the next try; raises where there is none. The error's item is made the caller's."""
        if self.failure:
            raise self.failure
        self._session.heard(error)
        with self._changed:
            pause = self._patience.pause(error)
            if pause is None:
                raise error.shifted(self._first())
            self._over()
            self._reading = self._in_all
            self._changed.wait_for(lambda: self._closed or self.failure is not None, pause)
        if self.failure:
            raise self.failure

    def close(self) -> None:
        """End the stream: its replies are not read any more."""
        with self._changed:
            self._over()
            self._closed = True
            self._changed.notify_all()
        self._abort()
        self._release()

    def _progressed(self) -> None:
        """Count tries from zero after a reply, and stop the clock until `reading`."""
        self._session.heard()
        self._patience.reset()
        self._reading = self._in_all
        self._move()

    def _move(self) -> None:
        if not self._in_all:
            self._moved = time.monotonic()
        self._changed.notify_all()

    def _watch(self, timeout: float) -> None:
        """Half way into a silence the encoder's work is noted; at its end that has gone on, or the stream is given up."""
        noted: tuple[object] | None = None
        while True:
            with self._changed:
                if self._closed:
                    return
                due, left = self._reading and self._awaits(), self._moved + timeout - time.monotonic()
                if not due or left > timeout / 2:
                    noted = None
                    self._changed.wait(left - timeout / 2 if due else None)
                    continue
                if left > 0 and noted:
                    self._changed.wait(left)
                    continue
            work = self._work()
            if left > 0:
                noted = (work,)
            elif work is None or noted in (None, (work,)):
                break
            else:
                with self._changed:
                    self._move()
        self._give_up(timeout)

    def _work(self) -> object:
        return self.activity(self.encoder) if self.activity and self.encoder and not self._in_all else None

    def _give_up(self, timeout: float) -> None:
        method = "" if self.method == "Write" and not self.encoder else self.method  # ready vectors wait for no encoder
        with self._changed:
            self.failure = status.late(self._session.target, timeout, method)
            self._changed.notify_all()
        self._abort()


class DownloadStream(StreamRetries[None]):
    """A stream of replies. `ask()` makes the request for what has not come yet (None where all has), again after each break."""

    def __init__(
        self, session: ClientState, ask: Callable[[], Message | None], timeout: float | None, *, in_all: bool = False
    ) -> None:
        super().__init__(session, timeout, in_all=in_all)
        self._ask = ask

    def requests(self) -> Message | None:
        return self._ask()

    def answered(self) -> None:
        with self._changed:
            self._progressed()

    def finish(self) -> None:
        if self.failure:
            raise self.failure

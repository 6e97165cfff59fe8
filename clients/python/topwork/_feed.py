"""The sending half of a stream: chunks ahead of their replies by a bounded number, and again after a break."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, Generic, Protocol, TypeVar

from google.protobuf.message import Message

from topwork import _status
from topwork._calls import Session
from topwork._channel import FIRST_PAUSE, LONGEST_PAUSE
from topwork.errors import Overloaded, TopworkError, Unavailable

#: Chunks on their way: enough for the server to fill its batches, few enough to keep in memory until they are answered.
WINDOW = 8


class Sendable(Protocol):
    """A chunk: its messages, made anew each time that it is sent, and the position of its first item."""

    @property
    def start(self) -> int: ...

    def messages(self) -> Iterator[Any]: ...


C = TypeVar("C", bound=Sendable)


class Feed(Generic[C]):
    """Shared by a thread that sends (`requests`), the caller that reads replies, and a watch over the time.

    gRPC itself never retries a stream of which a reply has come, so a long job would die with one restart of its server. Here
    a stream that broke is opened again from the oldest chunk without a reply: each chunk is answered by itself, and
    unanswered ones are kept. The time limit is the longest wait in which nothing moves while a reply is due.
    """

    def __init__(
        self,
        session: Session,
        opening: Message,
        chunks: Iterator[C],
        timeout: float | None,
        release: Callable[[], object] = bool,
    ) -> None:
        self.failure: BaseException | None = None
        self._session = session
        self._opening = opening
        self._chunks = chunks
        self._timeout = session.timeout if timeout is None else timeout
        self._release = release
        self._pulling = threading.Lock()
        self._changed = threading.Condition()
        self._pending: dict[int, C] = {}
        self._answered = self._pulled = self._tries = 0
        self._run: object | None = None
        self._abort: Callable[[], object] = bool
        self._reading = True
        self._moved = time.monotonic()
        self._starved = self._watched = self._closed = False

    def requests(self) -> Iterator[Message]:
        """The messages of one try. It never raises: what went wrong is in `failure`, for the reader."""
        with self._changed:
            run, position = object(), self._answered
            self._run = None if self._closed else run
        return self._send(run, position)

    def _send(self, run: object, position: int) -> Iterator[Message]:
        try:
            yield self._opening
            while chunk := self._next(run, position):
                for message in chunk.messages():
                    yield message
                    self._touch()
                position += 1
        except Exception as error:
            self.failure = error

    def _next(self, run: object, position: int) -> C | None:
        """The chunk at that position, when the window has room for it; None at the end, or when the try is over."""
        with self._changed:
            self._changed.wait_for(lambda: self._run is not run or position < self._answered + WINDOW)
        with self._pulling:  # a try that broke may still wait for the caller's source: what it gets is kept, not lost
            if self._run is run and position == self._pulled:
                self._pull()
        with self._changed:
            return self._pending.get(position) if self._run is run else None

    def _pull(self) -> None:
        with self._changed:
            self._starved = True
        chunk = next(self._chunks, None)
        with self._changed:
            self._starved = False
            if chunk is not None:
                self._pending[self._pulled] = chunk
                self._pulled += 1
            self._move()

    def opened(self, abort: Callable[[], object]) -> None:
        """The try's call exists; `abort` ends it from any thread."""
        with self._changed:
            self._abort = abort
            self._reading = True
            self._move()
        if self._closed:
            abort()
        elif self._timeout is not None and not self._watched:
            self._watched = True
            threading.Thread(target=self._watch, args=(self._timeout,), name="topwork-watch", daemon=True).start()

    def answered(self) -> C:
        """A reply has come: the chunk that it answers. The clock stands until `reading`."""
        with self._changed:
            chunk = self._pending.pop(self._answered, None)
            if chunk is None:
                raise TopworkError(f"{self._session.target} sent more replies than it was asked for")
            self._answered += 1
            self._tries = 0
            self._reading = False
            self._move()
        return chunk

    def reading(self) -> None:
        with self._changed:
            self._reading = True
            self._move()

    def finish(self) -> None:
        """The server has ended the stream well. Raises what ended the sending early."""
        if self.failure:
            raise self.failure
        if self._pending:
            raise TopworkError(f"{self._session.target} ended the stream with {len(self._pending)} replies missing")

    def rest(self, error: TopworkError) -> None:
        """Wait until the next try; raises where there is none. The error's item is made the caller's."""
        if self.failure:
            raise self.failure
        with self._changed:
            oldest = self._pending.get(self._answered)
            if self._tries >= self._session.retries or not isinstance(error, Overloaded | Unavailable):
                raise error.shifted(oldest.start if oldest else 0)
            self._run, self._reading = None, False
            pause = min(FIRST_PAUSE * 2.0**self._tries, LONGEST_PAUSE) * random.uniform(0.8, 1.2)
            self._tries += 1
            self._changed.wait_for(lambda: self._closed, pause)

    def close(self) -> None:
        """Nobody reads any more."""
        with self._changed:
            self._run, self._closed = None, True
            self._changed.notify_all()
        self._abort()
        self._release()

    def _touch(self) -> None:
        with self._changed:
            self._move()

    def _move(self) -> None:
        self._moved = time.monotonic()
        self._changed.notify_all()

    def _watch(self, timeout: float) -> None:
        with self._changed:
            while not self._closed:
                due = self._reading and (bool(self._pending) or not self._starved)
                left = self._moved + timeout - time.monotonic()
                if due and left <= 0:
                    self.failure = _status.late(self._session.target, timeout)
                    break
                self._changed.wait(left if due else None)
        if self.failure:
            self._abort()

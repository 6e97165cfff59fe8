"""The sending half of a stream: chunks ahead of their replies by a bounded number, and again after a break."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, Protocol, TypeVar

from google.protobuf.message import Message

from topwork._transport.calls import ClientState
from topwork._transport.streams import StreamRetries
from topwork.errors import TopworkError

#: Seconds of the server's work in a chunk, and in all that is on its way.
CHUNK, AHEAD = 3.0, 20.0
#: Items of the smallest chunk; chunks on their way before the first answer has come.
FEWEST, FIRST = 4, 4


class SendWindow:
    """A window over unanswered chunks; `items` are those of the largest. The thread that reads answers uses it, but for
    `limit` and `window`."""

    def __init__(self, items: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._items, self._clock = items, clock
        self._seconds: float | None = None  # of one item, smoothed
        self._since: float | None = None

    def sent(self) -> None:
        """Note a chunk that goes out. Time in which none is on its way is not the server's."""
        if self._since is None:
            self._since = self._clock()

    def answered(self, items: int, *, idle: bool) -> None:
        """Note that a chunk of so many items was answered; `idle`: no other is on its way."""
        now = self._clock()
        if self._since is not None and items:
            each = (now - self._since) / items
            self._seconds = each if self._seconds is None else (self._seconds + each) / 2
        self._since = None if idle else now

    def limit(self) -> int:
        """Items of the next chunk."""
        if not self._seconds:
            return self._items
        return max(FEWEST, min(self._items, int(CHUNK / self._seconds)))

    def window(self, most: int) -> int:
        """Chunks that may be on their way."""
        if self._seconds is None:
            return min(most, FIRST)
        return max(2, min(most, int(AHEAD / max(self._seconds * self.limit(), 1e-9))))


#: Chunks on their way: enough for the server to find texts of like length for its batches; where those on their way have more
#: than LIGHT bytes, so few that they can be kept in memory until they are answered.
WINDOW, HEAVY_WINDOW = 32, 8
LIGHT = 4 << 20


class UploadChunk(Protocol):
    """A chunk: its messages, made again each time that it is sent, and the position of its first item."""

    @property
    def start(self) -> int: ...

    def __len__(self) -> int: ...

    def messages(self) -> Iterator[Any]: ...


C = TypeVar("C", bound=UploadChunk)


class UploadStream(StreamRetries[C]):
    """Shared by a thread that sends (`requests`), the caller that reads replies, and a watch over the time.

    A stream that broke is opened again from the oldest chunk without a reply: each chunk is answered by itself, and unanswered
    ones are kept.
    """

    def __init__(
        self,
        session: ClientState,
        opening: Message,
        chunks: Iterator[C],
        timeout: float | None,
        release: Callable[[], object] = bool,
        pace: SendWindow | None = None,
        encoder: str = "",
    ) -> None:
        super().__init__(session, session.timeout if timeout is None else timeout, release)
        self.encoder = encoder
        self._opening = opening
        self._chunks = chunks
        self._pace = pace
        self._pulling = threading.Lock()
        self._pending: dict[int, C] = {}
        self._bytes: dict[int, int] = {}
        self._answered = self._pulled = 0
        self._run: object | None = None
        self._starved = False

    def requests(self) -> Iterator[Message]:
        """The messages of one try. It never raises: what went wrong is in `failure`, for the reader."""
        with self._changed:
            run, position = object(), self._answered
            self._run = None if self._closed else run
            self._bytes.clear()
        return self._send(run, position)

    def _send(self, run: object, position: int) -> Iterator[Message]:
        try:
            yield self._opening
            while chunk := self._next(run, position):
                for message in chunk.messages():
                    self._sending(run, position, message.ByteSize())
                    yield message
                    self._touch()
                position += 1
        except Exception as error:
            self.failure = error

    def _next(self, run: object, position: int) -> C | None:
        """The chunk at that position, when the window has room for it; None at the end, or when the try is over."""
        with self._changed:
            self._changed.wait_for(lambda: self._run is not run or position < self._answered + self._window())
        with self._pulling:  # a try that broke may still wait for the caller's source: what it gets is kept, not lost
            if self._run is run and position == self._pulled:
                self._pull()
        with self._changed:
            return self._pending.get(position) if self._run is run else None

    def _sending(self, run: object, position: int, size: int) -> None:
        with self._changed:
            if self._run is run:
                self._bytes[position] = self._bytes.get(position, 0) + size
                if self._pace:
                    self._pace.sent()

    def _window(self) -> int:
        most = WINDOW if sum(self._bytes.values()) <= LIGHT else HEAVY_WINDOW
        return self._pace.window(most) if self._pace else most

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

    def answered(self) -> C:
        with self._changed:
            chunk = self._pending.pop(self._answered, None)
            if chunk is None:
                raise TopworkError(f"{self._session.target} sent more replies than it was asked for")
            self._bytes.pop(self._answered, None)
            self._answered += 1
            if self._pace:
                self._pace.answered(len(chunk), idle=not self._bytes)
            self._progressed()
        return chunk

    def finish(self) -> None:
        """Raises what ended the sending early."""
        if self.failure:
            raise self.failure
        if self._pending:
            raise TopworkError(f"{self._session.target} ended the stream with {len(self._pending)} replies missing")

    def _awaits(self) -> bool:
        return bool(self._pending) or not self._starved

    def _first(self) -> int:
        oldest = self._pending.get(self._answered)
        return oldest.start if oldest else 0

    def _over(self) -> None:
        self._run = None

    def _touch(self) -> None:
        with self._changed:
            self._move()

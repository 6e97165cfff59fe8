"""An upload of texts that one reply answers, and that begins again from its first text after a break."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from google.protobuf.message import Message

from topwork._transport.calls import ClientState
from topwork._transport.streams import StreamRetries
from topwork.errors import TopworkError


class TextUpload(StreamRetries[None]):
    """`messages()` gives all messages from the first; None once it cannot give them again. What it raises ends the upload.

    Once all was sent, the call is made again only where the server certainly did not begin what it asks for.
    """

    def __init__(self, session: ClientState, messages: Callable[[], Iterator[Message] | None], timeout: float | None) -> None:
        super().__init__(session, session.timeout if timeout is None else timeout)
        self._messages = messages
        self._broken: TopworkError | None = None
        self._pulling = self._sent = self._replied = False

    def requests(self) -> Iterator[Message]:
        with self._changed:
            self._abort = bool
            self._sent = False
        messages = self._messages()
        if messages is None:
            assert self._broken is not None, "the first try has messages"
            raise self._broken
        return self._send(messages)

    def rest(self, error: TopworkError) -> None:
        if self._sent and not error.untouched and not self.failure:
            raise error
        self._broken = error
        super().rest(error)

    def _send(self, messages: Iterator[Message]) -> Iterator[Message]:
        try:
            while (message := self._next(messages)) is not None:
                yield message
            with self._changed:
                self._sent = True
                self._move()
        except Exception as error:
            self._fail(error)

    def _next(self, messages: Iterator[Message]) -> Message | None:
        """The next message. The clock stands while it is made, of a source that may wait for more."""
        with self._changed:
            self._pulling = True
        message = next(messages, None)
        with self._changed:
            self._pulling = False
            self._move()
        return message

    def _fail(self, error: Exception) -> None:
        """End the call. The last message, which says that all have come, was not sent: the server begins nothing."""
        with self._changed:
            self.failure = error
            self._changed.wait_for(lambda: self._abort is not bool or self._closed)
        self._abort()

    def answered(self) -> None:
        with self._changed:
            self._replied = True
            self._progressed()

    def finish(self) -> None:
        """Raise what ended the sending early."""
        if self.failure:
            raise self.failure
        if not self._replied:
            raise TopworkError(f"{self._session.target} ended the call without a reply")

    def _awaits(self) -> bool:
        return not self._pulling

"""Steps that a verb asks of a client. A verb is a generator: it yields these, gets their answers (a TopworkError is thrown in),
and returns its result.

Each verb is written once (`_ops`); `Client` runs it with blocking calls, `AsyncClient` with asynchronous ones.
"""

from __future__ import annotations

from collections.abc import AsyncIterable, Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Generic, Literal, TypeAlias, TypeVar, cast

from google.protobuf.message import Message

from topwork.errors import DeadlineExceeded, TopworkError

if TYPE_CHECKING:
    from topwork._transport.streams import StreamRetries
    from topwork.encoders import EncoderInfo
    from topwork.heads import HeadInfo
    from topwork.sets import SetInfo

T = TypeVar("T")
Q = TypeVar("Q", bound=Message)
R = TypeVar("R", bound=Message)


@dataclass(frozen=True)
class Method(Generic[Q, R]):
    """A gRPC method: its path, the classes of its messages, and what of it is a stream. `once`: sent twice it is done twice."""

    path: str
    request: type[Q]
    reply: type[R]
    kind: Literal["unary_unary", "unary_stream", "stream_unary", "stream_stream"] = "unary_unary"
    once: bool = False

    @property
    def name(self) -> str:
        return self.path.rpartition("/")[2]


@dataclass(frozen=True)
class UnaryCall:
    """One request, one reply. `timeout` in seconds; None is the client's own. `start` is the position of its first item."""

    method: Method[Any, Any]
    request: Message
    timeout: float | None = None
    start: int = 0


@dataclass(frozen=True)
class StreamCall(Generic[T]):
    """Replies: one to each chunk of an `UploadStream`, all to the one request of a `DownloadStream`, or one to all messages of a
    `TextUpload`.

    `receive(reply, chunk)` makes a value of one.
    """

    method: Method[Any, Any]
    tries: StreamRetries[Any]
    receive: Callable[[Any, Any], T]


@dataclass(frozen=True)
class BlockingWork:
    """Something that may take a while (files, the caller's own iterator); `AsyncClient` does it beside its event loop."""

    function: Callable[[], Any]


Step: TypeAlias = UnaryCall | StreamCall[Any] | BlockingWork
Steps: TypeAlias = Generator[Step, Any, T]


def unary(method: Method[Q, R], request: Q, timeout: float | None = None, start: int = 0) -> Steps[R]:
    return cast(R, (yield UnaryCall(method, request, timeout, start)))


def work(function: Callable[[], T]) -> Steps[T]:
    return cast(T, (yield BlockingWork(function)))


@dataclass
class ClientState:
    """State that the verbs of one client share. `timeout` in seconds, None for no limit; `retry_for` seconds where the server
    is away or overloaded; `reached`: it has answered once.

    `blocking` turns a caller's asynchronous source into one that a thread can iterate over; `inputs` gives the raw inputs of some
    items of a set, by id, where it keeps any.
    """

    target: str
    timeout: float | None
    retry_for: float | None
    blocking: Callable[[AsyncIterable[Any]], Iterator[Any]]
    inputs: Callable[[str, Sequence[str]], Mapping[str, Any]] | None = None
    encoders: dict[str, EncoderInfo] = field(default_factory=dict)
    sets: dict[str, SetInfo] = field(default_factory=dict)
    heads: dict[str, HeadInfo] = field(default_factory=dict)
    reached: bool = False

    def heard(self, error: TopworkError | None = None) -> None:
        """Note a reply, or an error that shows that a server is there."""
        self.reached |= error is None or not (error.unconnected or isinstance(error, DeadlineExceeded))

"""The verbs of the SDK, named once for both clients, and what a client is opened with."""

from __future__ import annotations

import inspect
import re
from collections.abc import AsyncGenerator, AsyncIterable, Callable, Coroutine, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial, wraps
from typing import TYPE_CHECKING, Any, Concatenate, Generic, ParamSpec, TypeAlias, TypeVar, overload

import grpc

from topwork._codec.items import describe
from topwork._ops import arguments
from topwork._ops import embed as embed_ops
from topwork._ops import fill as fill_ops
from topwork._ops import heads as heads_ops
from topwork._ops import indexes as indexes_ops
from topwork._ops import jobs as jobs_ops
from topwork._ops import predict as predict_ops
from topwork._ops import pretrain as pretrain_ops
from topwork._ops import read as read_ops
from topwork._ops import search as search_ops
from topwork._ops import sets as sets_ops
from topwork._ops import write as write_ops
from topwork._ops.overloads import Predict, Pretrain, Probe, Search
from topwork._transport import channel, tls
from topwork._transport.calls import ClientState, Method, Step, Steps, StreamCall
from topwork._transport.retry import TIMEOUT
from topwork._transport.tracing import with_trace_context
from topwork.errors import InvalidInput
from topwork.jobs import Job
from topwork.predictions import Predictions
from topwork.pretraining import PretrainReport
from topwork.probes import ProbeTable
from topwork.search_results import Hits

if TYPE_CHECKING:
    from topwork.aio import AsyncClient
    from topwork.client import Client

P = ParamSpec("P")
T = TypeVar("T")
B = TypeVar("B")
A = TypeVar("A")
#: What `await` turns into a T.
Awaited: TypeAlias = Coroutine[Any, Any, T]
#: Names of what is sent with every call, as gRPC takes them.
KEY = re.compile(r"[0-9a-z_.-]+")


@dataclass(frozen=True)
class AnyVerb:
    """A verb, which each client turns into a method of its own; the classes below tell type checkers of which type."""

    steps: Callable[..., Any]

    def method(self, kind: type[ClientBase]) -> Any:
        return dressed(kind._method(self.steps), self.steps, "{}")


class Verb(AnyVerb, Generic[P, T]):
    """A verb that returns a T, from `AsyncClient` one that is awaited."""

    if TYPE_CHECKING:

        def __init__(self, steps: Callable[Concatenate[ClientState, P], Steps[T]]) -> None: ...
        @overload
        def __get__(self, client: Client, kind: type[Client]) -> Callable[P, T]: ...
        @overload
        def __get__(self, client: AsyncClient, kind: type[AsyncClient]) -> Callable[P, Awaited[T]]: ...
        @overload
        def __get__(self, client: None, kind: type[Client]) -> Callable[Concatenate[Client, P], T]: ...
        @overload
        def __get__(self, client: None, kind: type[AsyncClient]) -> Callable[Concatenate[AsyncClient, P], Awaited[T]]: ...
        def __get__(self, client: Any, kind: Any) -> Any: ...


class StreamVerb(AnyVerb, Generic[P, T]):
    """A verb that iterates over values, from `AsyncClient` asynchronously."""

    if TYPE_CHECKING:

        def __init__(self, steps: Callable[Concatenate[ClientState, P], Steps[StreamCall[T]]]) -> None: ...
        @overload
        def __get__(self, client: Client, kind: type[Client]) -> Callable[P, Generator[T, None, None]]: ...
        @overload
        def __get__(self, client: AsyncClient, kind: type[AsyncClient]) -> Callable[P, AsyncGenerator[T, None]]: ...
        @overload
        def __get__(self, client: None, kind: type[ClientBase]) -> Callable[..., Any]: ...
        def __get__(self, client: Any, kind: Any) -> Any: ...

    def method(self, kind: type[ClientBase]) -> Any:
        return dressed(kind._stream_method(self.steps), self.steps, kind._STREAM)


class OverloadedVerb(AnyVerb, Generic[B, A]):
    """A verb whose result depends on how it is called: a B of `Client`, an A of `AsyncClient`."""

    if TYPE_CHECKING:

        @overload
        def __get__(self, client: Client, kind: type[Client]) -> B: ...
        @overload
        def __get__(self, client: AsyncClient, kind: type[AsyncClient]) -> A: ...
        @overload
        def __get__(self, client: None, kind: type[ClientBase]) -> Callable[..., Any]: ...
        def __get__(self, client: Any, kind: Any) -> Any: ...


def dressed(method: Any, verb: Callable[..., Any], returns: str) -> Any:
    """Let help() and editors show the method as it is called: `self` first, and what it returns ("{}" is the verb's result)."""
    signature = inspect.signature(verb)
    session, *others = signature.parameters.values()
    result = str(signature.return_annotation).removeprefix("Steps[").removesuffix("]")
    result = result.removeprefix("StreamCall[").removesuffix("]") if result.startswith("StreamCall[") else result
    method = wraps(verb)(method)
    method.__signature__ = signature.replace(
        parameters=[session.replace(name="self", annotation=session.empty), *others], return_annotation=returns.format(result)
    )
    method.__module__, method.__qualname__ = "topwork", verb.__name__
    return method


@dataclass(frozen=True)
class Connection:
    """The parameters of a client: enough to open it again in another process."""

    target: str
    timeout: float | None
    retry_for: float | None
    gzip: bool
    credentials: grpc.ChannelCredentials | None
    metadata: Sequence[tuple[str, str]] = field(repr=False)
    api_key: str | None = field(repr=False)
    ca: tls.File | None
    certificate: tls.File | None
    key: tls.File | None
    insecure: bool

    def __post_init__(self) -> None:
        """Raise InvalidInput that names the parameter."""
        object.__setattr__(self, "target", channel.check_target(self.target))
        if self.credentials is not None and not isinstance(self.credentials, grpc.ChannelCredentials):
            raise InvalidInput(f"credentials are {describe(self.credentials)}", remedy="pass grpc.ssl_channel_credentials(...)")
        pairs = self.metadata
        if not isinstance(pairs, Sequence) or isinstance(pairs, str | bytes) or not all(map(_is_pair, pairs)):
            raise InvalidInput(
                "metadata are no pairs of strings that gRPC can send",
                remedy='pass pairs of a name in lower case and its value, such as [("authorization", "Bearer ...")]',
            )
        object.__setattr__(self, "metadata", tuple((key, value) for key, value in pairs))
        if self.api_key is not None and any(name == "authorization" for name, _ in pairs):
            raise InvalidInput("api_key and metadata both have an authorization", remedy="pass one of them")
        files = [name for name in ("ca", "certificate", "key") if getattr(self, name) is not None]
        if files and self.credentials is not None:
            raise InvalidInput(f"{files[0]} does nothing beside credentials", remedy="pass one of them")
        if files and not self.target.startswith(tls.HTTPS):
            raise InvalidInput(
                f"{files[0]} is of TLS, and {self.target} is called in plaintext", remedy=f"pass https://{self.target}"
            )

    @property
    def is_encrypted(self) -> bool:
        return self.credentials is not None or self.target.startswith(tls.HTTPS)

    def sent_along(self) -> Sequence[tuple[str, str]]:
        """The metadata of each call, with the key. Raises InvalidInput for one that must not be sent."""
        given = any(name == "authorization" for name, _ in self.metadata)
        key = () if given else tls.key_header(self.api_key, self.target, self.is_encrypted, self.insecure)
        return (*self.metadata, *key)

    def trusted(self) -> grpc.ChannelCredentials | None:
        """The credentials of the channel; None for plaintext. Raises InvalidInput that names a file."""
        if self.credentials is None and self.is_encrypted:
            return tls.credentials(self.ca, self.certificate, self.key)
        return self.credentials

    def channel(self, api: Any) -> Any:
        """Open a channel of `api`: grpc or grpc.aio."""
        return channel.connect(api, self.target, self.gzip, self.trusted())

    def state(
        self, blocking: Callable[[AsyncIterable[Any]], Iterator[Any]], inputs: Callable[[str, Sequence[str]], Mapping[str, Any]]
    ) -> ClientState:
        """Make what the verbs of a client share."""
        scheme = tls.HTTPS if self.is_encrypted and re.match(r"[^:]+:\d+$|\[", self.target) else ""
        return ClientState(scheme + self.target, self.timeout, self.retry_for, blocking, inputs)


def _is_pair(pair: Any) -> bool:
    if not isinstance(pair, tuple | list) or len(pair) != 2 or not isinstance(pair[0], str) or not KEY.fullmatch(pair[0]):
        return False
    binary = pair[0].endswith("-bin")
    return isinstance(pair[1], bytes) if binary else isinstance(pair[1], str) and pair[1].isascii() and pair[1].isprintable()


class ClientBase:
    """The common part of both clients: their verbs, and how they are opened."""

    health = Verb(embed_ops.health)
    encoders = Verb(embed_ops.encoders)
    encoder = Verb(embed_ops.encoder)
    embed = Verb(embed_ops.embed)
    embed_taps = Verb(embed_ops.embed_taps)
    embed_stream = StreamVerb(embed_ops.embed_stream)
    nearest_words = Verb(embed_ops.nearest_words)
    fill = Verb(fill_ops.fill)

    write = Verb(write_ops.write)
    write_stream = StreamVerb(write_ops.write_stream)
    read = Verb(read_ops.read)
    read_stream = StreamVerb(read_ops.read_stream)
    export_set = Verb(read_ops.export_set)
    delete = Verb(sets_ops.delete)
    count = Verb(sets_ops.count)
    update = Verb(sets_ops.update)
    add_column = Verb(sets_ops.add_column)
    rename_column = Verb(sets_ops.rename_column)
    cast_column = Verb(sets_ops.cast_column)
    drop_column = Verb(sets_ops.drop_column)
    sets = Verb(sets_ops.sets)
    set = Verb(sets_ops.set)
    drop_set = Verb(sets_ops.drop_set)
    versions = Verb(sets_ops.versions)
    pin = Verb(sets_ops.pin)
    unpin = Verb(sets_ops.unpin)
    prune = Verb(sets_ops.prune)

    create_index = Verb(indexes_ops.create_index)
    rebuild_index = Verb(indexes_ops.rebuild_index)
    index = Verb(indexes_ops.index)
    indexes = Verb(indexes_ops.indexes)
    drop_index = Verb(indexes_ops.drop_index)
    index_kinds = Verb(indexes_ops.index_kinds)
    search = OverloadedVerb[Search[Hits, list[Hits]], Search[Awaited[Hits], Awaited[list[Hits]]]](search_ops.search)

    pretrainers = Verb(pretrain_ops.pretrainers)
    pretrain = OverloadedVerb[Pretrain[PretrainReport, Job], Pretrain[Awaited[PretrainReport], Awaited[Job]]](
        pretrain_ops.pretrain
    )

    trainers = Verb(heads_ops.trainers)
    train = Verb(heads_ops.train)
    head = Verb(heads_ops.head)
    heads = Verb(heads_ops.heads)
    drop_head = Verb(heads_ops.drop_head)
    report = Verb(heads_ops.report)
    report_page = Verb(heads_ops.report_page)
    probe = OverloadedVerb[Probe[ProbeTable, Job], Probe[Awaited[ProbeTable], Awaited[Job]]](heads_ops.probe)
    export_head = Verb(heads_ops.export_head)
    predict = OverloadedVerb[
        Predict[Predictions, dict[str, Predictions]], Predict[Awaited[Predictions], Awaited[dict[str, Predictions]]]
    ](predict_ops.predict)

    jobs = Verb(jobs_ops.jobs)
    job = Verb(jobs_ops.job)
    watch_job = StreamVerb(jobs_ops.watch_job)
    cancel_job = Verb(jobs_ops.cancel_job)

    #: How `help` shows what a verb that iterates returns.
    _STREAM: str
    _channel: Any
    _session: ClientState

    def __init__(
        self,
        target: str = "127.0.0.1:50051",
        *,
        timeout: float | None = TIMEOUT,
        retry_for: float | None = None,
        gzip: bool = False,
        credentials: grpc.ChannelCredentials | None = None,
        metadata: Sequence[tuple[str, str]] = (),
        api_key: str | None = None,
        ca: tls.File | None = None,
        certificate: tls.File | None = None,
        key: tls.File | None = None,
        insecure: bool = False,
    ) -> None:
        settings = {"timeout": timeout, "retry_for": retry_for, "gzip": gzip, "credentials": credentials, "metadata": metadata}
        settings |= {"api_key": api_key, "ca": ca, "certificate": certificate, "key": key, "insecure": insecure}
        (_, target), settings = arguments.bound(ClientBase.__init__, (self, target), settings)
        self._connection = Connection(target, **settings)
        self._sent = self._connection.sent_along()
        self._stubs: dict[Method[Any, Any], Any] = {}
        self._closed = False
        self._open()

    def __init_subclass__(cls, **settings: Any) -> None:
        super().__init_subclass__(**settings)
        if ClientBase in cls.__bases__:
            for name, verb in vars(ClientBase).items():
                if isinstance(verb, AnyVerb):
                    setattr(cls, name, verb.method(cls))

    @staticmethod
    def _method(verb: Callable[..., Steps[Any]]) -> Callable[..., Any]:
        """A method that runs the verb to its end."""
        raise NotImplementedError

    @staticmethod
    def _stream_method(verb: Callable[..., Steps[StreamCall[Any]]]) -> Callable[..., Any]:
        """A method that iterates over what the verb's stream brings."""
        raise NotImplementedError

    def _open(self) -> None:
        """Set `_channel` and `_session`."""
        raise NotImplementedError

    def __reduce__(self) -> Any:
        """Raise InvalidInput where the client cannot go to another process."""
        if self._connection.credentials is not None:
            raise InvalidInput(
                "a client with credentials cannot be pickled: they do not leave this process",
                remedy="open a client in each process",
            )
        return partial(type(self), **{**vars(self._connection), "credentials": None}), ()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} of {self._connection.target}>"

    def _begun(self, steps: Steps[Any]) -> Step:
        """The verb's first step. Raises InvalidInput where the client is closed."""
        if self._closed:
            steps.close()
            raise InvalidInput("this client is closed", remedy="open another")
        return next(steps)

    def _metadata(self) -> Sequence[tuple[str, str]]:
        """What goes with a call that is made now."""
        return with_trace_context(self._sent)

    def _stub(self, method: Method[Any, Any]) -> Any:
        if method not in self._stubs:
            self._stubs[method] = channel.stub(self._channel, method)
        return self._stubs[method]

    def _steps(self, verb: Callable[..., Steps[T]], given: tuple[Any, ...], settings: Mapping[str, Any]) -> Steps[T]:
        """The verb with its arguments, which are checked now. Raises InvalidInput."""
        given, settings = arguments.bound(verb, (self._session, *given), settings)
        return verb(*given, **settings)

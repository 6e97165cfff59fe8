"""The Encoders service: thin. Messages become items, the engine works, its features become a message."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Hashable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import grpc
from topwork.v1 import encoders_pb2, encoders_pb2_grpc, types_pb2

from topwork_server.config import Config
from topwork_server.errors import InvalidInput, NotReady, TooLarge, TopworkError
from topwork_server.features import EmbedResult
from topwork_server.inference.engine import EmbedParams, Engine
from topwork_server.inference.output_format import OutputFormat
from topwork_server.models.catalog import Catalog, CatalogEntry
from topwork_server.services.convert import encoder_messages, item_messages
from topwork_server.services.message_budget import MAX_MESSAGE
from topwork_server.services.streaming import RequestStream, load_of, settings_of
from topwork_server.services.uploads import Upload, UploadStore

MOST_WORDS = 1000
#: More words than this are put into a reply in a thread: a million take a second.
MANY_WORDS = 10_000
#: Rows of more bytes than this are shaped in a thread, so that the loop goes on serving others.
LARGE = 1 << 20

Context: TypeAlias = "grpc.aio.ServicerContext"
log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class EmbedSettings:
    """What the settings of a request come to. A stream is a flow of its own; single requests are one flow a connection."""

    ask: EmbedParams
    shaping: OutputFormat
    fingerprint: str

    @classmethod
    def of(cls, settings: encoders_pb2.EmbedSettings, deadline: float | None, flow: Hashable, *, wait: bool) -> EmbedSettings:
        if settings.fingerprint and len(settings.taps) > 1:
            raise InvalidInput("a fingerprint belongs to one tap", remedy="ask for one tap, or leave the fingerprint out")
        ask = EmbedParams(
            encoder=_named(settings.encoder),
            taps=tuple(settings.taps),
            options=item_messages.options(settings.options),
            deadline=deadline,
            wait=wait,
            skip_bad_items=settings.skip_bad_items,
            client=flow,
            priority=item_messages.priority(settings.priority),
        )
        return cls(ask, item_messages.shaping(settings), settings.fingerprint)

    def check(self, features: EmbedResult) -> None:
        """NotReady where the features mean something else than the caller holds."""
        found = features.taps[0].tap.fingerprint
        if self.fingerprint and self.fingerprint != found:
            raise NotReady(
                f"the tap {features.taps[0].tap.tap.name} of {self.ask.encoder} has fingerprint {found}, not {self.fingerprint}",
                remedy="these features do not mix with yours: embed anew, or serve the encoder that made them",
            )


class EncodersService(encoders_pb2_grpc.EncodersServicer):
    def __init__(self, engine: Engine, catalogue: Catalog, config: Config, stopping: asyncio.Event | None = None) -> None:
        self._engine, self._stopping = engine, stopping
        self._catalogue = catalogue
        self._config = config
        self.spool = UploadStore(config.home / "spool", config.max_video_bytes)
        self.spool.sweep()

    async def ListEncoders(  # noqa: N802
        self, request: encoders_pb2.ListEncodersRequest, context: Context
    ) -> encoders_pb2.ListEncodersResponse:
        entries = await asyncio.to_thread(readable_entries, self._catalogue)
        return encoders_pb2.ListEncodersResponse(encoders=[self._describe(entry) for entry in entries])

    async def GetEncoder(  # noqa: N802
        self, request: encoders_pb2.GetEncoderRequest, context: Context
    ) -> encoders_pb2.Encoder:
        return self._describe(await asyncio.to_thread(self._catalogue.entry, _named(request.name)))

    async def Embed(self, request: encoders_pb2.EmbedRequest, context: Context) -> encoders_pb2.EmbedResponse:  # noqa: N802
        self._check_count(request.items)
        job = EmbedSettings.of(request.settings, deadline(context), context.peer(), wait=False)
        return await self._answer(job, request.items)

    async def EmbedStream(  # noqa: N802
        self, requests: AsyncIterator[encoders_pb2.EmbedStreamRequest], context: Context
    ) -> None:
        first = await settings_of(requests, "items", self._stopping)
        job = EmbedSettings.of(first.settings, deadline(context), object(), wait=True)
        self._catalogue.spec(job.ask.encoder)

        async def answer(message: encoders_pb2.EmbedStreamRequest, upload: Upload | None) -> encoders_pb2.EmbedResponse:
            self._check_count(message.items.items)
            return await self._answer(job, message.items.items, upload)

        stream = RequestStream("items", answer, lambda message: load_of(message.items.items), self.spool, self._stopping)
        await stream.run(requests, context.write)

    async def NearestWords(  # noqa: N802
        self, request: encoders_pb2.NearestWordsRequest, context: Context
    ) -> encoders_pb2.NearestWordsResponse:
        self._check_count(request.items)
        if request.k > MOST_WORDS:
            raise InvalidInput(f"k is {request.k}", remedy=f"ask for at most {MOST_WORDS} words")
        options = item_messages.options(request.options)
        ask = EmbedParams(_named(request.encoder), options=options, deadline=deadline(context), client=context.peer())
        items, _, _ = item_messages.items(request.items, None, skip=False)
        found = await self._engine.nearest(ask, items, request.k or 10)
        if sum(map(len, found)) > MANY_WORDS:
            return await asyncio.to_thread(_nearest_words, found)
        return _nearest_words(found)

    async def _answer(
        self, job: EmbedSettings, messages: Sequence[types_pb2.Item], upload: Upload | None = None
    ) -> encoders_pb2.EmbedResponse:
        started = time.monotonic()
        items, positions, failures = item_messages.items(messages, upload.path if upload else None, skip=job.ask.skip_bad_items)
        features = await self._engine.embed(job.ask, items)
        job.check(features)
        if failures:
            features = features.among(positions, failures)
        reply = await _response(features, job.shaping, started)
        if reply.ByteSize() > MAX_MESSAGE:
            raise TooLarge(
                f"the reply would have {reply.ByteSize()} bytes, and a message may have {MAX_MESSAGE}",
                remedy="send fewer items at a time, or ask for float16, int8, fewer dimensions or fewer taps",
            )
        return reply

    def _check_count(self, items: Sequence[types_pb2.Item]) -> None:
        if not items:
            raise InvalidInput("there are no items", remedy="send at least one")
        if len(items) > self._config.max_items:
            raise InvalidInput(
                f"{len(items)} items in one message, which may have {self._config.max_items}",
                remedy="use EmbedStream with smaller messages, or the SDK, which does so by itself",
            )

    def _describe(self, entry: CatalogEntry) -> encoders_pb2.Encoder:
        name, engine = entry.spec.name, self._engine
        return encoder_messages.encoder(entry, engine.encoder_status(name), engine.loaded_encoder(name), engine.plans_of(entry))


def _named(name: str) -> str:
    if not name:
        raise InvalidInput("no encoder is named", remedy="name one of those that ListEncoders returns")
    return name


def deadline(context: Context) -> float | None:
    """When the caller's time is over, in time.monotonic(); None where it never is."""
    remaining = context.time_remaining()
    return None if remaining is None else time.monotonic() + remaining


def readable_entries(catalogue: Catalog) -> list[CatalogEntry]:
    """All that can be read: one whose plugin was uninstalled must not hide the others."""
    found = []
    for name in catalogue.names():
        try:
            found.append(catalogue.entry(name))
        except TopworkError as error:
            log.warning("encoder=%s left out of the list: %s", name, error)
        except Exception:  # a plugin may raise anything on weights that are damaged
            log.exception("encoder=%s left out of the list", name)
    return found


async def _response(features: EmbedResult, wanted: OutputFormat, started: float) -> encoders_pb2.EmbedResponse:
    total = time.monotonic() - started
    if sum(tap.rows.nbytes for tap in features.taps) > LARGE:
        return await asyncio.to_thread(item_messages.response, features, wanted, total)
    return item_messages.response(features, wanted, total)


def _nearest_words(found: Sequence[Sequence[tuple[str, float]]]) -> encoders_pb2.NearestWordsResponse:
    return encoders_pb2.NearestWordsResponse(results=[_words(words) for words in found])


def _words(words: Sequence[tuple[str, float]]) -> encoders_pb2.Words:
    return encoders_pb2.Words(words=[encoders_pb2.Word(word=word, score=score) for word, score in words])

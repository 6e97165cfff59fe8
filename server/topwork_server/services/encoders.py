"""The Encoders service: converts messages into items, lets the engine embed them, and converts the features back."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Hashable, Sequence
from dataclasses import dataclass

from topwork._display.excerpts import excerpt
from topwork._display.number_text import counted
from topwork.v1 import encoders_pb2, encoders_pb2_grpc, jobs_pb2, types_pb2

from topwork_server.access.passes import visible_encoders
from topwork_server.config import Config
from topwork_server.errors import InvalidInput, NotReady, TopworkError
from topwork_server.features import EmbedResult
from topwork_server.heads.serving.filler import Filler
from topwork_server.inference.engine import EmbedParams, Engine
from topwork_server.inference.output_format import OutputFormat
from topwork_server.models.catalog import Catalog
from topwork_server.models.catalog_entry import CatalogEntry
from topwork_server.plugin_api.plugin_registry import PluginRegistry
from topwork_server.pretraining.corpus import encoded
from topwork_server.pretraining.pretraining_manager import PretrainingManager
from topwork_server.services.convert import encoder_messages, fill_messages, item_messages
from topwork_server.services.in_threads import in_thread_if
from topwork_server.services.jobs import job_message
from topwork_server.services.request_checks import Context, check_encoder_name, check_item_count, check_reply_size, deadline
from topwork_server.services.streaming import RequestStream, load_of, settings_of, until_stopped
from topwork_server.services.uploads import Upload, UploadStore
from topwork_server.types import FingerprintedTap

#: Words for each item or gap: at most, and where a request does not say.
MOST_WORDS, NEAREST, FILLED = 1000, 10, 5
#: More words than this are put into a reply in a thread: a million take a second.
MANY_WORDS = 10_000
#: Rows of more bytes than this are formatted in a thread, so that the loop goes on serving others.
LARGE = 1 << 20

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class EmbedSettings:
    """The settings of a request, checked. A stream is a client of its own; the single requests of a connection are one."""

    params: EmbedParams
    format: OutputFormat
    fingerprint: str

    @classmethod
    def of(cls, settings: encoders_pb2.EmbedSettings, deadline: float | None, client: Hashable, *, wait: bool) -> EmbedSettings:
        if settings.fingerprint and len(settings.taps) > 1:
            raise InvalidInput("a fingerprint belongs to one tap", remedy="ask for one tap, or leave the fingerprint out")
        params = EmbedParams(
            encoder=check_encoder_name(settings.encoder),
            taps=tuple(settings.taps),
            options=item_messages.options(settings.options),
            deadline=deadline,
            wait=wait,
            skip_bad_items=settings.skip_bad_items,
            client=client,
            priority=item_messages.priority(settings.priority),
            role=item_messages.role(settings.role),
        )
        return cls(params, item_messages.output_format(settings), settings.fingerprint)

    def check(self, found: FingerprintedTap) -> None:
        """Raise NotReady where a tap has another fingerprint than the caller asked for."""
        check_fingerprint(self.fingerprint, self.params.encoder, found)


class EncodersService(encoders_pb2_grpc.EncodersServicer):
    def __init__(
        self,
        engine: Engine,
        catalog: Catalog,
        config: Config,
        plugins: PluginRegistry,
        pretraining: PretrainingManager,
        spool: UploadStore,
        stopping: asyncio.Event,
    ) -> None:
        self._engine, self._stopping = engine, stopping
        self._plugins, self._pretraining = plugins, pretraining
        self._catalog = catalog
        self._filler = Filler(engine, catalog, config.threads)
        self._max_items = config.max_items
        self.spool = spool

    async def ListEncoders(  # noqa: N802
        self, request: encoders_pb2.ListEncodersRequest, context: Context
    ) -> encoders_pb2.ListEncodersResponse:
        entries = await asyncio.to_thread(readable_entries, self._catalog)
        return encoders_pb2.ListEncodersResponse(encoders=[self._describe(entry) for entry in entries])

    async def GetEncoder(  # noqa: N802
        self, request: encoders_pb2.GetEncoderRequest, context: Context
    ) -> encoders_pb2.Encoder:
        return self._describe(await asyncio.to_thread(self._catalog.entry, check_encoder_name(request.name)))

    async def Embed(self, request: encoders_pb2.EmbedRequest, context: Context) -> encoders_pb2.EmbedResponse:  # noqa: N802
        check_item_count(request.items, self._max_items, "EmbedStream")
        settings = EmbedSettings.of(request.settings, deadline(context), context.peer(), wait=False)
        return await self._embed(settings, request.items)

    async def EmbedStream(  # noqa: N802
        self, requests: AsyncIterator[encoders_pb2.EmbedStreamRequest], context: Context
    ) -> None:
        first = await settings_of(requests, "items", self._stopping)
        settings = EmbedSettings.of(first.settings, deadline(context), object(), wait=True)
        self._catalog.spec(settings.params.encoder)

        async def answer(message: encoders_pb2.EmbedStreamRequest, upload: Upload | None) -> encoders_pb2.EmbedResponse:
            check_item_count(message.items.items, self._max_items, "EmbedStream")
            return await self._embed(settings, message.items.items, upload)

        stream = RequestStream("items", answer, lambda message: load_of(message.items.items), self.spool, self._stopping)
        await stream.run(requests, context.write)

    async def NearestWords(  # noqa: N802
        self, request: encoders_pb2.NearestWordsRequest, context: Context
    ) -> encoders_pb2.NearestWordsResponse:
        check_item_count(request.items, self._max_items, "EmbedStream")
        k = _checked_words(request.k) or NEAREST
        options = item_messages.options(request.options)
        params = EmbedParams(
            check_encoder_name(request.encoder), options=options, deadline=deadline(context), client=context.peer()
        )
        items, _, _ = item_messages.items(request.items, None, skip=False)
        found = await self._engine.nearest(params, items, k)
        return await in_thread_if(sum(map(len, found)) > MANY_WORDS, _nearest_words, found)

    async def Fill(self, request: encoders_pb2.FillRequest, context: Context) -> encoders_pb2.FillResponse:  # noqa: N802
        started = time.monotonic()
        check_item_count(request.items, self._max_items, "several calls")
        k = _checked_words(request.k) or FILLED
        settings = EmbedSettings.of(request.settings, deadline(context), context.peer(), wait=False)
        items, positions, failures = item_messages.items(request.items, None, skip=settings.params.skip_bad_items)
        found = await self._filler.fill(settings.params, items, k, list(request.targets))
        settings.check(found.features.taps[0].tap if settings.params.taps else found.head.tap)
        reply = await asyncio.to_thread(fill_messages.response, found, settings.format, positions, failures, started)
        return check_reply_size(reply, "send fewer texts at a time, or ask for fewer words or taps")

    async def ListPretrainers(  # noqa: N802
        self, request: encoders_pb2.ListPretrainersRequest, context: Context
    ) -> encoders_pb2.ListPretrainersResponse:
        pretrainers = [encoder_messages.pretrainer(one) for one in self._plugins.pretrainers().values()]
        return encoders_pb2.ListPretrainersResponse(pretrainers=pretrainers)

    async def Pretrain(  # noqa: N802
        self, requests: AsyncIterator[encoders_pb2.PretrainRequest], context: Context
    ) -> jobs_pb2.Job:
        first = await settings_of(requests, "texts", self._stopping)
        asked = encoder_messages.pretrain_request(first.settings)
        await self._pretraining.check(asked)
        corpus = self.spool.open("corpus")
        try:
            count = await self._receive_texts(requests, corpus)
            if asked.set:
                if count:
                    raise InvalidInput(
                        "texts were sent, and a set is named", remedy="send texts, or name the set that keeps them"
                    )
                count = await self._pretraining.copy_set(asked, corpus.path)
            if not count:
                raise InvalidInput("there are no texts to learn from", remedy="send some that are not blank")
            return job_message(await self._pretraining.start(asked, corpus.path, count, corpus.discard))
        except BaseException:
            await corpus.abandon()
            raise

    async def _receive_texts(self, requests: AsyncIterator[encoders_pb2.PretrainRequest], corpus: Upload) -> int:
        """Keep the texts of a stream on disk, and count those that are not blank. The stream of a cancelled call may seem to have
        ended: only the caller's own count shows that all have come."""
        count = sent = 0
        async for message in until_stopped(requests, self._stopping):
            kind = message.WhichOneof("message")
            if kind == "count" and message.count == sent:
                return count
            if kind != "texts":
                lost = f"{sent:,} of {counted(message.count, 'text')} came"
                raise InvalidInput(
                    lost if kind == "count" else f"after {counted(sent, 'text')} comes no text",
                    remedy="send settings once, then texts, then their count",
                )
            lines, more = await asyncio.to_thread(encoded, message.texts.texts, sent)
            if lines:
                await corpus.write(lines)
            count, sent = count + more, sent + len(message.texts.texts)
        raise InvalidInput(f"the stream ended after {counted(sent, 'text')}", remedy="send their count as the last message")

    async def _embed(
        self, settings: EmbedSettings, messages: Sequence[types_pb2.Item], upload: Upload | None = None
    ) -> encoders_pb2.EmbedResponse:
        started = time.monotonic()
        items, positions, failures = item_messages.items(
            messages, upload.path if upload else None, skip=settings.params.skip_bad_items
        )
        features = await self._engine.embed(settings.params, items)
        settings.check(features.taps[0].tap)
        if failures:
            features = features.among(positions, failures)
        reply = await _response(features, settings.format, started)
        return check_reply_size(reply, "send fewer items at a time, or ask for float16, int8, fewer dimensions or fewer taps")

    def _describe(self, entry: CatalogEntry) -> encoders_pb2.Encoder:
        name, engine = entry.spec.name, self._engine
        chosen = [engine.plans_of(tower) for tower in entry.towers]
        return encoder_messages.encoder(entry, engine.encoder_status(name), engine.loaded_encoder(name), chosen)


class OtherFingerprint(NotReady):
    """The request insists on a fingerprint that the tap does not have. Callers are told of a NotReady."""


def check_fingerprint(wanted: str, encoder: str, found: FingerprintedTap) -> None:
    """Raise OtherFingerprint where a tap has another than is wanted; "" takes any."""
    if wanted and wanted != found.fingerprint:
        raise OtherFingerprint(
            f"the tap {found.tap.name} of {encoder} has fingerprint {found.fingerprint}, not {excerpt(wanted)}",
            remedy="these features do not mix with yours: embed again, or serve the encoder that made them",
        )


def _checked_words(k: int) -> int:
    if k > MOST_WORDS:
        raise InvalidInput(f"k is {k}", remedy=f"ask for at most {MOST_WORDS} words")
    return k


def readable_entries(catalog: Catalog) -> list[CatalogEntry]:
    """List the entries that the caller may use. One that cannot be read, as its plugin was uninstalled, must not hide others."""
    found = []
    for name in visible_encoders(catalog.names()):
        try:
            found.append(catalog.entry(name))
        except TopworkError as error:
            log.warning("encoder=%s left out of the list: %s", name, error)
        except Exception:  # a plugin may raise anything on weights that are damaged
            log.exception("encoder=%s left out of the list", name)
    return found


async def _response(features: EmbedResult, format: OutputFormat, started: float) -> encoders_pb2.EmbedResponse:
    total = time.monotonic() - started
    large = sum(tap.rows.nbytes for tap in features.taps) > LARGE
    return await in_thread_if(large, item_messages.response, features, format, total)


def _nearest_words(found: Sequence[Sequence[tuple[str, float]]]) -> encoders_pb2.NearestWordsResponse:
    return encoders_pb2.NearestWordsResponse(results=[_words(words) for words in found])


def _words(words: Sequence[tuple[str, float]]) -> encoders_pb2.Words:
    return encoders_pb2.Words(words=[encoders_pb2.Word(word=word, score=score) for word, score in words])

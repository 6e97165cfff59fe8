"""How items become features."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from functools import partial

from topwork._codec import items as _items
from topwork._codec import messages
from topwork._codec.items import Items
from topwork._ops import chunking
from topwork._ops.chunking import Chunk, MessageSizes
from topwork._ops.embed_requests import StreamedRequest, answered, release
from topwork._ops.progress_bar import Progress
from topwork._transport.calls import ClientState, Steps, StreamCall, unary
from topwork._transport.methods import EMBED, EMBED_STREAM, GET_ENCODER
from topwork.encoders import EncoderInfo
from topwork.features import Features, concatenate
from topwork.v1 import encoders_pb2
from topwork.v1.encoders_pb2 import EmbedSettings


def whole(
    session: ClientState, settings: EmbedSettings, items: Items, progress: Progress, timeout: float | None
) -> Steps[list[Features]]:
    """Features of all items, one for each tap in the order asked."""
    info = yield from known(session, settings.encoder, timeout)
    source = _items.listed(items, info.modality, session.blocking)
    chunks = _split(source, info, settings, chunking.ITEMS)
    brief = _items.is_brief(source, info.modality)
    pieces = yield from answered(session, _ask(settings), source, chunks, settings.encoder, progress, timeout, brief=brief)
    return [concatenate(tap) for tap in zip(*pieces, strict=True)]


def _ask(settings: EmbedSettings) -> StreamedRequest[list[Features]]:
    return StreamedRequest(
        encoder=settings.encoder,
        alone=EMBED,
        request=lambda chunk: encoders_pb2.EmbedRequest(settings=settings, items=chunk.items),
        stream=EMBED_STREAM,
        opening=encoders_pb2.EmbedStreamRequest(settings=settings),
        read=lambda reply, chunk: _received(reply, settings.encoder, chunk),
    )


def chunkwise(
    session: ClientState, settings: EmbedSettings, items: Items, limit: int, timeout: float | None
) -> Steps[StreamCall[Features]]:
    """A stream of the Features of one tap, a chunk of at most `limit` items at a time."""
    info = yield from known(session, settings.encoder, timeout)
    source = _items.listed(items, info.modality, session.blocking)
    chunks = _split(source, info, settings, limit)

    def receive(reply: encoders_pb2.EmbedResponse, chunk: Chunk) -> Features:
        [features] = _received(reply, settings.encoder, chunk)
        return features

    return StreamCall(EMBED_STREAM, _ask(settings).feed(session, chunks, timeout, partial(release, source)), receive)


def known_chunks(session: ClientState, encoder: str, items: Items, timeout: float | None) -> Steps[Iterator[Chunk]]:
    """Chunks for calls that are not streams."""
    info = yield from known(session, encoder, timeout)
    source = _items.listed(items, info.modality, session.blocking)
    return _split(source, info, EmbedSettings(encoder=encoder), chunking.ITEMS)


def known(session: ClientState, encoder: str, timeout: float | None) -> Steps[EncoderInfo]:
    """What this client has asked once: what the encoder reads and how large its rows are."""
    info = session.encoders.get(encoder)
    if info is None or not info.taps:  # the taps of an encoder may be known only after its first use
        reply = yield from unary(GET_ENCODER, encoders_pb2.GetEncoderRequest(name=encoder), timeout)
        info = session.encoders[encoder] = messages.encoder(reply)
    return info


def _split(source: Iterable[object], info: EncoderInfo, settings: EmbedSettings, limit: int) -> Iterator[Chunk]:
    sizes = MessageSizes.of(info, settings.taps, settings.dtype)
    return chunking.chunks(source, info.modality, sizes, limit=limit, skip=settings.skip_bad_items)


def _received(reply: encoders_pb2.EmbedResponse, encoder: str, chunk: Chunk) -> list[Features]:
    """What could not be read here has come back as a failure of an empty item: the true reason takes its place."""
    found = messages.features(reply, encoder, chunk.start)
    return [replace(f, failures={**f.failures, **chunk.failures}) for f in found] if chunk.failures else found

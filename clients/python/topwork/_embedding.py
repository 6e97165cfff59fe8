"""How items become features: one message where they fit into one, else a stream of chunks."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sized
from dataclasses import replace
from functools import partial
from itertools import chain

from topwork import _chunks, _convert, _items
from topwork._bridge import Bridge
from topwork._calls import Session, Steps, Stream, unary, work
from topwork._chunks import Chunk, Sizes
from topwork._feed import Feed
from topwork._items import Items
from topwork._methods import EMBED, EMBED_STREAM, GET_ENCODER
from topwork._progress import Progress, reporting
from topwork.encoders import EncoderInfo
from topwork.errors import InvalidInput
from topwork.features import Features, concatenate
from topwork.v1 import encoders_pb2
from topwork.v1.encoders_pb2 import EmbedSettings


def whole(
    session: Session, settings: EmbedSettings, items: Items, progress: Progress, timeout: float | None
) -> Steps[list[Features]]:
    """Features of all items, one for each tap in the order asked."""
    info = yield from known(session, settings.encoder, timeout)
    source = _items.listed(items, info.modality, session.blocking)
    chunks = _split(source, info, settings, _chunks.ITEMS)
    total = len(source) if isinstance(source, Sized) else None
    try:
        first, second = yield from work(lambda: (next(chunks, None), next(chunks, None)))
        with reporting(progress, total, settings.encoder) as advance:
            if second is None and (first is None or first.video is None):
                return (yield from _in_one_message(settings, first or Chunk(0, ()), timeout, advance))
            sent = chain((chunk for chunk in (first, second) if chunk), chunks)
            return (yield from _collected(_feed(session, settings, sent, timeout), settings.encoder, advance))
    finally:
        release(source)


def _in_one_message(
    settings: EmbedSettings, chunk: Chunk, timeout: float | None, advance: Callable[[int], None]
) -> Steps[list[Features]]:
    """No items at all are sent too: the server says what it thinks of that."""
    reply = yield from unary(EMBED, encoders_pb2.EmbedRequest(settings=settings, items=chunk.items), timeout)
    advance(len(chunk))
    return _received(reply, settings.encoder, chunk)


def _collected(feed: Feed[Chunk], encoder: str, advance: Callable[[int], None]) -> Steps[list[Features]]:
    pieces: list[list[Features]] = []

    def receive(reply: encoders_pb2.EmbedResponse, chunk: Chunk) -> None:
        pieces.append(_received(reply, encoder, chunk))
        advance(len(chunk))

    yield Stream(EMBED_STREAM, feed, receive)
    return [concatenate(tap) for tap in zip(*pieces, strict=True)]


def chunkwise(
    session: Session, settings: EmbedSettings, items: Items, limit: int, timeout: float | None
) -> Steps[Stream[Features]]:
    """A stream of the Features of one tap, a chunk of at most `limit` items at a time."""
    if limit < 1:
        raise InvalidInput(f"chunks of {limit} items", remedy="ask for at least 1")
    info = yield from known(session, settings.encoder, timeout)
    source = _items.listed(items, info.modality, session.blocking)
    chunks = _split(source, info, settings, limit)

    def receive(reply: encoders_pb2.EmbedResponse, chunk: Chunk) -> Features:
        [features] = _received(reply, settings.encoder, chunk)
        return features

    return Stream(EMBED_STREAM, _feed(session, settings, chunks, timeout, partial(release, source)), receive)


def known_chunks(session: Session, encoder: str, items: Items, timeout: float | None) -> Steps[Iterator[Chunk]]:
    """Chunks for calls that are not streams."""
    info = yield from known(session, encoder, timeout)
    source = _items.listed(items, info.modality, session.blocking)
    return _split(source, info, EmbedSettings(encoder=encoder), _chunks.ITEMS)


def known(session: Session, encoder: str, timeout: float | None) -> Steps[EncoderInfo]:
    """What this client has asked once: what the encoder reads and how large its rows are."""
    info = session.encoders.get(encoder)
    if info is None or not info.taps:  # the taps of an encoder may be known only after its first use
        reply = yield from unary(GET_ENCODER, encoders_pb2.GetEncoderRequest(name=encoder), timeout)
        info = session.encoders[encoder] = _convert.encoder(reply)
    return info


def _split(source: Iterable[object], info: EncoderInfo, settings: EmbedSettings, limit: int) -> Iterator[Chunk]:
    sizes = Sizes.of(info, settings.taps, settings.dtype)
    return _chunks.chunks(source, info.modality, sizes, limit=limit, skip=settings.skip_bad_items)


def _feed(
    session: Session,
    settings: EmbedSettings,
    chunks: Iterator[Chunk],
    timeout: float | None,
    release: Callable[[], object] = bool,
) -> Feed[Chunk]:
    return Feed(session, encoders_pb2.EmbedStreamRequest(settings=settings), chunks, timeout, release)


def release(source: object) -> None:
    """Stop waiting for an asynchronous source of the caller's."""
    if isinstance(source, Bridge):
        source.cancel()


def _received(reply: encoders_pb2.EmbedResponse, encoder: str, chunk: Chunk) -> list[Features]:
    """What could not be read here has come back as a failure of an empty item: the true reason takes its place."""
    found = _convert.features(reply, encoder, chunk.start)
    return [replace(f, failures={**f.failures, **chunk.failures}) for f in found] if chunk.failures else found

"""Encoders and their features. Every verb is written once for both clients: `_transport/calls.py` is what they yield."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from google.protobuf import wrappers_pb2

from topwork._codec import items as _items
from topwork._codec import messages
from topwork._codec.items import Items
from topwork._ops import item_requests
from topwork._ops.item_requests import Chunk, MessageSizes, StreamedRequest, answered, release
from topwork._ops.progress_bar import Progress
from topwork._transport.calls import ClientState, Steps, StreamCall, unary
from topwork._transport.methods import EMBED, EMBED_STREAM, GET_ENCODER, HEALTH, LIST_ENCODERS, NEAREST_WORDS
from topwork.encoders import EncoderInfo, Word
from topwork.errors import InvalidInput
from topwork.features import Features, concatenate
from topwork.v1 import encoders_pb2
from topwork.v1.encoders_pb2 import EmbedSettings

HEALTH_STATES = {1: "serving", 2: "not serving", 3: "unknown service"}


def health(session: ClientState, service: str = "", *, timeout: float | None = None) -> Steps[str]:
    """ "serving", "not serving" (starting, draining, or a worker is down) or "unknown".

    `service` is a gRPC service such as "topwork.v1.Encoders"; none asks for the server as a whole. Raises NotFound for a
    service that the server does not have, Unavailable where there is no server.
    """
    reply = yield from unary(HEALTH, wrappers_pb2.StringValue(value=service), timeout)
    return HEALTH_STATES.get(reply.value, "unknown")


def encoders(session: ClientState, *, timeout: float | None = None) -> Steps[list[EncoderInfo]]:
    """List the server's encoders by name, with or without their weights."""
    reply = yield from unary(LIST_ENCODERS, encoders_pb2.ListEncodersRequest(), timeout)
    return [messages.encoder(message) for message in reply.encoders]


def encoder(session: ClientState, name: str, *, timeout: float | None = None) -> Steps[EncoderInfo]:
    """One encoder, as it stands now. Raises NotFound."""
    reply = yield from unary(GET_ENCODER, encoders_pb2.GetEncoderRequest(name=name), timeout)
    info = session.encoders[name] = messages.encoder(reply)
    return info


def embed(
    session: ClientState,
    encoder: str,
    items: Items,
    *,
    tap: str | None = None,
    dtype: str = "float32",
    normalize: bool = False,
    dimensions: int = 0,
    options: Mapping[str, Any] | None = None,
    fingerprint: str | None = None,
    skip_bad_items: bool = False,
    priority: str = "normal",
    role: str | None = None,
    progress: Progress = None,
    timeout: float | None = None,
) -> Steps[Features]:
    """Features of one tap (the encoder's default tap unless named), in the order of the items.

    items           one item or an iterable of them. By what the encoder reads: text: str, or a pair (str, str);
                    image: path, bytes of a file, PIL image, or array (H, W, 3) uint8; video: path, bytes, or array
                    (T, H, W, 3) uint8; audio: path, bytes of a file, or a pair (samples, rate) of an array (n,) float32 or
                    int16 and its samples a second; arrays for others. Paths are read on this machine, only as they are sent.
                    Where it reads images and texts, a str is a text, and the path of a picture a pathlib.Path
    dtype           "float32", "float16", "int8" (with a scale a row) or "binary" (one bit a dimension)
    normalize       rows of unit length, after `dimensions`
    dimensions      keep the first so many; 0 keeps all
    options         what this encoder declares, such as {"truncate": True}; see `encoder(name).options`
    fingerprint     refuse (NotReady) where the tap's features have another
    skip_bad_items  a bad item gets no rows and stands in `failures`; without it the first one raises InvalidInput
    priority        "low" (bulk work that may wait for everybody else's), "normal" or "high" (somebody waits in front of a
                    screen): which requests go first where many wait for this encoder
    role            "query" (items that search) or "document" (items that are found): the encoder puts the prompt before them that
                    its model names for it, and takes them as they are where it names none; see `encoder(name).prompts`. Refused
                    beside options that set another prompt. Sets need none: what is written is a document, what searches a query
    progress        True for a bar on a terminal, or a function of (items done, items in all or None)
    timeout         seconds to wait for a reply; None is the client's. Long inputs are sent as a stream of chunks: there it
                    is the longest wait in which nothing moves

    Raises a TopworkError; its `item` is the position of the item to blame.
    """
    settings = messages.settings(
        encoder, [tap] if tap else [], dtype, normalize, dimensions, options, fingerprint, skip_bad_items, priority, role
    )
    [features] = yield from _whole(session, settings, items, progress, timeout)
    return features


def embed_taps(
    session: ClientState,
    encoder: str,
    items: Items,
    taps: Sequence[str],
    *,
    dtype: str = "float32",
    normalize: bool = False,
    dimensions: int = 0,
    options: Mapping[str, Any] | None = None,
    fingerprint: str | None = None,
    skip_bad_items: bool = False,
    priority: str = "normal",
    role: str | None = None,
    progress: Progress = None,
    timeout: float | None = None,
) -> Steps[dict[str, Features]]:
    """Features of several taps out of one pass, by the tap's name. See `embed` for the rest."""
    settings = messages.settings(
        encoder, list(taps), dtype, normalize, dimensions, options, fingerprint, skip_bad_items, priority, role
    )
    found = yield from _whole(session, settings, items, progress, timeout)
    return {features.tap: features for features in found}


def embed_stream(
    session: ClientState,
    encoder: str,
    items: Items,
    *,
    chunk: int = 64,
    tap: str | None = None,
    dtype: str = "float32",
    normalize: bool = False,
    dimensions: int = 0,
    options: Mapping[str, Any] | None = None,
    fingerprint: str | None = None,
    skip_bad_items: bool = False,
    priority: str = "normal",
    role: str | None = None,
    timeout: float | None = None,
) -> Steps[StreamCall[Features]]:
    """Features chunk by chunk, in order, for any number of items, even endless: memory stays bounded.

    `items` is read a few chunks ahead and no further. A Features holds at most `chunk` items (fewer where they are large; 1
    answers each as soon as it comes); its `start` is the position of its first item, and its `items`, `notes` and `failures`
    count from there. A server that restarts meanwhile is met with retries: nothing is lost and nothing comes twice.
    See `embed` for the rest.
    """
    settings = messages.settings(
        encoder, [tap] if tap else [], dtype, normalize, dimensions, options, fingerprint, skip_bad_items, priority, role
    )
    return (yield from _chunkwise(session, settings, items, chunk, timeout))


def nearest_words(
    session: ClientState,
    encoder: str,
    items: Items,
    k: int = 10,
    *,
    options: Mapping[str, Any] | None = None,
    timeout: float | None = None,
) -> Steps[list[list[Word]]]:
    """The `k` entries of the encoder's own vocabulary nearest to each item, best first, with their cosines.

    Only for encoders with `has_vocabulary`; others raise InvalidInput.
    """
    if not (yield from known_encoder(session, encoder, timeout)).has_vocabulary:  # before its items are looked at
        raise InvalidInput(f"{encoder} has no vocabulary", remedy="ask for an encoder of word vectors")
    nearest: list[list[Word]] = []
    for chunk in (yield from _known_chunks(session, encoder, items, timeout)):
        request = encoders_pb2.NearestWordsRequest(encoder=encoder, items=chunk.items, k=k, options=messages.struct(options))
        reply = yield from unary(NEAREST_WORDS, request, timeout, chunk.start)
        nearest += [messages.words(words) for words in reply.results]
    return nearest


def _whole(
    session: ClientState, settings: EmbedSettings, items: Items, progress: Progress, timeout: float | None
) -> Steps[list[Features]]:
    """Features of all items, one for each tap in the order asked."""
    info = yield from known_encoder(session, settings.encoder, timeout)
    source = _items.listed(items, info.reads, session.blocking)
    chunks = _split(source, info, settings, item_requests.ITEMS)
    brief = _items.is_brief(source, info.reads)
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


def _chunkwise(
    session: ClientState, settings: EmbedSettings, items: Items, limit: int, timeout: float | None
) -> Steps[StreamCall[Features]]:
    """A stream of the Features of one tap, a chunk of at most `limit` items at a time."""
    info = yield from known_encoder(session, settings.encoder, timeout)
    source = _items.listed(items, info.reads, session.blocking)
    chunks = _split(source, info, settings, limit)

    def receive(reply: encoders_pb2.EmbedResponse, chunk: Chunk) -> Features:
        [features] = _received(reply, settings.encoder, chunk)
        return features

    return StreamCall(EMBED_STREAM, _ask(settings).feed(session, chunks, timeout, partial(release, source)), receive)


def _known_chunks(session: ClientState, encoder: str, items: Items, timeout: float | None) -> Steps[Iterator[Chunk]]:
    """Chunks for calls that are not streams."""
    info = yield from known_encoder(session, encoder, timeout)
    source = _items.listed(items, info.reads, session.blocking)
    return _split(source, info, EmbedSettings(encoder=encoder), item_requests.ITEMS)


def known_encoder(session: ClientState, name: str, timeout: float | None) -> Steps[EncoderInfo]:
    """Get what the encoder reads and how large its rows are; a client asks once."""
    info = session.encoders.get(name)
    if info is None or not info.taps:  # the taps of an encoder may be known only after its first use
        info = yield from encoder(session, name, timeout=timeout)
    return info


def _split(source: Iterable[object], info: EncoderInfo, settings: EmbedSettings, limit: int) -> Iterator[Chunk]:
    sizes = MessageSizes.of(info, settings.taps, settings.dtype)
    return item_requests.chunks(source, info.reads, sizes, limit=limit, skip=settings.skip_bad_items)


def _received(reply: encoders_pb2.EmbedResponse, encoder: str, chunk: Chunk) -> list[Features]:
    """Read a reply. An item unreadable here came back as the failure of an empty one: its true error takes the place."""
    found = messages.features(reply, encoder, chunk.start)
    return [replace(f, failures={**f.failures, **chunk.failures}) for f in found] if chunk.failures else found

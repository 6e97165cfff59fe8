"""Predictions of heads: items, vectors or stored ids become messages, and the replies `Predictions`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from topwork._codec import decode_heads, messages
from topwork._codec import items as _items
from topwork._codec.items import Items
from topwork._ops import item_requests, ready_vectors
from topwork._ops.embed import known_encoder
from topwork._ops.heads import head, several
from topwork._ops.item_labels import texts
from topwork._ops.item_requests import Chunk, MessageSizes, StreamedRequest, answered
from topwork._ops.progress_bar import Progress, reporting
from topwork._transport.calls import ClientState, Steps, unary
from topwork._transport.methods import PREDICT, PREDICT_STREAM
from topwork.errors import InvalidInput, NotReady, TopworkError
from topwork.features import Array, Features
from topwork.heads import HeadInfo
from topwork.predictions import Predictions, joined
from topwork.v1 import encoders_pb2, heads_pb2
from topwork.v1.heads_pb2 import PredictRequest, PredictSettings, PredictStreamRequest


def predict(
    session: ClientState,
    heads: str | Sequence[str],
    items: Items | None = None,
    *,
    vectors: Features | Any = None,
    fingerprint: str = "",
    set: str = "",
    ids: str | int | Iterable[str | int] | None = None,
    top: int = 0,
    coverage: float = 0.0,
    abstain: float | None = None,
    unlike: float | None = None,
    min_score: float | None = None,
    max_overlap: float | None = None,
    max_boxes: int = 0,
    features: bool = False,
    options: Mapping[str, Any] | None = None,
    skip_bad_items: bool = False,
    priority: str = "normal",
    progress: Progress = None,
    timeout: float | None = None,
) -> Steps[Predictions | dict[str, Predictions]]:
    """Predict items with a head, in their order; with a list of heads a dict by their names, from one pass of each trunk.

    items           as in `embed`; any number of them. A lone item is one
    vectors         instead of items: rows (n, dim) of the head's tap, pooled as it reads them; or Features of one row an item
    fingerprint     of the vectors: NotReady where it is not the head's. Features bring theirs along
    set, ids        instead of items: those of a feature set, by their ids; nothing is encoded
    top             so many of the classes, most probable first; 0: all
    coverage        the share of new items whose truth is promised to be among `candidates`, or between `low` and `high`: 0.9.
                    0: no candidates, and the 90% band
    abstain         what no answer costs where a wrong one costs 1, such as 0.2: a class that is likelier wrong than that is not
                    given, and `abstained` is "unsure". None: every item has an answer
    unlike          the least `typicality` of an item with an answer, such as 0.01: one that is less like the training items is
                    `abstained` as "unlike". 0: typicality alone; None: it is not computed
    min_score       detection: only boxes of at least this score; None: that at which F1 was best on held-out items
    max_overlap     detection: of two boxes of one class that overlap by more (intersection over union) the surer one; None: 0.6
    max_boxes       detection: at most so many an item, the surest; 0: 100
    features        what the heads have read, too: `Predictions.features`
    options         of the encoder; None: those of the set that the head learned from
    skip_bad_items  a bad item stands in `failures`; without it the first one raises InvalidInput
    priority        "low", "normal" or "high", as in `embed`
    progress        True for a bar on a terminal, or a function of (items done, items in all or None)
    timeout         seconds to wait for a reply; None is the client's. Many items are sent as a stream of chunks: there it is the
                    longest wait in which nothing moves

    Raises NotFound for a head that is not there, NotReady for one that is not trained yet or whose trunk has changed; the `item`
    of an error is the position of the item to blame.
    """
    if sum(given is not None for given in (items, vectors, ids)) != 1 or bool(set) != (ids is not None):
        raise InvalidInput("predictions are of one kind of input", remedy="pass items, vectors=, or set= with ids=")
    settings = heads_pb2.PredictSettings(
        heads=several(heads),
        top=top,
        coverage=coverage,
        abstain=abstain,
        unlike=unlike,
        min_score=min_score,
        max_overlap=max_overlap,
        max_boxes=max_boxes,
        features=features,
        options=messages.struct(options),
        skip_bad_items=skip_bad_items,
        priority=messages.priority_of(priority),
    )
    if not settings.heads:
        raise InvalidInput("no head is named", remedy="name one of `heads()`")
    found = yield from _predicted(session, settings, items, (vectors, fingerprint), (set, ids), progress, timeout)
    return found[0] if isinstance(heads, str) else dict(zip(heads, found, strict=True))


#: Entries in one message of vectors or ids; with features fewer, since several rows of each may come back.
MOST, WITH_FEATURES = 1024, 64


class PredictChunk(Chunk):
    """A chunk on its way to heads."""

    def messages(self) -> Iterator[PredictStreamRequest]:  # type: ignore[override]
        for message in super().messages():
            if message.HasField("items"):
                yield PredictStreamRequest(items=message.items)
            else:
                yield PredictStreamRequest(chunk=message.chunk)


def _predicted(
    session: ClientState,
    settings: PredictSettings,
    items: Any,
    vectors: tuple[Any, str],
    stored: tuple[str, Any],
    progress: Progress,
    timeout: float | None,
) -> Steps[list[Predictions]]:
    """Collect the predictions of each head over all items."""
    try:
        known = yield from _known(session, settings.heads, timeout)
        if items is not None:
            pieces = yield from _of_items(session, settings, known, items, progress, timeout)
        else:
            parts = _of_vectors(settings, *vectors) if vectors[0] is not None else _of_stored(settings, *stored)
            pieces = yield from _each(known, list(parts), settings.heads[0], progress, timeout)
    except TopworkError:
        for name in settings.heads:  # what is known of them may be why
            session.heads.pop(name, None)
        raise
    return [joined(of_one) for of_one in zip(*pieces, strict=True)]


def _known(session: ClientState, names: Any, timeout: float | None) -> Steps[dict[str, HeadInfo]]:
    """Get on which encoder each head stands; a client asks once."""
    for name in names:
        if name not in session.heads or not session.heads[name].encoder:
            yield from head(session, name, timeout=timeout)
    return {name: session.heads[name] for name in names}


def _of_items(
    session: ClientState,
    settings: PredictSettings,
    known: Mapping[str, HeadInfo],
    items: Any,
    progress: Progress,
    timeout: float | None,
) -> Steps[list[list[Predictions]]]:
    first = known[settings.heads[0]]
    for name in settings.heads:
        if not known[name].encoder and known[name].state == "failed":
            raise NotReady(f"the head {name!r} does not serve: {known[name].detail}", remedy="train it again, or drop it")
        if not known[name].encoder:
            raise InvalidInput(
                f"the head {name!r} reads ready vectors, and no encoder makes them of items",
                remedy="pass vectors=, or set= with ids= of a set that holds such vectors",
            )
    info = yield from known_encoder(session, first.encoder, timeout)
    source = _items.listed(items, info.reads, session.blocking)
    taps = {head.tap for head in known.values() if settings.features and head.encoder == first.encoder}
    sizes = MessageSizes.of(info, sorted(taps), 0) if taps else MessageSizes([], 4.0)
    cut = item_requests.chunks(source, info.reads, sizes, skip=settings.skip_bad_items)
    chunks: Iterator[Chunk] = (PredictChunk(chunk.start, chunk.items, chunk.file, chunk.failures) for chunk in cut)
    ask, brief = _ask(settings, known, info.name), _items.is_brief(source, info.reads)
    return (yield from answered(session, ask, source, chunks, first.name, progress, timeout, brief=brief))


def _ask(settings: PredictSettings, known: Mapping[str, HeadInfo], encoder: str) -> StreamedRequest[list[Predictions]]:
    return StreamedRequest(
        encoder=encoder,
        alone=PREDICT,
        request=lambda chunk: PredictRequest(settings=settings, items=encoders_pb2.Items(items=chunk.items)),
        stream=PREDICT_STREAM,
        opening=PredictStreamRequest(settings=settings),
        read=lambda reply, chunk: _received(reply, known, chunk),
    )


def _received(reply: heads_pb2.PredictResponse, known: Mapping[str, HeadInfo], chunk: Chunk) -> list[Predictions]:
    """Read a reply. An item unreadable here came back as the failure of an empty one: its true error takes the place."""
    found = [decode_heads.predictions(of, reply, known[of.head].encoder, chunk.items, chunk.start) for of in reply.predictions]
    return [replace(one, failures={**one.failures, **chunk.failures}) for one in found] if chunk.failures else found


def _each(
    known: Mapping[str, HeadInfo], parts: list[tuple[int, PredictRequest]], label: str, progress: Progress, timeout: float | None
) -> Steps[list[list[Predictions]]]:
    """Send all parts, one after another: (the position of its first entry, the request)."""
    pieces: list[list[Predictions]] = []
    with reporting(progress, sum(map(_size, (request for _, request in parts))), label) as advance:
        for start, request in parts:
            reply = yield from unary(PREDICT, request, timeout, start)
            pieces.append(_received(reply, known, Chunk(start, ())))
            advance(_size(request))
    return pieces


def _size(request: PredictRequest) -> int:
    return int(request.vectors.shape[0]) if request.HasField("vectors") else len(request.stored.ids)


def _of_vectors(settings: PredictSettings, vectors: Any, fingerprint: str) -> Iterator[tuple[int, PredictRequest]]:
    """Cut vectors into messages, at least one: the server refuses an empty array."""
    rows = ready_vectors.matrix(_single(vectors) if isinstance(vectors, Features) else vectors)
    if rows.ndim not in (1, 2):
        raise InvalidInput(f"vectors of shape {list(rows.shape)}", remedy="pass (dim,) or (n, dim)")
    several = rows[None] if rows.ndim == 1 else rows
    step = max(1, min(_most(settings), item_requests.REQUEST // max(1, several.shape[1] * 4)))
    made_by = fingerprint or (vectors.fingerprint if isinstance(vectors, Features) else "")
    for start in range(0, max(1, len(several)), step):
        part = messages.tensor(ready_vectors.sendable(several[start : start + step]))
        yield start, PredictRequest(settings=settings, vectors=part, fingerprint=made_by)


def _single(features: Features) -> Array:
    several = np.flatnonzero(features.counts != 1)
    if len(several):
        raise InvalidInput(
            f"the item has {features.counts[several[0]]} rows",
            remedy="pass the items, or rows that are pooled",
            item=int(several[0]),
        )
    return features.dequantized()


def _of_stored(settings: PredictSettings, set: str, ids: Any) -> Iterator[tuple[int, PredictRequest]]:
    named, step = texts(ids), _most(settings)
    for start in range(0, max(1, len(named)), step):
        yield start, PredictRequest(settings=settings, stored=heads_pb2.StoredItems(set=set, ids=named[start : start + step]))


def _most(settings: PredictSettings) -> int:
    return WITH_FEATURES if settings.features else MOST

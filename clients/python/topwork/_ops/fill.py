"""Words for the gaps of texts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from topwork._codec import decode_fills, messages
from topwork._codec import items as _items
from topwork._codec.items import Items
from topwork._ops import item_requests
from topwork._ops.embed import known_encoder
from topwork._ops.item_requests import Chunk, MessageSizes, explained, release
from topwork._ops.progress_bar import Progress, reporting
from topwork._transport.calls import ClientState, Steps, unary, work
from topwork._transport.methods import FILL
from topwork.errors import DeadlineExceeded
from topwork.fills import Fills, joined
from topwork.v1.encoders_pb2 import EmbedSettings, FillRequest


def fill(
    session: ClientState,
    encoder: str,
    items: Items,
    k: int = 5,
    *,
    targets: Sequence[str] = (),
    taps: Sequence[str] = (),
    options: Mapping[str, Any] | None = None,
    skip_bad_items: bool = False,
    priority: str = "normal",
    progress: Progress = None,
    timeout: float | None = None,
) -> Steps[Fills]:
    """The `k` likeliest words for each gap of texts, or pairs of texts, with their probabilities.

    A gap is written as [MASK], or as the encoder's own mask; each is filled on its own. A language model that goes from left to
    right says what comes after a text, which may end in [MASK].

    targets         choose among these words alone, each an entry of the vocabulary (" cat" where that has its space); their
                    probabilities stay those among all
    taps            features of these taps, out of the same pass: `Fills.features`
    options         what this encoder declares; see `encoder(name).options`
    skip_bad_items  a bad item has no gaps and stands in `failures`; without it the first one raises InvalidInput
    priority        "low", "normal" or "high", as of `embed`
    progress        True for a bar on a terminal, or a function of (items done, items in all or None)

    Only for encoders with a head over their vocabulary ("mlm", "lm" or "cbow" in `encoder(name).heads`); others raise
    InvalidInput, and say what to do.
    """
    settings = messages.settings(encoder, list(taps), "float32", False, 0, options, None, skip_bad_items, priority)
    sizes = MessageSizes([], 4.0)
    if taps:
        sizes = MessageSizes.of((yield from known_encoder(session, encoder, timeout)), taps, 0)
    source = _items.listed(items, "text", session.blocking)
    total = len(source) if isinstance(source, list | tuple) else None
    chunks = item_requests.chunks(source, "text", sizes, skip=skip_bad_items)
    pieces: list[Fills] = []
    try:
        with reporting(progress, total, encoder) as advance:
            while (chunk := (yield from work(lambda: next(chunks, None if pieces else Chunk(0, ()))))) is not None:
                pieces.append((yield from _one(settings, chunk, k, targets, timeout)))
                advance(len(chunk))
    except DeadlineExceeded as error:
        raise (yield from explained(session, encoder, error)) from None
    finally:
        release(source)
    return joined(pieces)


def _one(settings: EmbedSettings, chunk: Chunk, k: int, targets: Sequence[str], timeout: float | None) -> Steps[Fills]:
    request = FillRequest(settings=settings, items=chunk.items, k=k, targets=targets)
    reply = yield from unary(FILL, request, timeout, chunk.start)
    return decode_fills.fills(reply, settings.encoder, chunk.items, chunk.start, chunk.failures)

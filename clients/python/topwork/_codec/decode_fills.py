"""Filled gaps out of messages."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from topwork._codec import messages
from topwork.errors import TopworkError
from topwork.features import Timings
from topwork.fills import FilledGap, FilledText, Fills, FillWord
from topwork.v1 import encoders_pb2, types_pb2


def fills(
    reply: encoders_pb2.FillResponse,
    encoder: str,
    items: Sequence[types_pb2.Item],
    start: int,
    unreadable: Mapping[int, TopworkError],
) -> Fills:
    """Decode a reply to the items, the first of which is the caller's number `start`; those that were unreadable here came back
    as the failures of empty ones."""
    failures = messages.failures(reply.failures, start) | dict(unreadable)
    notes, computed = messages.notes(reply.notes), messages.numerics(reply)
    timings = messages.of_message(Timings, reply.timings)
    found = [messages.tap_features(tap, encoder, start, notes, failures, computed, timings) for tap in reply.features]
    texts = (_text(item, gaps, failures.get(i)) for i, (item, gaps) in enumerate(zip(items, reply.results, strict=True)))
    features = {one.tap: one for one in found}
    return Fills(encoder, reply.head, tuple(texts), features, notes, failures, computed, timings)


def _text(item: types_pb2.Item, gaps: encoders_pb2.FilledGaps, error: TopworkError | None) -> FilledText:
    pair = item.text_pair
    return FilledText((pair.text, pair.pair) if item.HasField("text_pair") else item.text, tuple(map(_gap, gaps.gaps)), error)


def _gap(gap: encoders_pb2.FilledGap) -> FilledGap:
    return FilledGap(gap.start, gap.end, gap.part, tuple(FillWord(one.word, one.probability, one.entry) for one in gap.words))

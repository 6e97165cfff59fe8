"""Filled gaps as messages."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence

from topwork.v1 import encoders_pb2

from topwork_server.errors import TopworkError
from topwork_server.heads.serving.filler import FilledGap, FillResult
from topwork_server.inference.output_format import OutputFormat
from topwork_server.services.convert import item_messages


def response(
    found: FillResult, format: OutputFormat, positions: Sequence[int], failures: Mapping[int, TopworkError], started: float
) -> encoders_pb2.FillResponse:
    """The whole reply. The items that were filled have `positions` among all, the others `failures`; `started` is when the
    request came, in time.monotonic()."""
    features = found.features.among(positions, failures) if failures else found.features
    gaps = dict(zip(positions, found.gaps, strict=True))
    embedded = item_messages.response(features, format, time.monotonic() - started)
    return encoders_pb2.FillResponse(
        results=[_gaps(gaps.get(item, ())) for item in range(len(positions) + len(failures))],
        head=found.head.name.rpartition("/")[2],
        features=embedded.features,
        notes=embedded.notes,
        failures=embedded.failures,
        numerics=embedded.numerics,
        timings=embedded.timings,
    )


def _gaps(filled: Sequence[FilledGap]) -> encoders_pb2.FilledGaps:
    return encoders_pb2.FilledGaps(gaps=[_gap(one) for one in filled])


def _gap(filled: FilledGap) -> encoders_pb2.FilledGap:
    likely = filled.likely
    words = zip(likely.words, likely.probabilities.tolist(), likely.entries.tolist(), strict=True)
    return encoders_pb2.FilledGap(
        start=filled.gap.start,
        end=filled.gap.end,
        part=filled.gap.part,
        words=[encoders_pb2.FillWord(word=word, probability=probability, entry=entry) for word, probability, entry in words],
    )

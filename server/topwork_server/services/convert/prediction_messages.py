"""What heads say <-> messages, and nothing else."""

from __future__ import annotations

from collections.abc import Hashable

import numpy as np
from topwork.v1 import heads_pb2

from topwork_server.heads.serving.head_output import HeadOutput, PredictedSpan
from topwork_server.heads.serving.predictor import PredictionResult, PredictParams
from topwork_server.inference.output_format import OutputFormat
from topwork_server.services.convert import item_messages
from topwork_server.services.convert.head_messages import TASK_NUMBERS, version
from topwork_server.types import Array


def ask(settings: heads_pb2.PredictSettings, deadline: float | None, flow: Hashable, *, wait: bool) -> PredictParams:
    return PredictParams(
        options=item_messages.options(settings.options) if settings.HasField("options") else None,
        deadline=deadline,
        wait=wait,
        skip_bad_items=settings.skip_bad_items,
        features=settings.features,
        client=flow,
        priority=item_messages.priority(settings.priority),
    )


def size(found: PredictionResult) -> int:
    """About how many bytes it takes."""
    arrays = [
        array for said in found.outputs for array in (said.probabilities, said.masks, said.confidences) if array is not None
    ]
    arrays += [tap.rows for features in found.features for tap in features.taps]
    spans = sum(len(one) for out in found.outputs for one in out.spans or ())
    return sum(array.nbytes for array in arrays) + 64 * spans


def response(found: PredictionResult, top: int, total: float) -> heads_pb2.PredictResponse:
    """The whole reply; `total` is the request's time in seconds."""
    return heads_pb2.PredictResponse(
        predictions=[predictions(said, top) for said in found.outputs],
        features=[item_messages.tap_features(tap, OutputFormat()) for features in found.features for tap in features.taps],
        notes=item_messages.notes(found.notes),
        failures=[item_messages.failure(i, error) for i, error in sorted(found.failures.items())],
        timings=item_messages.timings(found.timings, total),
    )


def predictions(said: HeadOutput, top: int) -> heads_pb2.Predictions:
    head = said.head
    message = heads_pb2.Predictions(
        head=head.name,
        task=TASK_NUMBERS[head.task],
        names=head.names,
        interval=head.interval,
        fingerprint=head.tap.fingerprint,
        version=version(head),
    )
    if said.probabilities is not None:
        _fill_probabilities(message, said.probabilities, top)
    for field in ("values", "masks", "confidences", "boxes"):
        array: Array | None = getattr(said, field)
        if array is not None:
            getattr(message, field).CopyFrom(item_messages.tensor(array))
    for spans in said.spans or ():
        message.spans.append(heads_pb2.FoundSpans(spans=map(_span, spans)))
    return message


def _fill_probabilities(message: heads_pb2.Predictions, probabilities: Array, top: int) -> None:
    if top:
        best = np.argsort(-probabilities, axis=1, kind="stable")[:, :top].astype(np.int32)
        message.best.CopyFrom(item_messages.tensor(best))
        probabilities = np.take_along_axis(probabilities, best, axis=1)
    message.probabilities.CopyFrom(item_messages.tensor(probabilities))


def _span(span: PredictedSpan) -> heads_pb2.FoundSpan:
    return heads_pb2.FoundSpan(start=span.start, end=span.end, label=span.label, probability=span.probability, part=span.part)

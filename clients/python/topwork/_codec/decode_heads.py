"""Messages of heads -> the dataclasses of this package, and nothing else."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from topwork._codec import decode_sets, messages
from topwork.errors import InvalidInput
from topwork.features import Array, Timings
from topwork.heads import ClassShare, HeadInfo, LabelShift, MetricValue, TrainerInfo
from topwork.predictions import ARRAYS, Detection, FoundSpan, Predictions
from topwork.v1 import heads_pb2, types_pb2

TASKS = {
    "classification": heads_pb2.TASK_CLASSIFICATION,
    "multi-label": heads_pb2.TASK_MULTI_LABEL,
    "regression": heads_pb2.TASK_REGRESSION,
    "tagging": heads_pb2.TASK_TAGGING,
    "question-answering": heads_pb2.TASK_QUESTION_ANSWERING,
    "segmentation": heads_pb2.TASK_SEGMENTATION,
    "detection": heads_pb2.TASK_DETECTION,
}
#: Reasons for no answer; an item that has one has "".
ABSTENTIONS = {heads_pb2.ABSTENTION_UNSURE: "unsure", heads_pb2.ABSTENTION_UNLIKE: "unlike"}


def task(name: str) -> heads_pb2.Task:
    """ "" is by the type of the column."""
    if name and name not in TASKS:
        raise InvalidInput(f"no task {name!r}", remedy=f"ask for one of {', '.join(TASKS)}")
    return TASKS[name] if name else heads_pb2.TASK_UNSPECIFIED


def task_name(number: int) -> str:
    return messages.name_of(heads_pb2.Task, number).replace("_", "-")


def trainer(message: heads_pb2.Trainer) -> TrainerInfo:
    tasks, options = tuple(map(task_name, message.tasks)), messages.options_info(message.options)
    return messages.of_message(TrainerInfo, message, tasks=tasks, options=options)


def head(message: heads_pb2.Head) -> HeadInfo:
    return messages.of_message(
        HeadInfo,
        message,
        job=decode_sets.job(message.job) if message.HasField("job") else None,
        task=task_name(message.task) if message.task else "",
        metrics=tuple(messages.of_message(MetricValue, metric) for metric in message.metrics),
        baseline=tuple(messages.of_message(MetricValue, metric) for metric in message.baseline),
        chosen=dict(sorted(messages.options(message.chosen).items())),
        recent=_shift(message.recent) if message.HasField("recent") else None,
        created=decode_sets.moment(message.created) if message.created else None,
    )


def _shift(message: heads_pb2.LabelShift) -> LabelShift:
    shares = tuple(messages.of_message(ClassShare, share) for share in message.shares)
    return messages.of_message(LabelShift, message, shares=shares)


def predictions(
    message: heads_pb2.Predictions, reply: heads_pb2.PredictResponse, encoder: str, items: Sequence[types_pb2.Item], start: int
) -> Predictions:
    """Read one head's predictions of the `items` that were sent from position `start` on; spans are cut out of their texts."""
    found = [tap for tap in reply.features if tap.fingerprint == message.fingerprint]
    notes = messages.notes(reply.notes)
    timings = messages.of_message(Timings, reply.timings)
    tensors = _tensors(message)
    failures = messages.failures((f for f in reply.failures if _is_missing(message, tensors, f.item)), start)
    return Predictions(
        head=message.head,
        task=task_name(message.task),
        names=tuple(message.names),
        items=len(items) or max([len(message.spans), len(message.detections), *(len(array) for array in tensors.values())]),
        interval=message.interval,
        spans=[tuple(_spans(of.spans, item)) for of, item in _with_items(message.spans, items)] if message.spans else None,
        candidates=[tuple(of.names) for of in message.candidates] if message.candidates else None,
        abstained=[ABSTENTIONS.get(why, "") for why in message.abstained] if message.abstained else None,
        threshold=message.threshold,
        detections=[tuple(map(_detection, of.boxes)) for of in message.detections] if message.detections else None,
        fingerprint=message.fingerprint,
        version=message.version,
        features=messages.tap_features(found[0], encoder, start, notes, failures, None, timings) if found else None,
        notes=notes,
        failures=failures,
        timings=timings,
        **tensors,
    )


def _is_missing(message: heads_pb2.Predictions, tensors: Mapping[str, Array], item: int) -> bool:
    """Tell whether the head has no prediction of that item; another head, which reads other taps, may have one."""
    numbers = [array[item] for array in tensors.values() if array.dtype.kind == "f"]
    lists = [of[item] for of in (message.spans, message.detections) if of]
    return any(np.isnan(of_item).any() for of_item in numbers) or any(not of_item.ListFields() for of_item in lists)


def _detection(found: heads_pb2.DetectedBox) -> Detection:
    return Detection(found.label, found.score, (found.x0, found.y0, found.x1, found.y1))


def _tensors(message: Any) -> dict[str, Any]:
    return {name: messages.array(getattr(message, name)) for name in ARRAYS if message.HasField(name)}


def _with_items(
    spans: Sequence[heads_pb2.FoundSpans], items: Sequence[types_pb2.Item]
) -> Iterable[tuple[heads_pb2.FoundSpans, types_pb2.Item]]:
    return zip(spans, items or [types_pb2.Item()] * len(spans), strict=True)


def _spans(spans: Iterable[heads_pb2.FoundSpan], item: types_pb2.Item) -> Iterable[FoundSpan]:
    pair = item.text_pair
    parts = (pair.text, pair.pair) if item.HasField("text_pair") else (item.text, "")
    for span in spans:
        text = parts[min(span.part, 1)][span.start : span.end]
        yield FoundSpan(span.start, span.end, span.label, text, span.probability, span.part)

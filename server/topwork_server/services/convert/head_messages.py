"""Converts between messages and the data of heads and predictions."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import asdict
from datetime import UTC, datetime

import numpy as np
from topwork.heads import LabelShift, MetricValue
from topwork.v1 import heads_pb2

from topwork_server.errors import InvalidInput
from topwork_server.heads.head_status import HeadDescription, HeadState
from topwork_server.heads.head_types import (
    DESCRIBABLE,
    LEARNED,
    Head,
    HeadDefinition,
    Task,
    TrainRequest,
    UnlabeledUse,
)
from topwork_server.heads.pooling import trained_views
from topwork_server.heads.serving.caution import Caution
from topwork_server.heads.serving.head_decoding import BoxQuery
from topwork_server.heads.serving.head_output import Abstention, DetectedBox, HeadOutput, PredictedSpan
from topwork_server.heads.serving.predictor import PredictionResult, PredictParams
from topwork_server.heads.training.probe_request import ProbeRequest
from topwork_server.inference.output_format import OutputFormat
from topwork_server.plugin_api.boxes import CANDIDATES
from topwork_server.plugin_api.plugin_registry import RegisteredTrainer
from topwork_server.plugin_api.trainer import TrainerSpec
from topwork_server.services.convert import encoder_messages, item_messages
from topwork_server.services.jobs import job_message
from topwork_server.services.request_checks import check_set_name
from topwork_server.types import Array

TASKS: Mapping[int, Task] = {
    heads_pb2.TASK_CLASSIFICATION: Task.CLASSIFICATION,
    heads_pb2.TASK_MULTI_LABEL: Task.MULTI_LABEL,
    heads_pb2.TASK_REGRESSION: Task.REGRESSION,
    heads_pb2.TASK_TAGGING: Task.TAGGING,
    heads_pb2.TASK_QUESTION_ANSWERING: Task.QUESTION_ANSWERING,
    heads_pb2.TASK_SEGMENTATION: Task.SEGMENTATION,
    heads_pb2.TASK_FILL: Task.FILL,
    heads_pb2.TASK_DETECTION: Task.DETECTION,
    heads_pb2.TASK_ALIGNMENT: Task.ALIGNMENT,
}
TASK_NUMBERS = {task: heads_pb2.Task.Name(heads_pb2.Task.ValueType(number)) for number, task in TASKS.items()}
ABSTENTIONS: Mapping[Abstention | None, heads_pb2.Abstention] = {
    None: heads_pb2.ABSTENTION_UNSPECIFIED,
    Abstention.UNSURE: heads_pb2.ABSTENTION_UNSURE,
    Abstention.UNLIKE: heads_pb2.ABSTENTION_UNLIKE,
}
#: Boxes of an item that may be asked for: as many as compete with one another.
MOST_BOXES_ASKED = CANDIDATES
STATES = {
    HeadState.TRAINING: heads_pb2.HEAD_STATE_TRAINING,
    HeadState.READY: heads_pb2.HEAD_STATE_READY,
    HeadState.FAILED: heads_pb2.HEAD_STATE_FAILED,
}


def train_request(request: heads_pb2.TrainRequest) -> TrainRequest:
    return TrainRequest(
        set=check_set_name(request.set),
        target=request.target,
        name=request.name,
        kind=request.kind,
        task=_task(request.task),
        taps=tuple(request.taps),
        poolings=tuple(request.poolings),
        options=item_messages.options(request.options),
        where=request.where,
        test_where=request.test_where,
        group=request.group,
        weight=request.weight,
        combine=request.combine,
        folds=request.folds,
        seed=request.seed,
        version=request.version,
        unlabeled=_unlabeled(request.unlabeled),
        descriptions=dict(sorted(request.descriptions.items())),  # a map has no order, and the same seed is the same head
        replace=request.replace,
        also=dict(sorted(request.also.items())),
    )


def probe_request(request: heads_pb2.ProbeRequest) -> ProbeRequest:
    return ProbeRequest(
        sets=tuple(request.sets),
        target=request.target,
        kind=request.kind,
        task=_task(request.task),
        taps=tuple(request.taps),
        poolings=tuple(request.poolings),
        options=item_messages.options(request.options),
        where=request.where,
        group=request.group,
        weight=request.weight,
        folds=request.folds,
        seed=request.seed,
    )


def trainer(registered: RegisteredTrainer) -> heads_pb2.Trainer:
    spec = registered.spec
    return heads_pb2.Trainer(
        kind=spec.kind,
        description=spec.description,
        options=encoder_messages.options(spec.trainer.options),
        plugin=registered.owner,
        tasks=[TASK_NUMBERS[task] for task in LEARNED if task.target in spec.trainer.targets and not _undescribed(task, spec)],
        needs_inputs=spec.tunes,
        needs_descriptions=spec.needs_descriptions,
        min_per_class=spec.min_per_class,
    )


def _undescribed(task: Task, spec: TrainerSpec) -> bool:
    """Tell whether the kind needs descriptions, and the task's classes have none."""
    return spec.needs_descriptions and task not in DESCRIBABLE


def head(described: HeadDescription, shift: LabelShift | None = None) -> heads_pb2.Head:
    message = heads_pb2.Head(
        name=described.name,
        state=STATES[described.state],
        detail=described.detail,
        job=job_message(described.job) if described.job else None,
        bytes=described.bytes,
        recent=_shift(shift) if shift else None,
    )
    if described.definition:
        _fill_definition(message, described.definition)
    if described.head:
        _fill_head(message, described.head)
    return message


def _shift(shift: LabelShift) -> heads_pb2.LabelShift:
    shares = [heads_pb2.ClassShare(**asdict(one)) for one in shift.shares]
    return heads_pb2.LabelShift(items=shift.items, shares=shares, p_value=shift.p_value, warning=shift.warning)


def _fill_definition(message: heads_pb2.Head, definition: HeadDefinition) -> None:
    """Fill in what was asked for. Of several views to choose from, the first stands until one is chosen."""
    tap, pooling = trained_views(definition)[0]
    message.task = TASK_NUMBERS[definition.task]  # type: ignore[assignment]
    message.kind, message.set, message.version = definition.kind, definition.set, definition.version
    message.target, message.encoder, message.seed = definition.target, definition.encoder, definition.seed
    message.tap, message.pooling, message.fingerprint = tap.tap.name, pooling, tap.fingerprint
    message.weight = definition.weight
    message.options.CopyFrom(item_messages.struct(definition.options))


def _fill_head(message: heads_pb2.Head, head: Head) -> None:
    """Fill in what was learned."""
    message.task = TASK_NUMBERS[head.task]  # type: ignore[assignment]
    message.kind, message.encoder, message.estimate, message.server_version = (
        head.kind,
        head.encoder,
        head.estimate,
        head.server_version,
    )
    message.tap, message.pooling, message.fingerprint = head.tap.tap.name, head.pooling, head.tap.fingerprint
    message.names.extend(head.names)
    message.metrics.extend(map(_figure, head.metrics))
    message.baseline.extend(map(_figure, head.baseline))
    message.chosen.CopyFrom(item_messages.struct(head.chosen))
    message.labeled, message.unlabeled = head.labeled, head.unlabeled
    message.temperature, message.max_abs_error = head.temperature, head.max_abs_error
    message.created, message.training_seconds, message.pretrained = head.created, head.training_seconds, head.pretrained
    message.warnings.extend(head.warnings)


def version(head: Head) -> str:
    """Return the version of the head: when it was trained."""
    return datetime.fromtimestamp(head.created, UTC).isoformat(timespec="milliseconds")


def _figure(figure: MetricValue) -> heads_pb2.MetricValue:
    return heads_pb2.MetricValue(name=figure.name, value=figure.value, low=figure.low, high=figure.high)


def _task(number: int) -> Task | None:
    if number and TASKS.get(number) not in LEARNED:
        known = TASKS.get(number, number)
        raise InvalidInput(f"task {known} is not one that is learned", remedy=f"ask for {', '.join(LEARNED)}, or leave it out")
    return TASKS.get(number)


def _unlabeled(method: str) -> UnlabeledUse:
    try:
        return UnlabeledUse(method)
    except ValueError:
        known = ", ".join(one for one in UnlabeledUse if one)
        raise InvalidInput(f"unlabeled {method!r} is not known", remedy=f"ask for {known}, or leave it out") from None


def predict_params(settings: heads_pb2.PredictSettings, deadline: float | None, client: Hashable, *, wait: bool) -> PredictParams:
    return PredictParams(
        options=item_messages.options(settings.options) if settings.HasField("options") else None,
        deadline=deadline,
        wait=wait,
        skip_bad_items=settings.skip_bad_items,
        features=settings.features,
        caution=caution(settings),
        client=client,
        priority=item_messages.priority(settings.priority),
        boxes=box_query(settings),
    )


def caution(settings: heads_pb2.PredictSettings) -> Caution:
    abstain, unlike = (getattr(settings, name) if settings.HasField(name) else None for name in ("abstain", "unlike"))
    return Caution(settings.coverage, abstain, unlike)


def box_query(settings: heads_pb2.PredictSettings) -> BoxQuery:
    """The boxes that are asked for. InvalidInput for a number out of its range."""
    given = {name: getattr(settings, name) for name in ("min_score", "max_overlap") if settings.HasField(name)}
    for name, value in given.items():
        if not 0 <= value <= 1:
            raise InvalidInput(f"{name} = {value:g}", remedy="ask for 0 to 1, or leave it out")
    if settings.max_boxes > MOST_BOXES_ASKED:
        raise InvalidInput(f"max_boxes = {settings.max_boxes:,}", remedy=f"ask for at most {MOST_BOXES_ASKED:,}")
    return BoxQuery(**given, max_boxes=settings.max_boxes)


def prediction_size(result: PredictionResult) -> int:
    """About how many bytes its message takes."""
    arrays = [array for out in result.outputs for array in (out.probabilities, out.masks, out.confidences) if array is not None]
    arrays += [tap.rows for features in result.features for tap in features.taps]
    found = sum(len(one) for out in result.outputs for one in (*(out.spans or ()), *(out.detections or ())))
    candidates = sum(len(one) for out in result.outputs for one in out.candidates or ())
    return sum(array.nbytes for array in arrays) + 64 * found + 2 * candidates


def predict_response(result: PredictionResult, top: int, total: float) -> heads_pb2.PredictResponse:
    """The whole reply; `total` is the request's time in seconds."""
    return heads_pb2.PredictResponse(
        predictions=[predictions(output, top) for output in result.outputs],
        features=[item_messages.tap_features(tap, OutputFormat()) for features in result.features for tap in features.taps],
        notes=item_messages.notes(result.notes),
        failures=[item_messages.failure(i, error) for i, error in sorted(result.failures.items())],
        timings=item_messages.timings(result.timings, total),
    )


def predictions(output: HeadOutput, top: int) -> heads_pb2.Predictions:
    head = output.head
    message = heads_pb2.Predictions(
        head=head.name,
        task=TASK_NUMBERS[head.task],
        names=head.names,
        interval=head.interval if output.interval is None else output.interval,
        fingerprint=head.tap.fingerprint,
        version=version(head),
    )
    if output.probabilities is not None:
        _fill_probabilities(message, output.probabilities, top)
    for field in ("values", "masks", "confidences", "boxes", "typicality"):
        array: Array | None = getattr(output, field)
        if array is not None:
            getattr(message, field).CopyFrom(item_messages.tensor(array))
    for spans in output.spans or ():
        message.spans.append(heads_pb2.FoundSpans(spans=map(_span, spans)))
    message.candidates.extend(heads_pb2.Candidates(names=names) for names in output.candidates or ())
    message.abstained.extend(ABSTENTIONS[why] for why in output.abstained or ())
    message.threshold = output.threshold
    for boxes in output.detections or ():
        message.detections.append(heads_pb2.DetectedBoxes(boxes=map(_box, boxes)))
    return message


def _fill_probabilities(message: heads_pb2.Predictions, probabilities: Array, top: int) -> None:
    if top:
        best = np.argsort(-probabilities, axis=1, kind="stable")[:, :top].astype(np.int32)
        message.best.CopyFrom(item_messages.tensor(best))
        probabilities = np.take_along_axis(probabilities, best, axis=1)
    message.probabilities.CopyFrom(item_messages.tensor(probabilities))


def _box(found: DetectedBox) -> heads_pb2.DetectedBox:
    x0, y0, x1, y1 = found.box
    return heads_pb2.DetectedBox(x0=x0, y0=y0, x1=x1, y1=y1, label=found.label, score=found.score)


def _span(span: PredictedSpan) -> heads_pb2.FoundSpan:
    return heads_pb2.FoundSpan(start=span.start, end=span.end, label=span.label, probability=span.probability, part=span.part)

"""Protobuf <-> the frozen data of `heads`, and nothing else."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, TypeVar

from google.protobuf.struct_pb2 import Struct
from topwork.heads import MetricValue
from topwork.v1 import heads_pb2, types_pb2

from topwork_server.errors import InvalidInput
from topwork_server.heads.head_status import HeadDescription, HeadState
from topwork_server.heads.head_types import (
    DEFAULT_KIND,
    DESCRIBABLE,
    Head,
    HeadDefinition,
    Task,
    TrainRequest,
    UnlabeledUse,
)
from topwork_server.heads.training.probe_request import ProbeRequest
from topwork_server.plugin_api.plugin_registry import RegisteredTrainer
from topwork_server.plugin_api.trainer import TrainerSpec
from topwork_server.services.convert import item_messages
from topwork_server.services.convert.index_messages import named
from topwork_server.services.convert.option_messages import option_messages
from topwork_server.services.jobs import job_message
from topwork_server.types import Array

TASKS: Mapping[int, Task] = {
    heads_pb2.TASK_CLASSIFICATION: Task.CLASSIFICATION,
    heads_pb2.TASK_MULTI_LABEL: Task.MULTI_LABEL,
    heads_pb2.TASK_REGRESSION: Task.REGRESSION,
    heads_pb2.TASK_TAGGING: Task.TAGGING,
    heads_pb2.TASK_QUESTION_ANSWERING: Task.QUESTION_ANSWERING,
    heads_pb2.TASK_SEGMENTATION: Task.SEGMENTATION,
}
TASK_NUMBERS = {task: heads_pb2.Task.Name(heads_pb2.Task.ValueType(number)) for number, task in TASKS.items()}
STATES = {
    HeadState.TRAINING: heads_pb2.HEAD_STATE_TRAINING,
    HeadState.READY: heads_pb2.HEAD_STATE_READY,
    HeadState.FAILED: heads_pb2.HEAD_STATE_FAILED,
}
T = TypeVar("T")


def wish(request: heads_pb2.TrainRequest) -> TrainRequest:
    return TrainRequest(
        set=named(request.set),
        target=request.target,
        name=request.name,
        kind=request.kind or DEFAULT_KIND,
        task=_task(request.task),
        taps=tuple(request.taps),
        poolings=tuple(request.poolings),
        options=item_messages.options(request.options),
        where=request.where,
        test_where=request.test_where,
        group=request.group,
        folds=request.folds,
        seed=request.seed,
        version=request.version,
        unlabeled=_unlabeled(request.unlabeled),
        descriptions=dict(sorted(request.descriptions.items())),  # a map has no order, and the same seed is the same head
        replace=request.replace,
    )


def probe_wish(request: heads_pb2.ProbeRequest) -> ProbeRequest:
    return ProbeRequest(
        sets=tuple(request.sets),
        target=request.target,
        kind=request.kind or DEFAULT_KIND,
        task=_task(request.task),
        taps=tuple(request.taps),
        poolings=tuple(request.poolings),
        options=item_messages.options(request.options),
        where=request.where,
        group=request.group,
        folds=request.folds,
        seed=request.seed,
    )


def head_name(name: str) -> str:
    if not name:
        raise InvalidInput("no head is named", remedy="name one of those that ListHeads returns")
    return name


def trainer(registered: RegisteredTrainer) -> heads_pb2.Trainer:
    spec = registered.spec
    return heads_pb2.Trainer(
        kind=spec.kind,
        description=spec.description,
        options=option_messages(spec.trainer.options),
        plugin=registered.owner,
        tasks=[TASK_NUMBERS[task] for task in Task if task.target in spec.trainer.targets and not _undescribed(task, spec)],
        needs_inputs=spec.tunes,
        needs_descriptions=spec.needs_descriptions,
        min_per_class=spec.min_per_class,
    )


def _undescribed(task: Task, spec: TrainerSpec) -> bool:
    """Whether the kind needs descriptions, and the task's classes have none."""
    return spec.needs_descriptions and task not in DESCRIBABLE


def head(described: HeadDescription) -> heads_pb2.Head:
    message = heads_pb2.Head(
        name=described.name,
        state=STATES[described.state],
        detail=described.detail,
        job=job_message(described.job) if described.job else None,
        bytes=described.bytes,
    )
    if described.definition:
        _fill_definition(message, described.definition)
    if described.head:
        _fill_head(message, described.head)
    return message


def _fill_definition(message: heads_pb2.Head, definition: HeadDefinition) -> None:
    """What was asked for. Of several views to choose from, the first stands until one is chosen."""
    tap, pooling = definition.views[0]
    message.task = TASK_NUMBERS[definition.task]  # type: ignore[assignment]
    message.kind, message.set, message.version = definition.kind, definition.set, definition.version
    message.target, message.encoder, message.seed = definition.target, definition.encoder, definition.seed
    message.tap, message.pooling, message.fingerprint = tap.tap.name, pooling, tap.fingerprint
    message.options.CopyFrom(_struct(definition.options))


def _fill_head(message: heads_pb2.Head, head: Head) -> None:
    """What was learnt."""
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
    message.chosen.CopyFrom(_struct(head.chosen))
    message.labeled, message.unlabeled = head.labeled, head.unlabeled
    message.temperature, message.max_abs_error = head.temperature, head.max_abs_error
    message.created, message.training_seconds, message.pretrained = head.created, head.training_seconds, head.pretrained
    message.warnings.extend(head.warnings)


def vectors(message: types_pb2.Tensor) -> Array:
    """InvalidInput for another dtype than a row may have."""
    if message.dtype not in (types_pb2.DTYPE_UNSPECIFIED, types_pb2.DTYPE_FLOAT32, types_pb2.DTYPE_FLOAT16):
        raise InvalidInput("vectors come as float32 or float16", remedy="send one of these")
    return item_messages.array(message)


def version(head: Head) -> str:
    """When it was trained."""
    return datetime.fromtimestamp(head.created, UTC).isoformat(timespec="milliseconds")


def export_response(chunk: bytes, total: int, description: str = "") -> heads_pb2.ExportHeadResponse:
    return heads_pb2.ExportHeadResponse(chunk=chunk, total=total, description=description)


def _figure(figure: MetricValue) -> heads_pb2.MetricValue:
    return heads_pb2.MetricValue(name=figure.name, value=figure.value, low=figure.low, high=figure.high)


def _task(number: int) -> Task | None:
    if number and number not in TASKS:
        raise InvalidInput(f"task {number} is not known", remedy=f"ask for {', '.join(Task)}, or leave it out")
    return TASKS.get(number)


def _unlabeled(method: str) -> UnlabeledUse:
    try:
        return UnlabeledUse(method)
    except ValueError:
        known = ", ".join(one for one in UnlabeledUse if one)
        raise InvalidInput(f"unlabeled {method!r} is not known", remedy=f"ask for {known}, or leave it out") from None


def _struct(values: Mapping[str, Any]) -> Struct:
    struct = Struct()
    struct.update({name: _plain(value) for name, value in values.items()})
    return struct


def _plain(value: Any) -> Any:
    """As a Struct takes it."""
    if isinstance(value, Mapping):
        return {str(key): _plain(one) for key, one in value.items()}
    return [_plain(one) for one in value] if isinstance(value, Sequence) and not isinstance(value, str) else value

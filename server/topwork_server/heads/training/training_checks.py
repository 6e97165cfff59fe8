"""Refuses training requests by their settings, their set and their kind of training; nothing of the items is read."""

from __future__ import annotations

import math

from topwork_server.errors import InvalidInput, NotReady
from topwork_server.feature_sets.set_types import ColumnType, SetDescription
from topwork_server.heads.head_types import DESCRIBABLE, Pooling, Task, TrainRequest, UnlabeledUse
from topwork_server.heads.pooling import GRANULARITIES, TOWERS
from topwork_server.heads.training.descriptions import check_descriptions
from topwork_server.heads.training.labels import check_target
from topwork_server.heads.training.views import Views
from topwork_server.plugin_api.options import parse
from topwork_server.plugin_api.trainer import FineTuner, Target, TrainerSpec
from topwork_server.types import Granularity, Modality

FEWEST_FOLDS, MOST_FOLDS = 2, 20


def check_settings(request: TrainRequest, spec: TrainerSpec) -> None:
    """Raise InvalidInput for options, folds or descriptions that no training has."""
    parse(spec.trainer.options, request.options, f"the kind {spec.kind}")
    if request.folds and not FEWEST_FOLDS <= request.folds <= MOST_FOLDS:
        raise InvalidInput(f"folds = {request.folds}", remedy=f"ask for {FEWEST_FOLDS} to {MOST_FOLDS}, or 0 to have them chosen")
    check_descriptions(request.descriptions)


def _check_weight(request: TrainRequest, spec: TrainerSpec, described: SetDescription) -> None:
    if not request.weight:
        return
    if not spec.reads_weights:
        raise InvalidInput(
            f"the kind {spec.kind} does not weigh its items by {request.weight!r}",
            remedy="leave `weight` out, or train a kind that does: linear, mlp or prototype",
        )
    type = described.columns.get(request.weight)
    if type not in (ColumnType.FLOAT, ColumnType.INT):
        what = f"holds {type.value}" if type else "is not there"
        raise InvalidInput(
            f"the column {request.weight!r} of the set {request.set}, to weigh items by, {what}",
            remedy="name a column of numbers above 0, which says what each item counts for",
        )


def check_columns(request: TrainRequest, spec: TrainerSpec, described: SetDescription) -> None:
    """Raise InvalidInput for a target, a group or a weight that is no column of the set, or of the wrong type."""
    _check_weight(request, spec, described)
    if request.target:
        check_target(request.target, described.columns, request.set)
    elif spec.needs_descriptions and not request.descriptions:
        raise InvalidInput(
            f"{spec.kind} learns from descriptions of classes, and none is given",
            remedy="describe each class in a text: `descriptions`",
        )
    elif not spec.needs_descriptions:
        raise InvalidInput("no target is named", remedy="name the column of metadata that holds the labels")
    if request.group and request.group not in described.columns:
        raise InvalidInput(
            f"the set {request.set} has no column {request.group!r} to group by",
            remedy=f"its columns are {', '.join(sorted(described.columns))}",
        )


def check_trunk(request: TrainRequest, spec: TrainerSpec, described: SetDescription) -> None:
    """Raise NotReady where the set lacks what the kind reads, InvalidInput for descriptions that it does not, or lacks."""
    wanted = described.definition
    if spec.tunes and not (wanted.encoder and wanted.keep_inputs):
        missing = "keeps no raw inputs" if wanted.encoder else "holds ready vectors of no encoder"
        raise NotReady(
            f"the kind {spec.kind} learns from raw inputs, and the set {request.set} {missing}",
            remedy="write the items to a set with an encoder and keep_inputs, or train a kind that learns from features",
        )
    if request.descriptions and not wanted.encoder:
        raise NotReady(
            f"the set {request.set} holds ready vectors of no encoder, so nothing embeds the descriptions of classes",
            remedy="write the items with an encoder that embeds texts too, or leave the descriptions out",
        )
    if request.descriptions and not (spec.reads_descriptions or spec.needs_descriptions):
        raise InvalidInput(
            f"the kind {spec.kind} reads no descriptions of classes", remedy="leave them out, or choose another kind"
        )
    if spec.needs_descriptions and not request.descriptions:
        raise InvalidInput(
            f"the kind {spec.kind} learns from descriptions of the classes", remedy="describe each class by a text"
        )


def _check_combine(request: TrainRequest, spec: TrainerSpec, task: Task, views: Views) -> None:
    if not request.combine:
        return
    if len(views) < 2:
        raise InvalidInput(
            "combine puts several taps side by side, and one is named", remedy="name more in `taps`, or leave combine out"
        )
    tokens = task.every_row and GRANULARITIES[task] is not Granularity.CELL
    if tokens or any(how in TOWERS for _, how in views):
        what = f"for {task}" if tokens else "with both texts of a pair each by itself"
        raise InvalidInput(f"combine reads one row of each tap for an item, and not {what}", remedy="leave combine out")
    if spec.tunes or request.descriptions:
        what = f"the kind {spec.kind} learns on one tap" if spec.tunes else "descriptions are compared with one tap"
        raise InvalidInput(what, remedy="leave combine out")


def _check_alignment(request: TrainRequest, described: SetDescription, task: Task, views: Views) -> None:
    """Raise InvalidInput for what no text side can be given to."""
    if task is not Task.ALIGNMENT:
        return
    wanted = described.definition
    if not wanted.encoder:
        raise InvalidInput(
            f"the set {request.set} holds ready vectors of no encoder, which no tower of pictures could be made of",
            remedy="write the items with an encoder",
        )
    if Modality.TEXT in wanted.modalities:
        raise InvalidInput(
            f"the encoder {wanted.encoder} of the set {request.set} reads texts already: alignment gives a text side to one that"
            " reads none",
            remedy="search the set by text, or align a set of pictures",
        )
    if len({info.fingerprint for info, _ in views} - {info.fingerprint for info in wanted.taps}):
        raise InvalidInput("alignment reads taps of one set, of one encoder", remedy="name taps of the set itself")
    if several := [info.tap.name for info, _ in views if info.tap.granularity is not Granularity.ITEM]:
        raise InvalidInput(
            f"alignment reads one row an item, and the tap {several[0]} has several", remedy="name taps such as pooled"
        )


def check_also(request: TrainRequest, spec: TrainerSpec, described: SetDescription) -> None:
    """Raise InvalidInput for targets that cannot be learned together, or are no columns of the set."""
    if not request.also:
        return
    if not (issubclass(spec.trainer, FineTuner) and spec.trainer.joint):
        raise InvalidInput(f"the kind {spec.kind} learns one target", remedy="leave `also` out, or train fine-tune")
    if request.target in request.also:
        raise InvalidInput(f"{request.target!r} is the target, and in `also`", remedy="name each column once")
    for column, share in request.also.items():
        check_target(column, described.columns, request.set)
        if not (math.isfinite(share) and share > 0):
            raise InvalidInput(f"the weight of {column!r} in `also` is {share:g}", remedy="give a number above 0, such as 1")
    if not request.test_where:
        raise InvalidInput("several targets are judged on the same items", remedy="select them by `test_where`")


def check_kind(request: TrainRequest, spec: TrainerSpec, described: SetDescription, task: Task, views: Views) -> None:
    """Raise InvalidInput for a task, views or settings that the kind does not learn, or not together."""
    _check_combine(request, spec, task, views)
    _check_alignment(request, described, task, views)
    if task.target not in spec.trainer.targets:
        raise InvalidInput(
            f"the kind {spec.kind} does not learn {task}", remedy="choose another kind: `ListTrainers` says what each learns"
        )
    if spec.tunes and any(info.tap.granularity is Granularity.CHUNK for info, _ in views):
        raise InvalidInput("a trunk is not fine-tuned on chunks of texts", remedy="name another tap, such as tokens or pooled")
    if spec.tunes and len(views) > 1:
        raise InvalidInput(f"the kind {spec.kind} learns on one tap with one pooling", remedy="name one of each")
    if issubclass(spec.trainer, FineTuner) and spec.trainer.by_cosine:
        how, by_cosine = views[0][1], task.target in spec.trainer.by_cosine
        if how in TOWERS if not by_cosine else how is not Pooling.COSINE:
            raise InvalidInput(
                f"the kind {spec.kind} does not learn {task} by the pooling {how}",
                remedy="leave the poolings out, or choose fine-tune",
            )
    if issubclass(spec.trainer, FineTuner) and views[0][1] in TOWERS and not spec.trainer.towers:
        raise InvalidInput(f"the kind {spec.kind} learns from pairs that are read together", remedy="choose another pooling")
    if request.descriptions and any(how in TOWERS for _, how in views):
        raise InvalidInput("a description is one text, and two towers read two", remedy="choose another pooling")
    if spec.tunes and (request.descriptions or request.unlabeled is not UnlabeledUse.LEFT_OUT):
        raise InvalidInput(
            f"the kind {spec.kind} learns from labeled items alone", remedy="leave descriptions and `unlabeled` out"
        )
    if request.unlabeled is not UnlabeledUse.LEFT_OUT and task.target is not Target.CLASSES:
        raise InvalidInput(f"{request.unlabeled} is for classes, not for {task}", remedy="leave `unlabeled` out")
    if request.descriptions and task not in DESCRIBABLE:
        raise InvalidInput(f"descriptions are of classes, and {task} has none", remedy="leave them out")
    if len(request.descriptions) == 1 and task is Task.CLASSIFICATION:
        raise InvalidInput(
            f"one class alone is described, {next(iter(request.descriptions))!r}: each item would be of it",
            remedy="describe two classes or more; one for the rest would do",
        )

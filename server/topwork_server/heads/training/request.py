"""Checks training requests against their set, so that all that can be wrong is reported before a job begins."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any, Protocol

from topwork_server.blocking_calls import Check, in_thread
from topwork_server.errors import InvalidInput, NotReady, TopworkError
from topwork_server.feature_sets.feature_set import FeatureSet
from topwork_server.feature_sets.set_registry import FeatureSets
from topwork_server.feature_sets.set_types import Column, ColumnType, ReadResult, Selection, SetDescription
from topwork_server.heads.head_types import (
    DESCRIBABLE,
    HeadDefinition,
    Pooling,
    Task,
    TrainRequest,
    UnlabeledUse,
    usual_kind,
)
from topwork_server.heads.pair_features import is_pair
from topwork_server.heads.pooling import GRANULARITIES, TOWERS, trained_views
from topwork_server.heads.training.dataset import labels_of
from topwork_server.heads.training.descriptions import check_descriptions, embed_descriptions, text_side
from topwork_server.heads.training.head_names import default_name, head_name
from topwork_server.heads.training.labels import check_target, task_of
from topwork_server.heads.training.other_sets import other_sets, taps_elsewhere
from topwork_server.heads.training.views import Views, check_grids, readable_taps, select_taps, tower_views, views_of
from topwork_server.inference.engine import Engine
from topwork_server.models.catalog import Catalog
from topwork_server.plugin_api.options import parse
from topwork_server.plugin_api.trainer import FineTuner, Target, TrainerSpec, TrainingPlan
from topwork_server.types import Granularity, Modality

FEWEST_FOLDS, MOST_FOLDS = 2, 20
#: Items that tell whether a set is of pairs.
PAIRS_SEEN = 100


class TrainerKinds(Protocol):
    """The trainers by their kinds; a PluginRegistry is one."""

    def trainer(self, kind: str) -> TrainerSpec: ...


class TrainRequests:
    def __init__(self, sets: FeatureSets, engine: Engine, trainers: TrainerKinds, catalog: Catalog) -> None:
        self._sets, self._engine, self._trainers, self._catalog = sets, engine, trainers, catalog

    def check_probe(self, kind: str, task: Task | None) -> None:
        """Raise InvalidInput for a kind that needs more than features and labels."""
        spec = self._trainers.trainer(kind or usual_kind(task))
        if Target.VECTORS in spec.trainer.targets:
            raise InvalidInput(
                f"a probe does not compare alignments ({spec.kind})", remedy="train one for each tap, and compare recalls"
            )
        if spec.tunes or spec.needs_descriptions:
            needs = "trains the trunk, too" if spec.tunes else "needs descriptions of classes"
            raise InvalidInput(f"a probe compares frozen features, and the kind {kind} {needs}", remedy="probe with linear")

    async def definition(self, request: TrainRequest, *, any_tap: bool = False) -> HeadDefinition:
        """Complete the definition of a head. NotFound, InvalidInput (of settings and of labels), or NotReady where the set does
        not have what the kind needs.

        `any_tap`: of the taps those that suit the task, rather than InvalidInput for one that does not."""
        spec = self._trainers.trainer(request.kind or usual_kind(request.task))
        definition = await in_thread(lambda caller: self._resolve(request, spec, any_tap, caller), None)
        if definition.task is Task.ALIGNMENT:
            chosen = parse(spec.trainer.options, definition.options, f"the kind {spec.kind}")
            return replace(definition, texts=await text_side(str(chosen.text_encoder), self._engine))
        if not definition.descriptions:
            return definition
        return replace(definition, described=await embed_descriptions(definition, self._engine))

    def _resolve(self, request: TrainRequest, spec: TrainerSpec, any_tap: bool, caller: Check) -> HeadDefinition:
        """Check and resolve a request, in a thread; `caller` raises once the caller has left."""
        feature_set = self._sets.get(request.set)
        described, read = feature_set.describe(), partial(feature_set.read, check=caller)
        request = replace(request, version=request.version or described.version)
        _check_settings(request, spec)
        _check_columns(request, spec, described)
        _check_trunk(request, spec, described)
        self._check_made_here(spec, described.definition.encoder)
        request, elsewhere = taps_elsewhere(request, described.definition.taps)
        taps = select_taps(request.set, described.definition.taps, request.taps)
        task = request.task or only_task(spec)
        task = task or (task_of(_column(request, read)) if request.target else Task.CLASSIFICATION)
        if any_tap:
            taps = readable_taps(task, taps)
        if issubclass(spec.trainer, FineTuner) and task.target in spec.trainer.by_cosine:
            request = replace(request, poolings=request.poolings or (Pooling.COSINE,))
        views = views_of(task, taps, request.poolings)
        if request.combine and task.every_row:
            views = tuple(sorted(views, key=lambda view: -math.prod(view[0].tap.grid or ())))
        elif not any_tap:
            check_grids(task, views)
        towers = any(how in TOWERS for _, how in views)
        chosen = request.poolings or any_tap or spec.tunes or request.descriptions or task.every_row or request.combine
        if towers or not chosen:
            pairs = _keeps_pairs(request, feature_set)
            if towers and not pairs:
                raise _no_sides(request, described)
            views = (*views, *tower_views(taps)) if pairs and not towers else views
        others = other_sets(request, elsewhere, task, feature_set, self._sets, caller)
        _check_kind(request, spec, described, task, (*views, *(view for other in others for view in other.views)))
        definition = replace(_definition_of(request, spec, described, task, views), others=others)
        spec.trainer.check(self._plan(definition), parse(spec.trainer.options, request.options, f"the kind {spec.kind}"))
        labels = labels_of(read, definition, spec.min_per_class)
        if request.unlabeled is not UnlabeledUse.LEFT_OUT and labels.labeled.all():
            raise InvalidInput(f"every item has a label: there is none for {request.unlabeled}", remedy="leave `unlabeled` out")
        return replace(definition, also=self._resolve_others(request, spec, definition.name, caller))

    def _plan(self, definition: HeadDefinition) -> TrainingPlan:
        entry = self._catalog.entry(definition.encoder) if definition.encoder else None
        views = tuple((info.tap, pooling.value) for info, pooling in trained_views(definition))
        described = bool(definition.descriptions)
        spec, folder = (entry.spec, entry.folder) if entry else (None, None)
        return TrainingPlan(spec, folder, views, definition.task.target, described)

    def _check_made_here(self, spec: TrainerSpec, encoder: str) -> None:
        """Raise InvalidInput for an encoder whose graph is no trunk's, by kinds that change the trunk's graph or weights."""
        aligns = Target.VECTORS in spec.trainer.targets
        if not encoder or not (aligns or spec.tunes):
            return
        base = self._catalog.spec(encoder)
        if aligns and base.int8:
            raise InvalidInput(f"{encoder} is quantized", remedy=f"align {base.int8.base}, that it was made of")
        if spec.tunes and base.aligned:
            raise InvalidInput(
                f"{encoder} is {base.aligned.base} with a map to the space of texts",
                remedy=f"train {spec.kind} on a set of {base.aligned.base}, and align the new encoder",
            )

    def _resolve_others(self, request: TrainRequest, spec: TrainerSpec, name: str, caller: Check) -> tuple[HeadDefinition, ...]:
        """Resolve what is trained together with the head `name`, each as a request of its own. The errors name the column."""
        _check_also(request, spec)
        found = []
        for column, share in sorted(request.also.items()):
            alone = replace(request, target=column, name=default_name(name, column), task=None, also={})
            try:
                found.append(replace(self._resolve(alone, spec, False, caller), share=share))
            except InvalidInput as error:
                raise InvalidInput(f"of {column!r} in `also`: {error.message}", remedy=error.remedy) from error
        return tuple(found)


def only_task(spec: TrainerSpec) -> Task | None:
    """Find the task of a kind that learns one alone."""
    tasks = [task for task in Task if task.target in spec.trainer.targets]
    return tasks[0] if len(tasks) == 1 else None


def _keeps_pairs(request: TrainRequest, feature_set: FeatureSet) -> bool:
    """Tell whether the set keeps its items, and the first of them are pairs of texts.

    Other items are left out of a training on pairs, so that one that is no pair is no reason against it.
    """
    wanted = feature_set.definition
    if not (wanted.encoder and wanted.keep_inputs and wanted.modalities == (Modality.TEXT,)):
        return False
    selection = Selection(version=request.version, taps=(), columns=(), inputs=True, where=request.where, limit=PAIRS_SEEN)
    inputs = [item for block in feature_set.read(selection).batches for item in block.inputs]
    return bool(inputs) and all(is_pair(item) for item in inputs)


def _no_sides(request: TrainRequest, described: SetDescription) -> TopworkError:
    if described.definition.keep_inputs:
        return InvalidInput(
            f"the items of {request.set} are no pairs of texts, whose sides could be compared",
            remedy="write pairs, (a, b), or choose other poolings or another kind",
        )
    return NotReady(
        f"two towers encode each text of a pair by itself, and the set {request.set} keeps no raw inputs",
        remedy="write the pairs to a set with an encoder of texts and keep_inputs, or choose other poolings",
    )


def _definition_of(
    request: TrainRequest, spec: TrainerSpec, described: SetDescription, task: Task, views: Views
) -> HeadDefinition:
    wanted = described.definition
    return HeadDefinition(
        name=head_name(request),
        set=request.set,
        version=request.version,
        path=described.path,
        set_created=described.created,
        target=request.target,
        kind=spec.kind,
        task=task,
        encoder=wanted.encoder,
        encoder_options=dict(wanted.options),
        modality=next(iter(wanted.modalities), None),
        views=views,
        options=dict(request.options),
        where=request.where,
        test_where=request.test_where,
        group=request.group,
        weight=request.weight,
        combine=request.combine,
        folds=request.folds,
        seed=request.seed,
        unlabeled=request.unlabeled,
        descriptions=dict(request.descriptions),
    )


def _check_settings(request: TrainRequest, spec: TrainerSpec) -> None:
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


def _check_columns(request: TrainRequest, spec: TrainerSpec, described: SetDescription) -> None:
    _check_weight(request, spec, described)
    if request.target:
        check_target(request.target, described.columns, request.set)
    elif not (spec.needs_descriptions and request.descriptions):
        raise InvalidInput("no target is named", remedy="name the column of metadata that holds the labels")
    if request.group and request.group not in described.columns:
        raise InvalidInput(
            f"the set {request.set} has no column {request.group!r} to group by",
            remedy=f"its columns are {', '.join(sorted(described.columns))}",
        )


def _check_trunk(request: TrainRequest, spec: TrainerSpec, described: SetDescription) -> None:
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


def _check_also(request: TrainRequest, spec: TrainerSpec) -> None:
    if not request.also:
        return
    if not (issubclass(spec.trainer, FineTuner) and spec.trainer.joint):
        raise InvalidInput(f"the kind {spec.kind} learns one target", remedy="leave `also` out, or train fine-tune")
    if request.target in request.also:
        raise InvalidInput(f"{request.target!r} is the target, and in `also`", remedy="name each column once")
    if not request.test_where:
        raise InvalidInput("several targets are judged on the same items", remedy="select them by `test_where`")
    for column, share in request.also.items():
        if not (math.isfinite(share) and share > 0):
            raise InvalidInput(f"the weight of {column!r} in `also` is {share:g}", remedy="give a number above 0, such as 1")


def _check_kind(request: TrainRequest, spec: TrainerSpec, described: SetDescription, task: Task, views: Views) -> None:
    _check_combine(request, spec, task, views)
    _check_alignment(request, described, task, views)
    if task.target not in spec.trainer.targets:
        raise InvalidInput(
            f"the kind {spec.kind} does not learn {task}", remedy="choose another kind: `ListTrainers` says what each learns"
        )
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


def _column(request: TrainRequest, read: Callable[[Selection], ReadResult]) -> Column:
    selection = Selection(version=request.version, taps=(), columns=(request.target,), where=request.where)
    columns = [block.metadata[0] for block in read(selection).batches]
    values: list[Any] = [value for column in columns for value in column.values]
    if not columns:
        what = (
            f"no item of {request.set} matches {request.where:.200}" if request.where else f"the set {request.set} has no items"
        )
        raise InvalidInput(what, remedy="correct `where`, or write items first")
    return replace(columns[0], values=values)

"""Resolves training requests against their set, so that all that can be wrong is reported before a job begins."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any, Protocol

from topwork_server.access.passes import set_pass
from topwork_server.blocking_calls import Check, in_thread
from topwork_server.errors import InvalidInput, NotReady, TopworkError
from topwork_server.feature_sets.feature_set import FeatureSet
from topwork_server.feature_sets.set_registry import FeatureSets
from topwork_server.feature_sets.set_types import Column, ReadResult, Selection, SetDescription
from topwork_server.heads.head_types import (
    HeadDefinition,
    Pooling,
    Task,
    TrainRequest,
    UnlabeledUse,
    usual_kind,
)
from topwork_server.heads.pair_features import is_pair
from topwork_server.heads.pooling import TOWERS, trained_views
from topwork_server.heads.training.dataset import labels_of
from topwork_server.heads.training.descriptions import embed_descriptions, text_side
from topwork_server.heads.training.head_names import default_name, head_name
from topwork_server.heads.training.labels import task_of
from topwork_server.heads.training.other_sets import other_sets, taps_elsewhere
from topwork_server.heads.training.training_checks import check_also, check_columns, check_kind, check_settings, check_trunk
from topwork_server.heads.training.views import Views, check_grids, readable_taps, select_taps, tower_views, views_of
from topwork_server.inference.engine import Engine
from topwork_server.models.catalog import Catalog
from topwork_server.plugin_api.options import parse
from topwork_server.plugin_api.trainer import FineTuner, Target, TrainerSpec, TrainingPlan
from topwork_server.types import Modality

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
        if Task.ALIGNMENT in (task, only_task(spec)):
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
        feature_set = self._sets.get(set_pass(request.set))
        described, read = feature_set.describe(), partial(feature_set.read, check=caller)
        request = replace(request, version=request.version or described.version)
        check_settings(request, spec)
        check_columns(request, spec, described)
        check_also(request, spec, described)
        check_trunk(request, spec, described)
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
        check_kind(request, spec, described, task, (*views, *(view for other in others for view in other.views)))
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
        manifest = entry.towers[0].manifest if entry else None
        blocks = manifest.blocks if manifest else 0
        return TrainingPlan(spec, folder, views, definition.task.target, described, blocks)

    def _check_made_here(self, spec: TrainerSpec, encoder: str) -> None:
        """Raise InvalidInput for an encoder whose graph is no trunk's, and NotReady for one whose weights are not here, by kinds
        that change the trunk's graph or weights."""
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
        self._catalog.find_weights(encoder, base)  # its artifact is not enough

    def _resolve_others(self, request: TrainRequest, spec: TrainerSpec, name: str, caller: Check) -> tuple[HeadDefinition, ...]:
        """Resolve what is trained together with the head `name`, each as a request of its own. The errors name the column."""
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

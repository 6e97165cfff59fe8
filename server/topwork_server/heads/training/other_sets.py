"""Resolves taps of other sets, SET:TAP, which a head reads beside those of its own set: the same items of other encoders."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from topwork_server.access.passes import set_pass
from topwork_server.blocking_calls import Check
from topwork_server.errors import InvalidInput
from topwork_server.feature_sets.feature_set import FeatureSet
from topwork_server.feature_sets.set_registry import FeatureSets
from topwork_server.feature_sets.set_types import Selection
from topwork_server.heads.head_types import SetViews, Task, TrainRequest
from topwork_server.heads.training.labeled_items import both
from topwork_server.heads.training.views import select_taps, views_of
from topwork_server.types import FingerprintedTap

Elsewhere = Mapping[str, Sequence[str]]


def taps_elsewhere(request: TrainRequest, own: Sequence[FingerprintedTap]) -> tuple[TrainRequest, Elsewhere]:
    """Split the named taps: the request with those of its own set, and those of other sets by set. A tap may have a colon in its
    name."""
    names, found = {info.tap.name for info in own}, dict[str, list[str]]()
    taps = []
    for name in request.taps:
        prefix, colon, tap = name.partition(":")
        if name in names or not colon:
            taps.append(name)
        elif prefix == request.set:
            taps.append(tap)
        else:
            found.setdefault(prefix, []).append(tap)
    return replace(request, taps=tuple(taps)), found


def other_sets(
    request: TrainRequest, elsewhere: Elsewhere, task: Task, own: FeatureSet, sets: FeatureSets, caller: Check
) -> tuple[SetViews, ...]:
    """Resolve the taps of other sets, at their current versions. NotFound for a set or tap; InvalidInput where they cannot stand
    beside the others, or the sets have no labeled item in common. It blocks."""
    if not elsewhere:
        return ()
    _check_side_by_side(request, elsewhere, task)
    where = both(request.where, f"`{request.target}` IS NOT NULL") if request.target else request.where
    ids = _ids(own, request.version, where, caller)
    return tuple(_set_views(sets.get(set_pass(name)), taps, request, task, ids, caller) for name, taps in elsewhere.items())


def _check_side_by_side(request: TrainRequest, elsewhere: Elsewhere, task: Task) -> None:
    name = next(iter(elsewhere))
    if not request.combine:
        raise InvalidInput(
            f"taps of {request.set} and of {name} are read side by side or not at all",
            remedy="train with `combine` (--combine); probe compares the sets",
        )
    if task.every_row:
        raise InvalidInput(
            f"{task} says something of each row, and rows of {request.set} and of {name} need not lie in the same places",
            remedy="name taps of one set",
        )


def _set_views(
    other: FeatureSet, taps: Sequence[str], request: TrainRequest, task: Task, ids: set[str], caller: Check
) -> SetViews:
    described = other.describe()
    wanted = described.definition
    selected = select_taps(wanted.name, wanted.taps, taps)
    if ids.isdisjoint(_ids(other, described.version, "", caller)):
        raise InvalidInput(
            f"{request.set} and {wanted.name} have no labeled item in common",
            remedy="write the same items, with the same ids, to both sets",
        )
    return SetViews(
        set=wanted.name,
        version=described.version,
        path=described.path,
        created=described.created,
        encoder=wanted.encoder,
        encoder_options=dict(wanted.options),
        modality=next(iter(wanted.modalities), None),
        views=views_of(task, selected, request.poolings),
    )


def _ids(feature_set: FeatureSet, version: int, where: str, caller: Check) -> set[str]:
    reading = feature_set.read(Selection(version=version, taps=(), columns=(), where=where), check=caller)
    return {id for block in reading.batches for id in block.ids}

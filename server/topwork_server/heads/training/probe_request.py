"""Checks probe requests: they become one definition for each set, with all views that are compared."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from topwork_server.access.passes import set_pass
from topwork_server.errors import InvalidInput, NotFound
from topwork_server.feature_sets.set_registry import FeatureSets
from topwork_server.heads.head_types import HeadDefinition, Task, TrainRequest
from topwork_server.heads.training.request import TrainRequests


@dataclass(frozen=True)
class ProbeRequest:
    """Settings of a probe of several sets. `taps`: each set is probed on those that it has; none: all that suit the task."""

    sets: tuple[str, ...]
    target: str
    kind: str = ""
    task: Task | None = None
    taps: tuple[str, ...] = ()
    poolings: tuple[str, ...] = ()
    options: Mapping[str, Any] = field(default_factory=dict)
    where: str = ""
    group: str = ""
    weight: str = ""
    folds: int = 0
    seed: int = 0


async def definitions(request: ProbeRequest, requests: TrainRequests, sets: FeatureSets) -> list[HeadDefinition]:
    """Resolve a probe, in the order of its sets. InvalidInput where their tasks differ, and as `TrainRequests.definition`.

    Taps whose rows, each with a value of its own, are not the same have a definition each.
    """
    requests.check_probe(request.kind, request.task)
    if not request.sets:
        raise InvalidInput("no set is named", remedy="name one set, or several to compare their encoders")
    if len(set(request.sets)) != len(request.sets):
        raise InvalidInput("a set is named twice", remedy="name each set once")
    taps = await asyncio.to_thread(_taps, request, sets)
    found = [
        await requests.definition(_train_request(request, name, taps[name]), any_tap=not request.taps) for name in request.sets
    ]
    tasks = {definition.set: definition.task for definition in found}
    if len(set(tasks.values())) > 1:
        found_tasks = ", ".join(f"{task} in {name}" for name, task in tasks.items())
        raise InvalidInput(f"the column {request.target!r} means different tasks: {found_tasks}", remedy="name the task")
    return [of_grid for definition in found for of_grid in _by_grid(definition)]


def _by_grid(definition: HeadDefinition) -> list[HeadDefinition]:
    """Separate the views whose rows, each with a value of its own, are not the same."""
    if not definition.task.every_row:
        return [definition]
    grids = list(dict.fromkeys(info.tap.grid for info, _ in definition.views))
    return [replace(definition, views=tuple(view for view in definition.views if view[0].tap.grid == grid)) for grid in grids]


def _train_request(request: ProbeRequest, name: str, taps: Sequence[str]) -> TrainRequest:
    return TrainRequest(
        set=name,
        target=request.target,
        name="probe",
        kind=request.kind,
        task=request.task,
        taps=tuple(taps),
        poolings=request.poolings,
        options=request.options,
        where=request.where,
        group=request.group,
        weight=request.weight,
        folds=request.folds,
        seed=request.seed,
    )


def _taps(request: ProbeRequest, sets: FeatureSets) -> dict[str, list[str]]:
    """Select the taps of each set. NotFound for a tap that none of them has, and for a set that has none of the taps."""
    there = {name: [info.tap.name for info in sets.get(set_pass(name)).definition.taps] for name in request.sets}
    for tap in request.taps:
        if not any(tap in taps for taps in there.values()):
            known = "; ".join(f"{name} has {', '.join(taps)}" for name, taps in there.items())
            raise NotFound(f"no set has a tap {tap!r}", remedy=known)
    chosen = {name: [tap for tap in taps if not request.taps or tap in request.taps] for name, taps in there.items()}
    for name, taps in chosen.items():
        if not taps:
            raise NotFound(f"the set {name} has none of those taps", remedy=f"its taps are {', '.join(there[name])}")
    return chosen

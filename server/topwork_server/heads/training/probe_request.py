"""What Probe asks for: one definition a set, with all views that are to be compared."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from topwork_server.errors import InvalidInput, NotFound
from topwork_server.feature_sets.set_registry import FeatureSets
from topwork_server.heads.head_types import DEFAULT_KIND, HeadDefinition, Task, TrainRequest
from topwork_server.heads.training.request import TrainRequests


@dataclass(frozen=True)
class ProbeRequest:
    """A TrainRequest of several sets. `taps`: of each set those that it has; none: all that suit the task."""

    sets: tuple[str, ...]
    target: str
    kind: str = DEFAULT_KIND
    task: Task | None = None
    taps: tuple[str, ...] = ()
    poolings: tuple[str, ...] = ()
    options: Mapping[str, Any] = field(default_factory=dict)
    where: str = ""
    group: str = ""
    folds: int = 0
    seed: int = 0


async def definitions(wish: ProbeRequest, wishes: TrainRequests, sets: FeatureSets) -> list[HeadDefinition]:
    """In the order of the sets. InvalidInput where their tasks differ, and as `Wishes.definition`."""
    wishes.check_probe(wish.kind)
    if not wish.sets:
        raise InvalidInput("no set is named", remedy="name one set, or several to compare their encoders")
    if len(set(wish.sets)) != len(wish.sets):
        raise InvalidInput("a set is named twice", remedy="name each set once")
    taps = await asyncio.to_thread(_taps, wish, sets)
    found = [await wishes.definition(_train_request(wish, name, taps[name]), any_tap=not wish.taps) for name in wish.sets]
    tasks = {definition.set: definition.task for definition in found}
    if len(set(tasks.values())) > 1:
        said = ", ".join(f"{task} in {name}" for name, task in tasks.items())
        raise InvalidInput(f"the column {wish.target!r} means different tasks: {said}", remedy="say the task")
    return found


def _train_request(wish: ProbeRequest, name: str, taps: Sequence[str]) -> TrainRequest:
    return TrainRequest(
        set=name,
        target=wish.target,
        name="probe",
        kind=wish.kind,
        task=wish.task,
        taps=tuple(taps),
        poolings=wish.poolings,
        options=wish.options,
        where=wish.where,
        group=wish.group,
        folds=wish.folds,
        seed=wish.seed,
    )


def _taps(wish: ProbeRequest, sets: FeatureSets) -> dict[str, list[str]]:
    """Of each set. NotFound for a tap that none of them has, and for a set that has none of the taps."""
    there = {name: [info.tap.name for info in sets.get(name).definition.taps] for name in wish.sets}
    for tap in wish.taps:
        if not any(tap in taps for taps in there.values()):
            said = "; ".join(f"{name} has {', '.join(taps)}" for name, taps in there.items())
            raise NotFound(f"no set has a tap {tap!r}", remedy=said)
    chosen = {name: [tap for tap in taps if not wish.taps or tap in wish.taps] for name, taps in there.items()}
    for name, taps in chosen.items():
        if not taps:
            raise NotFound(f"the set {name} has none of those taps", remedy=f"its taps are {', '.join(there[name])}")
    return chosen

"""Chooses the views of a training: which taps of its set, under which poolings."""

from __future__ import annotations

from collections.abc import Sequence

from topwork_server.errors import InvalidInput, NotFound
from topwork_server.heads.head_types import Pooling, Task
from topwork_server.heads.pooling import GRANULARITIES, TOWERS, check_pooling, default_pooling
from topwork_server.types import FingerprintedTap, Granularity

Views = tuple[tuple[FingerprintedTap, Pooling], ...]


def select_taps(set_name: str, there: Sequence[FingerprintedTap], wanted: Sequence[str]) -> tuple[FingerprintedTap, ...]:
    """Select the named taps, or the set's first. NotFound lists the taps of the set."""
    by_name = {info.tap.name: info for info in there}
    if len(set(wanted)) != len(wanted):
        raise InvalidInput("a tap is named twice", remedy="name each tap once")
    for name in wanted:
        if name not in by_name:
            raise NotFound(f"the set {set_name} has no tap {name!r}", remedy=f"its taps are {', '.join(by_name)}")
    return tuple(by_name[name] for name in wanted or (there[0].tap.name,))


def readable_taps(task: Task, taps: Sequence[FingerprintedTap]) -> tuple[FingerprintedTap, ...]:
    """Select the taps that the task can read; all of them where it can read none, so that the error says why."""
    needed = GRANULARITIES.get(task)
    return tuple(info for info in taps if needed in (None, info.tap.granularity)) or tuple(taps)


def views_of(task: Task, taps: Sequence[FingerprintedTap], poolings: Sequence[str]) -> Views:
    """Return each tap with each pooling. Poolings are for taps with several rows an item: beside such a tap, one with a single
    row has its usual one."""
    wanted = tuple(_pooling(name) for name in dict.fromkeys(poolings))
    several = any(info.tap.granularity is not Granularity.ITEM for info in taps)
    views = []
    for info in taps:
        pooled = wanted and not (several and info.tap.granularity is Granularity.ITEM)
        for pooling in wanted if pooled else (default_pooling(task, info.tap.granularity),):
            check_pooling(task, info.tap, pooling)
            views.append((info, pooling))
    return tuple(views)


def check_grids(task: Task, views: Views) -> None:
    """Raise InvalidInput for taps whose cells, each with a value of its own, are not the same."""
    first = views[0][0].tap
    for info, _ in views:
        if task.every_row and info.tap.grid != first.grid:
            raise InvalidInput(
                f"taps {first.name!r} and {info.tap.name!r} divide a picture into other cells: no head can choose between them",
                remedy="train on one of them, which probe compares, or on all side by side (combine)",
            )


def _pooling(name: str) -> Pooling:
    try:
        return Pooling(name)
    except ValueError:
        raise InvalidInput(f"there is no pooling {name!r}", remedy=f"there are {', '.join(Pooling)}") from None


def tower_views(taps: Sequence[FingerprintedTap]) -> Views:
    """Return the views that read each text of a pair by itself. They stand beside those of both texts together: validation
    chooses."""
    return tuple((info, how) for info in taps for how in TOWERS if info.tap.granularity in (Granularity.ITEM, Granularity.TOKEN))

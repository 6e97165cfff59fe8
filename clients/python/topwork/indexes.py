"""Records of a server's indexes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from topwork._display.number_text import counted
from topwork.encoders import OptionInfo
from topwork.jobs import Job


@dataclass(frozen=True)
class IndexKind:
    """A kind of index that `create_index` takes, and what its `options` may set."""

    kind: str
    description: str
    options: tuple[OptionInfo, ...]
    plugin: str


@dataclass(frozen=True)
class OperatingPoint:
    """Measurement of a search effort (nprobe, efSearch) on held-out rows: recall at 10 against exact search, and queries a second
    in one batch, in the build's own process."""

    effort: int
    recall: float
    qps: float


@dataclass(frozen=True)
class LiveRecall:
    """Recall at 10 of live searches that the server repeated exactly: those without a filter, or (`filtered`) those whose filter
    left more than `above` and at most `up_to` of the rows. `searches` were repeated since the build or the server's start."""

    filtered: bool
    above: float
    up_to: float
    searches: int
    recall: float


@dataclass(frozen=True, repr=False)
class IndexInfo:
    """An index over one tap of a set, as it stands.

    kind              as asked, such as "auto"; `built` is what was built, such as "IVF1024,Flat"
    metric            "cosine", "inner_product" or "l2"
    state             "building" (for the first time, or again: searches are exact and slow meanwhile), "ready", "rebuilding"
                      (searches go on on the old one) or "failed" (`detail` says why; searches are exact and slow)
    version           of the set, that searches see
    rows              alive, in all; `delta_rows` were written since the build and are searched exactly, `deleted_rows` were
                      deleted or replaced since the build and are skipped
    recall            at 10, measured on `held_out` rows at `effort`, which was chosen for `target_recall`; 0 before the first
                      build. `own_queries`: measured on so many queries that `create_index` was given
    missed_target     whether no effort reached `target_recall` on them; `detail` says so in words
    operating_points  other efforts, and what they gave
    disk_bytes        of the index; `memory_bytes` is 0 where it is not in memory
    live_recall       recall of your searches: one in a hundred is repeated exactly when the server is idle
    job               the latest build, if there was one
    damage            which of its files is damaged: nothing else is known of it then, and its use raises DataLoss
    """

    set: str
    name: str
    tap: str
    fingerprint: str
    kind: str
    built: str
    metric: str
    dim: int
    options: Mapping[str, Any]
    state: str
    detail: str
    version: int
    rows: int
    delta_rows: int
    deleted_rows: int
    target_recall: float
    recall: float
    missed_target: bool
    effort: int
    operating_points: tuple[OperatingPoint, ...]
    held_out: int
    build_seconds: float
    disk_bytes: int
    memory_bytes: int
    job: Job | None
    own_queries: bool = False
    live_recall: tuple[LiveRecall, ...] = ()
    damage: str = ""

    def __repr__(self) -> str:
        recall = f", recall {self.recall:.3f}" if self.recall else ""
        recall += f", below the {self.target_recall:g} asked for" if self.missed_target else ""
        kind = self.built or self.kind
        return f"<IndexInfo {self.set}/{self.name}: {kind} by {self.metric}, {self.state}, {counted(self.rows, 'row')}{recall}>"

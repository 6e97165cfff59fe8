"""Results of `probe`: the same task learned on several encoders and taps."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from topwork._records import of_job
from topwork.heads import MetricValue
from topwork.jobs import Job

TITLES = ("set", "encoder", "tap", "pooling", "dim", "interval", "to the best", "chosen")
RIGHT = {"dim"}


@dataclass(frozen=True)
class ProbeRow:
    """One set, tap and pooling. `difference` is that of `metric` to the best row's, item by item on the same folds, with its 95%
    interval; None for the best, and where the items are others."""

    set: str
    encoder: str
    tap: str
    pooling: str
    dim: int
    metric: MetricValue
    difference: MetricValue | None = None
    chosen: Mapping[str, Any] = field(default_factory=dict)
    seconds: float = 0.0


@dataclass(frozen=True, repr=False)
class ProbeTable:
    """The rows, best first; `str` of it is a table to be read.

    measure   what the rows' metric is: "accuracy"; `baseline` is the majority class's, or the mean's
    estimate  how they were evaluated: "5-fold cross-validation over 482 items"
    advice    which trunk and which depth suits the data, and how many layers to freeze
    """

    measure: str
    estimate: str
    items: int
    rows: tuple[ProbeRow, ...]
    advice: str = ""
    warnings: tuple[str, ...] = ()
    baseline: MetricValue | None = None

    @staticmethod
    def of(job: Job) -> ProbeTable:
        """The table of a job of `probe` that is done. Raises JobFailed for one that failed, InvalidInput for any other."""
        table = of_job(ProbeTable, job, "probe", "table", {"measure": "", "estimate": "", "items": 0})
        return replace(table, rows=tuple(sorted(table.rows, key=_place)))

    @property
    def best(self) -> ProbeRow | None:
        """The first row."""
        return next(iter(self.rows), None)

    def titles(self) -> list[str]:
        """The titles of the columns."""
        return [*TITLES[:5], self.measure, *TITLES[5:]]

    def lines(self) -> Iterator[list[str]]:
        """The cells of each row under `titles`."""
        return (_cells(row) for row in self.rows)

    def remarks(self) -> list[str]:
        """The lines below the table."""
        baseline = [f"baseline: {self.baseline}"] if self.baseline else []
        estimate = [self.estimate] if self.estimate else []
        remarks = [*estimate, *baseline, *(f"warning: {warning}" for warning in self.warnings), self.advice]
        return [line for line in remarks if line]

    def __len__(self) -> int:
        return len(self.rows)

    def __iter__(self) -> Iterator[ProbeRow]:
        return iter(self.rows)

    def __getitem__(self, index: int) -> ProbeRow:
        return self.rows[index]

    def __str__(self) -> str:
        table = _aligned([self.titles(), *self.lines()], {*RIGHT, self.measure})
        return "\n".join([*table, *self.remarks()])

    def __repr__(self) -> str:
        best = f", best {self.best.encoder}/{self.best.tap}: {self.best.metric}" if self.best else ""
        return f"<ProbeTable: {len(self)} rows{best}; {self.estimate}>"


def _place(row: ProbeRow) -> float:
    """The best row comes first; rows that could not be learned come last."""
    return math.inf if math.isnan(row.metric.value) else -row.metric.value


def settings_text(settings: Mapping[str, Any]) -> str:
    """Format settings as "l2=0.1, tap=pooled"."""
    return ", ".join(f"{name}={value:.4g}" if isinstance(value, float) else f"{name}={value}" for name, value in settings.items())


def _cells(row: ProbeRow) -> list[str]:
    metric, gap = row.metric, row.difference
    difference = f"{gap.value:+.3f} ({gap.low:+.3f} to {gap.high:+.3f})" if gap else ""
    interval = f"{metric.low:z.3f} to {metric.high:z.3f}"
    where = [row.set, row.encoder or "-", row.tap, row.pooling, str(row.dim)]
    return [*where, f"{metric.value:z.3f}", interval, difference, settings_text(row.chosen)]


def _aligned(lines: Sequence[Sequence[str]], right: Iterable[str]) -> list[str]:
    """Columns as wide as their longest cell."""
    titles = lines[0]
    widths = [max(len(line[i]) for line in lines) for i in range(len(titles))]
    aligned = [">" if title in right else "<" for title in titles]
    return ["  ".join(f"{cell:{a}{w}}" for cell, a, w in zip(line, aligned, widths, strict=True)).rstrip() for line in lines]

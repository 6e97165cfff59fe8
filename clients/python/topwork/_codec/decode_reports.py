"""The JSON of reports and probes -> the dataclasses of this package, and nothing else. Fields of newer servers are skipped."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import fields
from typing import Any, TypeVar

from topwork.heads import MetricValue
from topwork.probes import ProbeRow, ProbeTable
from topwork.report import (
    ClassMetrics,
    ConfusionMatrix,
    LearningCurvePoint,
    Misclassified,
    ReliabilityBin,
    Report,
    SemiSupervisedGain,
)

T = TypeVar("T")


def report(text: str) -> Report:
    """Of its JSON. What this client does not know is in `json` alone."""
    record = json.loads(text)
    parts = {
        "metrics": _all(MetricValue, record.get("metrics")),
        "baseline": _all(MetricValue, record.get("baseline")),
        "names": tuple(record.get("names") or ()),
        "calibration_before": _all(ReliabilityBin, record.get("calibration_before")),
        "calibration_after": _all(ReliabilityBin, record.get("calibration_after")),
        "classes": _all(ClassMetrics, record.get("classes")),
        "confusion": _confusion(record.get("confusion")),
        "curve": tuple(
            LearningCurvePoint(point["items"], _known(MetricValue, point["figure"])) for point in record.get("curve") or ()
        ),
        "scatter": tuple((float(truth), float(said)) for truth, said in record.get("scatter") or ()),
        "wrong": _all(Misclassified, record.get("wrong")),
        "help": _help(record.get("help")),
        "chosen": record.get("chosen") or {},
        "options": record.get("options") or {},
        **{name: tuple(record.get(name) or ()) for name in ("trials", "history", "warnings")},
    }
    return _known(Report, {**record, **parts, "json": record})


def probe(record: Mapping[str, Any]) -> ProbeTable:
    """Of a job's result. The best row comes first; rows that could not be learnt come last."""
    rows = [_row(row) for row in record.get("rows") or ()]
    rows.sort(key=lambda row: math.inf if math.isnan(row.figure.value) else -row.figure.value)
    return ProbeTable(
        measure=record.get("measure", ""),
        estimate=record.get("estimate", ""),
        items=record.get("items", 0),
        rows=tuple(rows),
        advice=record.get("advice", ""),
        warnings=tuple(record.get("warnings") or ()),
        baseline=_known(MetricValue, record["baseline"]) if record.get("baseline") else None,
    )


def _row(record: Mapping[str, Any]) -> ProbeRow:
    gap = record.get("difference")
    parts = {"figure": _known(MetricValue, record["figure"]), "difference": _known(MetricValue, gap) if gap else None}
    return _known(ProbeRow, {**record, **parts, "chosen": record.get("chosen") or {}})


def _known(kind: type[T], record: Mapping[str, Any]) -> T:
    """The dataclass of what it knows of the record."""
    return kind(**{field.name: record[field.name] for field in fields(kind) if field.name in record})  # type: ignore[arg-type]


def _all(kind: type[T], records: Iterable[Mapping[str, Any]] | None) -> tuple[T, ...]:
    return tuple(_known(kind, record) for record in records or ())


def _confusion(record: Mapping[str, Any] | None) -> ConfusionMatrix | None:
    return ConfusionMatrix(tuple(record["names"]), tuple(map(tuple, record["counts"]))) if record else None


def _help(record: Mapping[str, Any] | None) -> SemiSupervisedGain | None:
    if not record:
        return None
    figures = {name: _known(MetricValue, record[name]) for name in ("without", "with_them", "gain")}
    return SemiSupervisedGain(method=record["method"], items=record["items"], **figures)

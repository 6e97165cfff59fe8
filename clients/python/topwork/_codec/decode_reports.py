"""The JSON of reports -> the dataclasses of this package, and nothing else. Fields of newer servers are skipped."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

from topwork._records import of_record
from topwork.heads import MetricValue
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
            LearningCurvePoint(point["items"], of_record(MetricValue, point["figure"])) for point in record.get("curve") or ()
        ),
        "scatter": tuple((float(truth), float(said)) for truth, said in record.get("scatter") or ()),
        "wrong": _all(Misclassified, record.get("wrong")),
        "help": _help(record.get("help")),
        "chosen": record.get("chosen") or {},
        "options": record.get("options") or {},
        **{name: tuple(record.get(name) or ()) for name in ("trials", "history", "warnings")},
    }
    return of_record(Report, {**record, **parts, "json": record})


def _all(kind: type[T], records: Iterable[Mapping[str, Any]] | None) -> tuple[T, ...]:
    return tuple(of_record(kind, record) for record in records or ())


def _confusion(record: Mapping[str, Any] | None) -> ConfusionMatrix | None:
    return ConfusionMatrix(tuple(record["names"]), tuple(map(tuple, record["counts"]))) if record else None


def _help(record: Mapping[str, Any] | None) -> SemiSupervisedGain | None:
    if not record:
        return None
    figures = {name: of_record(MetricValue, record[name]) for name in ("without", "with_them", "gain")}
    return SemiSupervisedGain(method=record["method"], items=record["items"], **figures)

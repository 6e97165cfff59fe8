"""The evaluation report as data: report.json, the object of the SDK and the page have these fields. Plain values only.

Every metric is computed on items that the head was not trained on. docs/heads.md explains each.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from topwork_server.heads.head_types import MetricValue


@dataclass(frozen=True, slots=True)
class ClassMetrics:
    """Metrics of a class, label or kind of entity. `support`: items (or rows, or entities) that truly belong to it."""

    name: str
    support: int
    precision: float
    recall: float
    f1: float


@dataclass(frozen=True, slots=True)
class ConfusionMatrix:
    """The counts[truth][predicted]; of many classes the most confused ones, with the rest joined as "others"."""

    names: tuple[str, ...]
    counts: tuple[tuple[int, ...], ...]


@dataclass(frozen=True, slots=True)
class ReliabilityBin:
    """A bin of a reliability curve: mean confidence and accuracy over `count` predictions."""

    confidence: float
    accuracy: float
    count: int


@dataclass(frozen=True, slots=True)
class LearningCurvePoint:
    """A point of a learning curve: the main metric after training on so many items, on the same held-out items."""

    items: int
    figure: MetricValue


@dataclass(frozen=True, slots=True)
class Misclassified:
    """An item that the head got wrong.

    `shown`: its text, or a small JPEG as a data: URI, where the set kept its inputs. `confidence`: the probability of the
    prediction; for numbers the error.
    """

    id: str
    truth: str
    predicted: str
    confidence: float
    shown: str = ""


@dataclass(frozen=True, slots=True)
class SemiSupervisedGain:
    """The effect of unlabeled items on the main metric, on the same held-out items: with, without, and the paired difference."""

    method: str
    items: int  # that were used
    without: MetricValue
    with_them: MetricValue
    gain: MetricValue


@dataclass(frozen=True)
class Report:
    """The evaluation of one head, as report.json holds it."""

    head: str
    task: str
    kind: str
    set: str
    version: int
    target: str
    encoder: str
    tap: str
    pooling: str
    fingerprint: str
    names: tuple[str, ...]
    estimate: str  # "5-fold cross-validation over 482 items"
    items: int  # that were evaluated
    labelled: int
    unlabelled: int
    metrics: tuple[MetricValue, ...]  # the first is the main one
    baseline: tuple[MetricValue, ...]
    calibration_before: tuple[ReliabilityBin, ...] = ()
    calibration_after: tuple[ReliabilityBin, ...] = ()
    temperature: float = 1.0
    interval: float = 0.0
    classes: tuple[ClassMetrics, ...] = ()
    confusion: ConfusionMatrix | None = None
    curve: tuple[LearningCurvePoint, ...] = ()
    curve_estimate: str = ""  # how the curve was evaluated, where that differs from the metrics
    scatter: tuple[tuple[float, float], ...] = ()  # truth and prediction; regression
    wrong: tuple[Misclassified, ...] = ()
    help: SemiSupervisedGain | None = None
    chosen: Mapping[str, Any] | None = None
    measure: str = ""  # the measure of the trials' scores
    trials: tuple[Mapping[str, Any], ...] = ()  # {"tap", "pooling", "settings", "score"}
    history: tuple[Mapping[str, Any], ...] = ()  # fine-tuning: {"epoch", "loss", "score"}
    options: Mapping[str, Any] | None = None
    seed: int = 0
    code: str = ""
    seconds: float = 0.0
    warnings: tuple[str, ...] = ()

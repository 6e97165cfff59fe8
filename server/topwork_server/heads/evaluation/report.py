"""The honest report as data: what is in report.json, in the SDK's object and on the page. Frozen; plain values only.

Every figure is of items that the head which gave it has not learnt from. docs/heads.md says what each means.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from topwork_server.heads.head_types import MetricValue


@dataclass(frozen=True, slots=True)
class ClassMetrics:
    """One class or label, or kind of entity. `support`: items (or rows, or entities) that are truly of it."""

    name: str
    support: int
    precision: float
    recall: float
    f1: float


@dataclass(frozen=True, slots=True)
class ConfusionMatrix:
    """counts[truth][predicted]; of very many classes those confused most, the rest joined under "others"."""

    names: tuple[str, ...]
    counts: tuple[tuple[int, ...], ...]


@dataclass(frozen=True, slots=True)
class ReliabilityBin:
    """Of a reliability curve: how sure the head was, and how often it was right, over `count` predictions."""

    confidence: float
    accuracy: float
    count: int


@dataclass(frozen=True, slots=True)
class LearningCurvePoint:
    """Of a learning curve: the main figure when so many items were learnt from, on the same held-out items."""

    items: int
    figure: MetricValue


@dataclass(frozen=True, slots=True)
class Misclassified:
    """An item that the head got wrong, most confident first. `shown`: its text, or a small JPEG as a data: URI, where the set
    kept its inputs. `confidence`: the probability of what was predicted; of numbers the error."""

    id: str
    truth: str
    predicted: str
    confidence: float
    shown: str = ""


@dataclass(frozen=True, slots=True)
class SemiSupervisedGain:
    """What unlabelled items did to the main figure on the same held-out items: with, without, and the paired difference."""

    method: str
    items: int  # that were used
    without: MetricValue
    with_them: MetricValue
    gain: MetricValue


@dataclass(frozen=True)
class Report:
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
    items: int  # that were judged
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
    curve_estimate: str = ""  # how the curve was judged, where it was otherwise than the figures
    scatter: tuple[tuple[float, float], ...] = ()  # truth and prediction; regression
    wrong: tuple[Misclassified, ...] = ()
    help: SemiSupervisedGain | None = None
    chosen: Mapping[str, Any] | None = None
    measure: str = ""  # what the trials' scores are
    trials: tuple[Mapping[str, Any], ...] = ()  # {"tap", "pooling", "settings", "score"}
    history: tuple[Mapping[str, Any], ...] = ()  # of fine-tuning: {"epoch", "loss", "score"}
    options: Mapping[str, Any] | None = None
    seed: int = 0
    code: str = ""
    seconds: float = 0.0
    warnings: tuple[str, ...] = ()

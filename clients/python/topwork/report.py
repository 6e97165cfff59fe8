"""The evaluation report of a head: every metric is computed on items that the head was not trained on.

The server fills these classes and stores them as report.json; `Client.report` reads them from it. docs/heads.md explains each
metric.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from topwork.heads import MetricValue
from topwork.predictions import Detection

#: How pictures of a report begin, and how its recordings.
JPEG = "data:image/jpeg;base64,"
MP3 = "data:audio/mpeg;base64,"


@dataclass(frozen=True)
class ClassMetrics:
    """Metrics of a class, label or kind of entity. `support`: items (or rows, or entities) that truly belong to it."""

    name: str
    support: int
    precision: float
    recall: float
    f1: float


@dataclass(frozen=True)
class ConfusionMatrix:
    """The counts[truth][predicted]; of many classes the most confused ones, with the rest joined as "others"."""

    names: tuple[str, ...]
    counts: tuple[tuple[int, ...], ...]

    def pairs(self) -> list[tuple[int, str, str]]:
        """List (items, truth, predicted) of each confusion, most frequent first."""
        names = enumerate(self.names)
        found = [(self.counts[i][j], truth, self.names[j]) for i, truth in names for j in range(len(self.names)) if i != j]
        return sorted((pair for pair in found if pair[0]), key=lambda pair: -pair[0])


@dataclass(frozen=True)
class ReliabilityBin:
    """A bin of a reliability curve: mean confidence and accuracy over `count` predictions."""

    confidence: float
    accuracy: float
    count: int


@dataclass(frozen=True)
class LearningCurvePoint:
    """A point of a learning curve: the main metric after training on so many items, on the same held-out items."""

    items: int
    metric: MetricValue


@dataclass(frozen=True)
class Misclassified:
    """An item that the head got wrong.

    `shown`: its text, or as a data: URI a small JPEG or the first seconds of its sound (MP3), where the set kept its inputs.
    `confidence`: the probability of the prediction; for numbers the error.
    """

    id: str
    truth: str
    predicted: str
    confidence: float
    shown: str = ""

    @property
    def text(self) -> str:
        """The preview, where it is a text."""
        return "" if self.shown.startswith("data:") else self.shown


@dataclass(frozen=True)
class DrawnPicture:
    """A held-out picture of a detector: its size in pixels, its true boxes (with a score of 1) and those that the head predicted.

    `shown`: a small JPEG as a data: URI, where the set kept its inputs.
    """

    id: str
    width: float
    height: float
    truth: tuple[Detection, ...]
    predicted: tuple[Detection, ...]
    shown: str = ""


@dataclass(frozen=True)
class SemiSupervisedGain:
    """The effect of unlabeled items on the main metric, on the same held-out items: with, without, and the paired difference.

    `items` is the number of unlabeled items that were used.
    """

    method: str
    items: int
    without: MetricValue
    with_them: MetricValue
    gain: MetricValue


@dataclass(frozen=True)
class AbstentionCost:
    """The effect of `predict(abstain=cost)` on held-out items: no answer costs `cost` where a wrong one costs 1.

    threshold  the least probability of a class that is answered
    answered   the share of items that have an answer; `accuracy` is how often it is right, None where none has one
    expected   the mean cost of an item; where all are answered it is 1 - accuracy
    """

    cost: float
    threshold: float
    answered: MetricValue
    accuracy: MetricValue | None
    expected: MetricValue


@dataclass(frozen=True, repr=False)
class Report:
    """The evaluation of one head.

    estimate      how it was evaluated: "5-fold cross-validation over 482 items"
    items         how many were evaluated
    labeled       how many items with a label the head learned from: without those held out for a test, with those that told a
                  fine-tuning when to stop. `unlabeled`: how many others have no label
    metrics       the first is the main one; `baseline` is the majority class or the mean, on the same items
    calibration_before, calibration_after   reliability curves, before and after the scores are divided by `temperature`
    interval      of a regression: half the width of the band that held 90% of held-out items
    abstaining    of a classification: accuracy over the share of items that have an answer, by what no answer costs
    classes       precision, recall and F1 of each
    weight        the column that says what each item counted for in the metrics, or ""
    learning_curve   the main metric over the number of training items, on the same held-out items;
                     `learning_curve_estimate` says on which, where they are not those of the metrics
    scatter       (truth, prediction) of items; regression
    misclassified   items that the head got wrong, the most confident first
    pictures      of a detector: up to 20 held-out pictures, with true and predicted boxes
    semi_supervised   the effect of unlabeled items, where they were used
    chosen        by cross-validation, out of `trials`: {"tap", "pooling", "settings", "score"}; `measure` names their scores
    history       of a fine-tuning, an entry for each epoch: {"epoch", "loss", "score"}
    json          the record as the server sent it, with fields that this client does not know; empty on the server
    """

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
    estimate: str
    items: int
    labeled: int
    unlabeled: int
    metrics: tuple[MetricValue, ...]
    baseline: tuple[MetricValue, ...]
    calibration_before: tuple[ReliabilityBin, ...] = ()
    calibration_after: tuple[ReliabilityBin, ...] = ()
    temperature: float = 1.0
    interval: float = 0.0
    abstaining: tuple[AbstentionCost, ...] = ()
    classes: tuple[ClassMetrics, ...] = ()
    confusion: ConfusionMatrix | None = None
    learning_curve: tuple[LearningCurvePoint, ...] = ()
    learning_curve_estimate: str = ""
    scatter: tuple[tuple[float, float], ...] = ()
    misclassified: tuple[Misclassified, ...] = ()
    pictures: tuple[DrawnPicture, ...] = ()
    semi_supervised: SemiSupervisedGain | None = None
    chosen: Mapping[str, Any] = field(default_factory=dict)
    measure: str = ""
    trials: tuple[Mapping[str, Any], ...] = ()
    history: tuple[Mapping[str, Any], ...] = ()
    options: Mapping[str, Any] = field(default_factory=dict)
    weight: str = ""
    seed: int = 0
    server_version: str = ""
    training_seconds: float = 0.0
    warnings: tuple[str, ...] = ()
    json: Mapping[str, Any] = field(default_factory=dict)

    @property
    def metric(self) -> MetricValue | None:
        """The main metric."""
        return next(iter(self.metrics), None)

    def to_record(self) -> dict[str, Any]:
        """Convert it to plain values, as report.json has them."""
        record = asdict(self)
        del record["json"]
        return record

    def __repr__(self) -> str:
        metrics = "; ".join(map(str, self.metrics[:3]))
        return f"<Report of {self.head}: {metrics}; {self.estimate}>"

    def _repr_html_(self) -> str:
        """Show the metrics and the most confident errors; `report_page` shows everything."""
        from topwork._display import html

        known = {metric.name: metric for metric in self.baseline}
        lines = [
            (f.name, f.text(), f.interval_text, f.text(known[f.name].value) if f.name in known else "") for f in self.metrics
        ]
        head = html.table(f"{self.head} (report)", ("", "value", "95% interval", "baseline"), lines, self.estimate)
        wrong = [
            (html.cut_left(w.id, 40), w.truth, w.predicted, w.confidence, _of_wrong(w.shown)) for w in self.misclassified[:5]
        ]
        below = html.table("wrong", ("id", "truth", "predicted", "confidence", ""), wrong) if wrong else ""
        warned = html.facts("", (("warning", warning) for warning in self.warnings)) if self.warnings else ""
        return f"<div>{head}{below}{warned}</div>"


def _of_wrong(shown: str) -> Any:
    """Show a text as it is, and a picture or a recording where the report made it."""
    from topwork._display import html

    tags = {JPEG: f'<img src="{shown}" style="max-width:{html.SIDE}px">', MP3: f'<audio controls src="{shown}"></audio>'}
    for beginning, tag in tags.items():
        if shown.startswith(beginning):
            return html.Html(tag) if re.fullmatch(r"[A-Za-z0-9+/=]*", shown.removeprefix(beginning)) else ""
    return shown

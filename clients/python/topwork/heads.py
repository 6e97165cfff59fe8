"""Records of a server's heads and of what trains them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from topwork._display.number_text import number_text
from topwork.encoders import OptionInfo
from topwork.jobs import Job

#: Stands in place of a column where a head was trained on descriptions alone.
DESCRIBED = "classes by their descriptions"


@dataclass(frozen=True)
class MetricValue:
    """A metric on items that the head was not trained on. `low` to `high` is its 95% bootstrap interval over items."""

    name: str
    value: float
    low: float
    high: float

    def text(self, value: float | None = None) -> str:
        """Format its value, or another of the same unit such as the baseline's, with the digits that suit its interval."""
        return number_text(self.value if value is None else value, self.value, self.low, self.high)

    @property
    def interval_text(self) -> str:
        """The interval, as "0.815 to 0.898"."""
        return f"{self.text(self.low)} to {self.text(self.high)}"

    def __str__(self) -> str:
        return f"{self.name} {self.text()} ({self.interval_text})"


@dataclass(frozen=True)
class ClassShare:
    """The share of a class among the items that a head was evaluated on, among its recent predictions, and among recent items as
    they are estimated from both and from how it errs; `low` to `high` is a 95% interval of the estimate."""

    name: str
    evaluated: float
    predicted: float
    estimated: float
    low: float
    high: float


@dataclass(frozen=True)
class LabelShift:
    """A shift of the shares of classes, estimated from the recent predictions of a head, if each class looks as it did.

    items    how many: the latest 10,000 at most, since the server started
    p_value  how probable predictions that differ so much would be if recent items were like the evaluated ones
    warning  what to know of a shift, or ""
    """

    items: int
    shares: tuple[ClassShare, ...]
    p_value: float
    warning: str


@dataclass(frozen=True)
class TrainerInfo:
    """A kind of training that `train` takes, and what its `options` may set.

    tasks               such as "classification": see `train`
    needs_inputs        the set must keep its raw inputs
    needs_descriptions  classes are described by text
    min_per_class       examples that each class must have
    """

    kind: str
    description: str
    options: tuple[OptionInfo, ...]
    plugin: str
    tasks: tuple[str, ...]
    needs_inputs: bool
    needs_descriptions: bool
    min_per_class: int


@dataclass(frozen=True, repr=False)
class HeadInfo:
    """A head: its task, what it was trained on, and how good it is on items that it was not trained on.

    state             "training" (no head of that name serves yet), "ready" or "failed" (`detail` says why)
    job               the latest training; None for heads that came with their encoder (`pretrained`)
    task              "classification", "multi-label", "regression", "tagging", "question-answering", "segmentation",
                      "detection", "alignment" or, of a head for `fill` that came with its encoder, "fill"
    version           of the set that it was trained on
    pooling           how an item's rows become one: "row" where there is one, "rows" where each has a prediction of its own;
                      of a head for `fill` the rows that it reads for a gap: "mask", "last" or "window"
    names             of the classes or labels, in the order of `Predictions.probabilities`
    metrics           the first is the one to look at; `baseline` is the majority class or the mean, on the same items
    estimate          how it was evaluated: "5-fold cross-validation over 482 items"
    chosen            what cross-validation chose, such as {"l2": 0.1}
    labeled           how many items with a label it learned from: without those held out for a test, with those that told a
                      fine-tuning when to stop. `unlabeled`: how many others have no label
    temperature       by which the scores are divided, so that probabilities are as often right as they say
    max_abs_error     the largest difference of a score between the served graph and the trainer's own, on held-out rows
    created           UTC; None before the first training has ended. `training_seconds` is what that took
    server_version    the version of the server that trained it
    recent            what it lately predicted beside its evaluation, for early warnings; of `head()` alone, where there is enough
    weight            the column that says what each item counted for, or ""
    """

    name: str
    state: str
    detail: str
    job: Job | None
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
    metrics: tuple[MetricValue, ...]
    baseline: tuple[MetricValue, ...]
    estimate: str
    options: Mapping[str, Any]
    chosen: Mapping[str, Any]
    labeled: int
    unlabeled: int
    seed: int
    temperature: float
    max_abs_error: float
    created: datetime | None
    training_seconds: float
    bytes: int
    pretrained: bool
    warnings: tuple[str, ...]
    server_version: str
    weight: str = ""
    recent: LabelShift | None = None

    @property
    def metric(self) -> MetricValue | None:
        """The metric to look at; None before the head is there, and for heads that came with their encoder."""
        return next(iter(self.metrics), None)

    def __repr__(self) -> str:
        parts = [f"{self.task} of {len(self.names)} classes" if self.task == "classification" and self.names else self.task]
        parts += [f"{self.kind or 'pretrained'} on {self.encoder or 'ready vectors'}/{self.tap}" if self.tap else self.kind]
        parts += [self.state + (f": {self.detail}" if self.detail else "")] if self.state != "ready" else []
        parts += [str(self.metric)] if self.metric else []
        return f"<HeadInfo {self.name}: {', '.join(part for part in parts if part)}>"

    def _repr_html_(self) -> str:
        from topwork._display import html

        reads = f"{self.encoder or 'ready vectors'}, {self.tap}" + (f" ({self.pooling})" if self.pooling else "")
        pairs = [
            ("task", self.task),
            ("state", self.state + (f": {self.detail}" if self.detail else "")),
            ("kind", self.kind or "pretrained"),
            ("reads", reads),
            ("learned from", f"{self.target or 'descriptions'} of {self.set}, version {self.version}" if self.set else ""),
            ("classes", html.listed(self.names)),
            ("judged by", self.estimate),
            *((metric.name, text) for metric, text in _metric_texts(self.metrics[:3], self.baseline)),
        ]
        return html.facts(f"{self.name} (head)", [*pairs, *(("warning", warning) for warning in self.warnings[:3])])


def _metric_texts(metrics: Sequence[MetricValue], baseline: Sequence[MetricValue]) -> Iterator[tuple[MetricValue, str]]:
    """Yield each metric with its value, its interval and the baseline's value as text."""
    for metric, known in beside(metrics, baseline):
        than = f", baseline {metric.text(known.value)}" if known else ""
        yield metric, f"{metric.text()} ({metric.interval_text}){than}"


def beside(metrics: Sequence[MetricValue], baseline: Sequence[MetricValue]) -> list[tuple[MetricValue, MetricValue | None]]:
    """Pair each metric with the baseline's of the same name, where there is one."""
    known = {metric.name: metric for metric in baseline}
    return [(metric, known.get(metric.name)) for metric in metrics]

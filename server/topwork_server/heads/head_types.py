"""What heads are made of: frozen data, nothing heavy. Through JSON and back by `asdict`, `definition_of`, `head_of`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from topwork_server import json_records
from topwork_server.plugin_api.trainer import Target
from topwork_server.types import Modality, TapInfo

DEFAULT_KIND = "linear"


class Task(StrEnum):
    """What a head is for, in the field's words. How labels of each are written: `labels.py`."""

    CLASSIFICATION = "classification"
    MULTI_LABEL = "multi-label"
    REGRESSION = "regression"
    TAGGING = "tagging"
    QUESTION_ANSWERING = "question-answering"
    SEGMENTATION = "segmentation"

    @property
    def target(self) -> Target:
        return TARGETS[self]

    @property
    def every_row(self) -> bool:
        """Whether each row has a value of its own (TOKEN, CELL), rather than an item's rows together."""
        return self in (Task.TAGGING, Task.QUESTION_ANSWERING, Task.SEGMENTATION)


TARGETS = {
    Task.CLASSIFICATION: Target.CLASSES,
    Task.MULTI_LABEL: Target.LABELS,
    Task.REGRESSION: Target.NUMBERS,
    Task.TAGGING: Target.CLASSES,
    Task.QUESTION_ANSWERING: Target.SPAN,
    Task.SEGMENTATION: Target.CLASSES,
}


#: Whose classes may be described by text.
DESCRIBABLE = (Task.CLASSIFICATION, Task.MULTI_LABEL)


class Pooling(StrEnum):
    """How an item's rows become one. ROW: it has one; ROWS: each keeps its own."""

    ROW = "row"
    ROWS = "rows"
    MEAN = "mean"
    MAX = "max"
    MEAN_STD = "mean+std"  # (2 dim): the mean, and the population's standard deviation
    TWO_TOWER = "two-tower"  # (4 dim + 1) of both sides of a pair, encoded each by itself: u, v, |u - v|, u * v, their cosine
    COSINE = "cosine"  # (1) of the same: the cosine alone
    PAIR = "pair"  # (4 dim) of TOKEN rows of a pair: u, v, |u - v|, u * v, where u and v are the means of its two parts


class UnlabeledUse(StrEnum):
    """What items without a label are used for."""

    LEFT_OUT = ""
    SELF_TRAINING = "self-training"
    LABEL_PROPAGATION = "label-propagation"


@dataclass(frozen=True)
class TrainRequest:
    """What Train may say; what is left out is chosen."""

    set: str
    target: str
    name: str = ""
    kind: str = DEFAULT_KIND
    task: Task | None = None
    taps: tuple[str, ...] = ()
    poolings: tuple[str, ...] = ()
    options: Mapping[str, Any] = field(default_factory=dict)
    where: str = ""
    test_where: str = ""
    group: str = ""
    folds: int = 0
    seed: int = 0
    version: int = 0
    unlabelled: UnlabeledUse = UnlabeledUse.LEFT_OUT
    descriptions: Mapping[str, str] = field(default_factory=dict)
    replace: bool = False


@dataclass(frozen=True)
class HeadDefinition:
    """A wish come to terms with its set: `views` are the taps and poolings to choose from. `described` holds, for each
    view, the descriptions of the classes as the trunk embeds them, in the order of `descriptions`."""

    name: str
    set: str
    version: int
    path: str  # the Lance dataset
    target: str
    kind: str
    task: Task
    encoder: str
    encoder_options: Mapping[str, Any]
    modality: Modality | None
    views: tuple[tuple[TapInfo, Pooling], ...]
    options: Mapping[str, Any] = field(default_factory=dict)
    where: str = ""
    test_where: str = ""
    group: str = ""
    folds: int = 0
    seed: int = 0
    unlabelled: UnlabeledUse = UnlabeledUse.LEFT_OUT
    descriptions: Mapping[str, str] = field(default_factory=dict)
    described: tuple[tuple[tuple[float, ...], ...], ...] = ()
    set_created: float = 0.0  # which tells it from another set of that name; 0.0 in records of older servers


@dataclass(frozen=True, slots=True)
class MetricValue:
    """A figure on items that the head has not learnt from, with its 95% bootstrap interval over items."""

    name: str
    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Head:
    """A head that is ready: head.json beside its graph. Times in seconds, `created` since 1970.

    Its graph takes `rows` (n, dim) float32 of `tap` pooled by `pooling`, and gives `scores` as its Target has them, and
    `probabilities`: of CLASSES and LABELS after the temperature, of SPAN the scores (their softmax is over an item's rows), of
    NUMBERS the numbers. Both are float32, of NUMBERS float64.
    """

    name: str
    definition: HeadDefinition | None  # None for heads that came with their encoder
    task: Task
    encoder: str
    encoder_options: Mapping[str, Any]
    tap: TapInfo
    pooling: Pooling
    dim: int  # of what the graph reads, after pooling
    names: tuple[str, ...]
    created: float
    code: str
    kind: str = ""
    chosen: Mapping[str, Any] = field(default_factory=dict)
    temperature: float = 1.0
    interval: float = 0.0  # half the width of the band that held 90% of held-out items; REGRESSION
    metrics: tuple[MetricValue, ...] = ()
    baseline: tuple[MetricValue, ...] = ()
    estimate: str = ""
    labelled: int = 0
    unlabelled: int = 0
    agreement: float = 0.0
    seconds: float = 0.0
    warnings: tuple[str, ...] = ()
    tuned: str = ""  # the encoder that was fine-tuned with it, whose files are its own
    target_center: float = 0.0  # REGRESSION: numbers were learnt as (number - center) / unit; the graph gives them as they came
    target_unit: float = 1.0

    @property
    def native(self) -> bool:
        return self.definition is None


def definition_of(record: Mapping[str, Any]) -> HeadDefinition:
    """Of its JSON. ValueError names the field that is not of its type."""
    return json_records.convert(record, HeadDefinition)


def head_of(record: Mapping[str, Any]) -> Head:
    """Of its JSON. ValueError names the field that is not of its type."""
    return json_records.convert(record, Head)

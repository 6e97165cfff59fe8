"""Frozen data of heads, their definitions and their requests, with their conversion to and from JSON."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from enum import StrEnum
from typing import Any

from topwork.heads import MetricValue

from topwork_server import json_records
from topwork_server.heads.conformal import HeldOutScores
from topwork_server.plugin_api.trainer import Target
from topwork_server.types import FingerprintedTap, Modality


class Task(StrEnum):
    """The task of a head. `training/label_formats.py` says how the labels of each are written."""

    CLASSIFICATION = "classification"
    MULTI_LABEL = "multi-label"
    REGRESSION = "regression"
    TAGGING = "tagging"
    QUESTION_ANSWERING = "question-answering"
    SEGMENTATION = "segmentation"
    FILL = "fill"  # words for the gaps of a text; only heads that came with their encoder
    DETECTION = "detection"
    ALIGNMENT = "alignment"  # to the captions of items, in the space of a text encoder

    @property
    def target(self) -> Target:
        return TARGETS[self]

    @property
    def every_row(self) -> bool:
        """True where each row (TOKEN, CELL) has a value of its own, rather than the item as a whole."""
        return self in (Task.TAGGING, Task.QUESTION_ANSWERING, Task.SEGMENTATION, Task.DETECTION)


TARGETS = {
    Task.CLASSIFICATION: Target.CLASSES,
    Task.MULTI_LABEL: Target.LABELS,
    Task.REGRESSION: Target.NUMBERS,
    Task.TAGGING: Target.CLASSES,
    Task.QUESTION_ANSWERING: Target.SPAN,
    Task.SEGMENTATION: Target.CLASSES,
    Task.FILL: Target.CLASSES,
    Task.DETECTION: Target.BOXES,
    Task.ALIGNMENT: Target.VECTORS,
}
#: Tasks that a trainer may learn.
LEARNED = tuple(task for task in Task if task is not Task.FILL)


def usual_kind(task: Task | None) -> str:
    """Name the kind of training where a request names none."""
    return {Task.DETECTION: "fcos", Task.ALIGNMENT: "align"}.get(task or Task.CLASSIFICATION, "linear")


#: Tasks whose classes may be described by text.
DESCRIBABLE = (Task.CLASSIFICATION, Task.MULTI_LABEL)
#: Tasks of which a coverage may be promised: of a set of classes, or a band of numbers.
PROMISING = (Task.CLASSIFICATION, Task.MULTI_LABEL, Task.REGRESSION)


class Pooling(StrEnum):
    """The way in which the rows of an item become one. ROW: the item has a single row; ROWS: all rows are kept."""

    ROW = "row"
    ROWS = "rows"
    MEAN = "mean"
    MAX = "max"
    MEAN_STD = "mean+std"  # (2 dim): the mean, and the population's standard deviation
    TWO_TOWER = "two-tower"  # (4 dim + 1) of both sides of a pair, each encoded separately: u, v, |u - v|, u * v, their cosine
    COSINE = "cosine"  # (1) of the same: the cosine alone
    MASK = "mask"  # the rows of gaps, as GapRows says, and so the next two
    LAST = "last"
    WINDOW = "window"
    PAIR = "pair"  # (4 dim) of TOKEN rows of a pair: u, v, |u - v|, u * v, where u and v are the means of its two parts


class UnlabeledUse(StrEnum):
    """The use of items without a label."""

    LEFT_OUT = ""
    SELF_TRAINING = "self-training"
    LABEL_PROPAGATION = "label-propagation"


@dataclass(frozen=True)
class TrainRequest:
    """The settings of a Train request; what is left out is chosen by the server."""

    set: str
    target: str
    name: str = ""
    kind: str = ""
    task: Task | None = None
    taps: tuple[str, ...] = ()
    poolings: tuple[str, ...] = ()
    options: Mapping[str, Any] = field(default_factory=dict)
    where: str = ""
    test_where: str = ""
    group: str = ""
    weight: str = ""
    combine: bool = False
    folds: int = 0
    seed: int = 0
    version: int = 0
    unlabeled: UnlabeledUse = UnlabeledUse.LEFT_OUT
    descriptions: Mapping[str, str] = field(default_factory=dict)
    replace: bool = False
    also: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class SetViews:
    """The views that a head reads of one set: a version of it, which was made at `created`, and the encoder of its rows."""

    set: str
    version: int
    path: str  # the Lance dataset
    created: float
    encoder: str
    encoder_options: Mapping[str, Any]
    modality: Modality | None
    views: tuple[tuple[FingerprintedTap, Pooling], ...]


@dataclass(frozen=True)
class TextSide:
    """The text encoder that an alignment learns to, and its tap."""

    encoder: str
    tap: FingerprintedTap


@dataclass(frozen=True)
class HeadDefinition:
    """A training request resolved against its set.

    `views` are the taps and poolings to choose from or, with `combine`, to read side by side. `described` holds, for each view,
    the embeddings of the class descriptions, in the order of `descriptions`. `also` are the heads that are trained with this one
    on the same new trunk, and `share` is what the loss of one counts for beside it. `others` are other sets of the same items,
    whose views stand beside its own. `texts` are the encoder and the tap that captions are embedded with, of an ALIGNMENT.
    """

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
    views: tuple[tuple[FingerprintedTap, Pooling], ...]
    options: Mapping[str, Any] = field(default_factory=dict)
    where: str = ""
    test_where: str = ""
    group: str = ""
    weight: str = ""
    combine: bool = False
    folds: int = 0
    seed: int = 0
    unlabeled: UnlabeledUse = UnlabeledUse.LEFT_OUT
    descriptions: Mapping[str, str] = field(default_factory=dict)
    described: tuple[tuple[tuple[float, ...], ...], ...] = ()
    set_created: float = 0.0  # tells it from another set of that name; 0.0 in records of older servers
    also: tuple[HeadDefinition, ...] = ()
    share: float = 1.0
    others: tuple[SetViews, ...] = ()
    texts: TextSide | None = None

    @property
    def together(self) -> tuple[HeadDefinition, ...]:
        """The head itself and those that are trained with it."""
        return (self, *self.also)

    @property
    def sources(self) -> tuple[SetViews, ...]:
        """The sets that it reads, its own first."""
        own = SetViews(
            *(self.set, self.version, self.path, self.set_created),
            *(self.encoder, self.encoder_options, self.modality, self.views),
        )
        return (own, *self.others)

    @property
    def all_views(self) -> tuple[tuple[FingerprintedTap, Pooling], ...]:
        """The views of all of its sets, in the order of `sources`."""
        return tuple(view for source in self.sources for view in source.views)

    @property
    def tap_names(self) -> tuple[str, ...]:
        """The taps of `all_views`, those of other sets as SET:TAP."""
        others = (f"{other.set}:{info.tap.name}" for other in self.others for info, _ in other.views)
        return (*(info.tap.name for info, _ in self.views), *others)


@dataclass(frozen=True)
class Head:
    """A trained head: head.json beside its graph. Times are in seconds, `created` since 1970.

    The graph takes `rows` (n, dim) float32 of `tap`, pooled by `pooling`. It gives `scores`, as the Target defines them, and
    `probabilities`: for CLASSES and LABELS after the temperature, for SPAN the scores (their softmax is over the rows of an
    item), for NUMBERS the numbers; of BOXES the distances stay as they are. Both are float32, or float64 for NUMBERS.
    """

    name: str
    definition: HeadDefinition | None  # None for heads that came with their encoder
    task: Task
    encoder: str
    encoder_options: Mapping[str, Any]
    tap: FingerprintedTap
    pooling: Pooling
    dim: int  # what the graph reads, after pooling
    names: tuple[str, ...]
    created: float
    server_version: str
    kind: str = ""
    chosen: Mapping[str, Any] = field(default_factory=dict)
    temperature: float = 1.0
    interval: float = 0.0  # half the width of the band that held 90% of held-out items; REGRESSION
    held_out: HeldOutScores | None = None  # for promises of coverage; None for other tasks, and in records of older servers
    metrics: tuple[MetricValue, ...] = ()
    baseline: tuple[MetricValue, ...] = ()
    estimate: str = ""
    labeled: int = 0
    unlabeled: int = 0
    max_abs_error: float = 0.0
    training_seconds: float = 0.0
    warnings: tuple[str, ...] = ()
    tuned: str = ""  # the encoder that was fine-tuned with it, and is dropped with it
    parts: tuple[tuple[FingerprintedTap, Pooling], ...] = ()  # of a head on several taps: `tap` is what they are side by side
    target_center: float = 0.0  # REGRESSION: trained on (number - center) / unit; the graph gives plain numbers
    target_unit: float = 1.0

    @property
    def together(self) -> int:
        """The number of rows that the graph must read together: the cells of a picture for DETECTION, else 1."""
        return math.prod(self.tap.tap.grid or ()) if self.task is Task.DETECTION else 1

    @property
    def pretrained(self) -> bool:
        return self.definition is None

    @property
    def views(self) -> tuple[tuple[FingerprintedTap, Pooling], ...]:
        """The taps of the encoder that it reads, each with its pooling: one, or several side by side."""
        return self.parts or ((self.tap, self.pooling),)

    @property
    def sources(self) -> tuple[SetViews, ...]:
        """The views by the encoder that computes them, with the set that each was learned on: of most heads one."""
        others = self.definition.others if self.definition else ()
        own = self.views[: len(self.views) - sum(len(other.views) for other in others)]
        learned = self.definition.sources[0] if self.definition else SetViews("", 0, "", 0.0, "", {}, None, ())
        return (replace(learned, encoder=self.encoder, encoder_options=self.encoder_options, views=own), *others)

    @property
    def encoders(self) -> tuple[str, ...]:
        """The encoders that it stands on."""
        return tuple(dict.fromkeys(source.encoder for source in self.sources))

    @property
    def taps(self) -> tuple[FingerprintedTap, ...]:
        """The taps of the encoder that it reads: one, or several side by side."""
        return tuple(info for info, _ in self.views)

    def training_result(self) -> dict[str, Any]:
        """The result of the job that trained it: its name, its metrics and how they were estimated."""
        return {"head": self.name, "estimate": self.estimate, "metrics": [asdict(metric) for metric in self.metrics]}


def definition_of(record: Mapping[str, Any]) -> HeadDefinition:
    """Read it from JSON. ValueError names a field of the wrong type."""
    return json_records.convert(record, HeadDefinition)

"""The class that a trainer plugin subclasses: it learns a head from rows, and knows nothing of sets, jobs, reports or servers.

What labels mean, how items are split, how a head is evaluated, calibrated, exported and served is the server's (`heads/`).
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from topwork_server.blocking_calls import Report
from topwork_server.plugin_api.encoder import Encoder, NoOptions, Trunk
from topwork_server.types import Array, EncoderSpec, GapRows, Item, Tap

if TYPE_CHECKING:
    import onnx
    import torch

#: Of the graphs of heads; every onnxruntime that has the opset understands the version.
OPSET, IR_VERSION = 20, 10


class Target(StrEnum):
    """The kind of answer that a head gives for one row, and what its scores are."""

    CLASSES = "classes"  # one of several: scores (n, classes) are logits, whose softmax is the probability
    LABELS = "labels"  # any of several: scores (n, labels) are logits, each with its own sigmoid
    NUMBERS = "numbers"  # regression: scores (n, 1) are the numbers themselves, in the scale of Examples.values
    SPAN = "span"  # where an answer starts and ends: scores (n, 2) are logits, whose softmax is over the rows of an item
    BOXES = "boxes"  # what is where in a picture: scores (n, classes + 4) are a cell's logits, each with its own sigmoid, then
    # the distances from its center to the left, upper, right and lower edge of its box, in cells
    VECTORS = "vectors"  # where an item lies in the space of a text encoder: scores (n, dim) are vectors of length 1


#: Targets whose heads score each row by itself, or the rows of an item together but without their places.
ROW_TARGETS = frozenset(Target) - {Target.BOXES, Target.VECTORS}


@dataclass(frozen=True, slots=True)
class FeatureView:
    """One way to see the items: a tap and a pooling. rows (n, dim) float32, C-contiguous, finite."""

    tap: str
    pooling: str
    rows: Array


@dataclass(frozen=True)
class Examples:
    """The examples to learn from. All arrays have one entry a row, n in all; all views have the same rows in the same order.

    values: CLASSES (n,) int64; LABELS (n, labels) float32, 0 or 1; NUMBERS (n, 1) float32, of
    mean 0 and deviation 1 (the server puts offset and unit back, in float64); SPAN (n, 2) float32, 1 where an
    answer starts, and where it ends (an item without an answer has none); BOXES (n, 5) float32: the boxes of an item stand in
    its first rows, class and x0, y0, x1, y1 in cells from the upper left corner of the grid; class -1 in the other rows;
    VECTORS (n, dim) float32, of length 1: the captions, as the text encoder embeds them. Equal captions have equal rows, and are
    of one group.
    grid (rows, columns) of BOXES: the rows of an item are its cells, row-major, always all of them.
    items (n,) int64, ascending: to which item a row belongs. groups (n,) int64: rows of one group are never on both sides of a
    split (the items, or what is coarser). unlabeled: rows of each view without a value. described: for each view
    (classes, dim) float32, the descriptions of the classes as the trunk embeds them. weights (n,) float32, above 0: what a row
    counts for, so that 2 is as good as two equal rows of one group; None: each counts the same. Only kinds whose TrainerSpec
    `reads_weights` get any.
    """

    views: tuple[FeatureView, ...]
    target: Target
    names: tuple[str, ...]
    values: Array
    items: Array
    groups: Array
    unlabeled: tuple[FeatureView, ...] = ()
    described: tuple[Array, ...] = ()
    weights: Array | None = None
    grid: tuple[int, int] | None = None

    @property
    def count(self) -> int:
        return len(self.values)

    @property
    def together(self) -> int:
        """The number of rows that are scored together: the cells of a picture of BOXES, else 1."""
        return math.prod(self.grid or (1,))

    @property
    def counted(self) -> Array:
        """The weight of each row, (n,) float64; 1 where there are none."""
        return np.ones(self.count) if self.weights is None else self.weights.astype(np.float64)

    def take(self, rows: Array) -> Examples:
        """Return some of the rows (positions, ascending)."""
        views = tuple(FeatureView(view.tap, view.pooling, view.rows[rows]) for view in self.views)
        values, items, groups = self.values[rows], self.items[rows], self.groups[rows]
        weights = None if self.weights is None else self.weights[rows]
        return replace(self, views=views, values=values, items=items, groups=groups, weights=weights)


@dataclass(frozen=True, slots=True)
class Trial:
    """One thing that was tried while a trainer chose: `score` is on rows that it was not trained on; more is better."""

    tap: str
    pooling: str
    settings: Mapping[str, Any]
    score: float


class FittedHead(ABC):
    """A trained head.

    view     which of Examples.views it reads
    chosen   what was chosen, as JSON: {"l2": 0.1}
    trials   what was tried, all of it; `measure` says what their scores are: "mean log likelihood"
    """

    view: int = 0
    chosen: Mapping[str, Any] = {}
    trials: Sequence[Trial] = ()
    measure: str = ""

    @abstractmethod
    def scores(self, rows: Array) -> Array:
        """Map (n, dim) float32 rows of its view to (n, outputs) float32, as Target has them. Never depends on its batch-mates: of
        BOXES, whose rows are whole pictures, on other pictures."""

    @abstractmethod
    def graph(self) -> onnx.ModelProto:
        """The same as an ONNX graph: input `rows` (n, dim) float32, output `scores` (n, outputs) float32; opset 20, ONNX's own
        operators alone."""


@dataclass(frozen=True)
class TrainingPlan:
    """The facts of a training, known before its job begins: the encoder of its set (None: ready vectors) and the folder of its
    artifact (None: not exported here), the taps with their poolings, what is learned, whether classes are described, and how many
    blocks the trunk has (0: not known)."""

    encoder: EncoderSpec | None
    artifact: Path | None
    views: tuple[tuple[Tap, str], ...]
    target: Target
    described: bool = False
    blocks: int = 0


class Trainer(ABC):
    """`options` is a frozen dataclass of what Train may set, with defaults; its field types are checked.
    `targets` are those that it learns: all but BOXES and VECTORS, unless it says. The `options` of one that learns VECTORS have
    `text_encoder`, the encoder whose space it is."""

    options: ClassVar[type[Any]] = NoOptions
    targets: ClassVar[frozenset[Target]] = ROW_TARGETS

    @classmethod  # noqa: B027 (most have nothing to check)
    def check(cls, plan: TrainingPlan, options: Any) -> None:
        """Raise InvalidInput for options that cannot be trained with. It runs in the server before the job: quick, without
        torch."""

    @classmethod
    @abstractmethod
    def fit(
        cls, examples: Examples, subsets: Sequence[Array], options: Any, seed: int, threads: int, report: Report
    ) -> list[FittedHead]:
        """Fit one head for each subset, learned from its rows alone.

        A subset is (m,) int64 positions, ascending; the subsets of one call are the folds, the sizes of a learning curve, and
        all rows, so that what they share can be computed once. A class may be missing in a small subset: its score is then low,
        never NaN. All choices (regularization, view) are made within the subset (`splits.folds` helps), so
        that an evaluation on rows outside of it is honest. The same arguments give the same heads.
        Raise InvalidInput for what cannot be learned. Runs in a process of its own, with `threads` for BLAS and torch.
        """


@dataclass(frozen=True)
class FineTuneDataset:
    """The data of a FineTuner: raw items, as the set keeps them, and their values.

    counts (items,) int64: how many rows each item has, after pooling (1 unless each row has a value of its own); values and
    `names` as Examples has them, for the rows of all items in order. train, validation, test: (k,) int64 positions of items;
    validation is for early stopping and for choosing, test for the caller alone.
    """

    items: Sequence[Item]
    options: Any  # of the encoder, parsed
    tap: Tap
    pooling: str
    target: Target
    names: tuple[str, ...]
    values: Array
    counts: Array
    train: Array
    validation: Array
    test: Array


@dataclass(frozen=True)
class FineTuneResult:
    """The result of a fine-tuning: the trunk's state as safetensors, a head on its tap, and the scores of all rows of
    `validation` and `test` in the order of those positions, computed by torch.

    `adapter` says that `weights` are those of a LoRA adapter alone, as peft's `get_peft_model_state_dict` of a `LoraModel` gives
    them: it holds the arguments of its `LoraConfig`. `test_order_before` (rows, 1) are numbers that ordered the test rows before
    anything was learned, such as cosines of pairs; None where nothing did.
    """

    weights: Path
    head: FittedHead
    validation_scores: Array
    test_scores: Array
    history: Sequence[Mapping[str, Any]] = ()  # an entry an epoch: {"epoch": 1, "loss": ..., "score": ...}
    adapter: Mapping[str, Any] | None = None
    test_order_before: Array | None = None


class FineTuner(ABC):
    """Learns the trunk, too. `options` and `targets` as Trainer has them. Where it does not read validation items (`validates`),
    none are held out. `joint`: it learns several targets at once, by `tune_jointly`. `towers`: of items that are pairs of texts,
    it can read each text by itself, where the pooling is "two-tower" or "cosine"; targets `by_cosine` are learned so alone."""

    options: ClassVar[type[Any]] = NoOptions
    targets: ClassVar[frozenset[Target]] = ROW_TARGETS
    validates: ClassVar[bool] = True
    joint: ClassVar[bool] = False
    towers: ClassVar[bool] = False
    by_cosine: ClassVar[frozenset[Target]] = frozenset()

    @classmethod  # noqa: B027 (as of Trainer)
    def check(cls, plan: TrainingPlan, options: Any) -> None:
        """Raise InvalidInput for options that cannot be trained with, as `Trainer.check`."""

    @classmethod
    @abstractmethod
    def tune(
        cls,
        trunk: Trunk,
        encoder: Encoder,
        dataset: FineTuneDataset,
        options: Any,
        seed: int,
        threads: int,
        out: Path,
        report: Report,
    ) -> FineTuneResult:
        """Train the trunk and a head. `trunk.module` is the network in torch, with pretrained weights; `encoder` prepares items
        as it does when it serves; files go to the folder `out`. Raise InvalidInput for what cannot be learned. The same
        arguments give the same head (on one kind of device)."""

    @classmethod
    def tune_jointly(
        cls,
        trunk: Trunk,
        encoder: Encoder,
        datasets: Sequence[FineTuneDataset],
        weights: Sequence[float],
        options: Any,
        seed: int,
        threads: int,
        out: Path,
        report: Report,
    ) -> Sequence[FineTuneResult]:
        """Train one trunk and a head for each dataset, whose loss counts by its weight. The datasets are of one tap's encoder and
        may have other items. The results share `weights`. Only called where it is `joint`."""
        raise NotImplementedError


@dataclass(frozen=True)
class TrainerSpec:
    """A plugin's description of a way to train. `min_per_class` is how many examples each class must have. `reads_descriptions`:
    classes may be described, each by a text that the trunk embeds; `needs_descriptions`: they must be, and labels may then be
    missing altogether. `reads_directions`: the head reads a row's direction alone, so that multiples of a row are its copies, and
    are never on both sides of a split. `reads_weights`: it learns from `Examples.weights`."""

    kind: str
    trainer: type[Trainer] | type[FineTuner]
    description: str = ""
    min_per_class: int = 2
    reads_descriptions: bool = False
    needs_descriptions: bool = False
    reads_directions: bool = False
    reads_weights: bool = False

    @property
    def tunes(self) -> bool:
        return issubclass(self.trainer, FineTuner)


@dataclass(frozen=True)
class PretrainedHead:
    """A head that came with a pretrained trunk, over the rows of `tap`. Linear, scores = rows @ weight.T + bias of weight
    (outputs, dim) and bias (outputs,) float32; or a torch `module`, in fp32, of rows (n, dim) to scores (n, outputs).

    Its outputs have `names`, or are the entries of the encoder's own vocabulary (`Encoder.words`): `gaps` says then which rows it
    reads for a gap. WINDOW takes so many rows on each side from `settings`: {"window": 5, "mean": True}, or the sum.
    """

    name: str
    tap: str
    names: tuple[str, ...] = ()
    weight: Array | None = None
    bias: Array | None = None
    target: Target = Target.CLASSES
    description: str = ""
    module: torch.nn.Module | None = None
    gaps: GapRows | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)


def linear_graph(weight: Array, bias: Array) -> onnx.ModelProto:
    """A head in ONNX: scores = rows @ weight.T + bias, of weight (outputs, dim) and bias (outputs,)."""
    from onnx import helper

    gemm = helper.make_node("Gemm", ["rows", "weight", "bias"], ["scores"], transB=1)
    return head_graph([gemm], {"weight": weight, "bias": bias}, weight.shape[1], weight.shape[0])


def head_graph(nodes: Sequence[onnx.NodeProto], constants: Mapping[str, Array], dim: int, outputs: int) -> onnx.ModelProto:
    """A head in ONNX of those nodes, checked: input `rows` (n, dim) float32, output `scores` (n, outputs) float32. Constants of
    floating point become float32, others int64."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    rows = helper.make_tensor_value_info("rows", TensorProto.FLOAT, ["n", dim])
    scores = helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["n", outputs])
    stored = [numpy_helper.from_array(_constant(array), name) for name, array in constants.items()]
    graph = helper.make_graph(list(nodes), "head", [rows], [scores], stored)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION)
    onnx.checker.check_model(model)
    return model


def _constant(array: Array) -> Array:
    return np.ascontiguousarray(array, np.float32 if np.issubdtype(array.dtype, np.floating) else np.int64)

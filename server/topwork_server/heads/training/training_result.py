"""The result of a training, on frozen features or with the trunk, and predictions of rows that were held out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from topwork.report import DrawnPicture, LearningCurvePoint, SemiSupervisedGain

from topwork_server.heads.evaluation.evaluation_data import Evaluation, HeldOutPredictions
from topwork_server.heads.head_types import Pooling
from topwork_server.heads.training.scaling import TargetScale
from topwork_server.plugin_api.trainer import Examples, FittedHead
from topwork_server.types import Array, FingerprintedTap


@dataclass(frozen=True)
class TrainingResult:
    """A trained head and its evaluation.

    `graph` is the one that is served, `max_abs_error` the largest difference of a score between it and the trainer's own head.
    `encoder_options` are those of a fine-tuned trunk, which is one tower of an encoder that may have others; else the set's.
    `typicality` is the graph that tells how like the training items an item is, or empty.
    `items` is the number of evaluated items; `evaluation` is None where no item had a label.
    `labeled` is the number of items with a label that it was trained on, those that told when to stop among them and those that
    were held out for a test not; `unlabeled` is that of others, without a label.
    """

    fitted: FittedHead
    graph: bytes
    encoder: str
    tap: FingerprintedTap
    pooling: Pooling
    dim: int
    names: tuple[str, ...]
    estimate: str
    items: int
    labeled: int
    unlabeled: int
    max_abs_error: float
    evaluation: Evaluation | None = None
    learning_curve: tuple[LearningCurvePoint, ...] = ()
    learning_curve_estimate: str = ""
    semi_supervised: SemiSupervisedGain | None = None
    previews: Mapping[str, str] | None = None  # of the items that were got wrong, by id
    pictures: tuple[DrawnPicture, ...] = ()
    history: Sequence[Mapping[str, Any]] = ()
    warnings: tuple[str, ...] = ()
    tuned_encoder: str = ""
    target: TargetScale | None = None
    typicality: bytes = b""
    parts: tuple[tuple[FingerprintedTap, Pooling], ...] = ()
    encoder_options: Mapping[str, Any] | None = None


def held_out_predictions(examples: Examples, held: Sequence[Array], heads: Sequence[FittedHead]) -> HeldOutPredictions:
    """Predict with each head the rows that were held out from it."""
    scores = [head.scores(examples.views[head.view].rows[rows]) for rows, head in zip(held, heads, strict=True)]
    rows = np.concatenate(held)
    order = np.argsort(rows, kind="stable")
    folds = np.repeat(np.arange(len(held)), [len(part) for part in held])
    return HeldOutPredictions(rows[order], np.concatenate(scores)[order], folds[order])


def item_count(examples: Examples, rows: Array) -> int:
    """Count the items that rows belong to."""
    return len(np.unique(examples.items[rows]))

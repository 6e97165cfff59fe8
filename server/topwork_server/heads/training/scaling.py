"""Scales numbers that float32 cannot tell apart to about 1 for the trainer, and back in the head that is served.

Targets are always trained on as deviations from their mean, in units of their deviation, and come back in float64. Rows stay as
they are unless their offset or scale would cost float32 its digits.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from topwork_server.heads.evaluation.metrics import stable_deviation
from topwork_server.heads.training.equal_rows import centers_and_spreads
from topwork_server.models.head_graph import ROWS, SCORES
from topwork_server.models.onnx_graph import NodeWriter, rename_values
from topwork_server.plugin_api.trainer import Examples, FeatureView, FittedHead, Target, Trial
from topwork_server.types import Array

if TYPE_CHECKING:
    import onnx

#: A column whose center is so many of its spreads from zero is centered; where the widest of the columns is so many times as wide
#: as the narrower half, each gets a scale of its own; spreads outside of these bounds are brought near 1.
FAR, UNEQUAL, SMALL, LARGE = 300.0, 1e4, 1e-5, 1e5
_OWN = "topwork.scaled/"


@dataclass(frozen=True)
class TargetScale:
    """number = score * unit + center."""

    center: float = 0.0
    unit: float = 1.0

    @classmethod
    def of(cls, numbers: Array) -> TargetScale:
        center = float(numbers.mean(dtype=np.float64))
        return cls(center, stable_deviation(numbers) or 1.0)

    def to_scores(self, numbers: Array) -> Array:
        """Scale numbers to mean 0 and deviation 1, float32."""
        return np.asarray((numbers.astype(np.float64) - self.center) / self.unit, np.float32)

    def to_numbers(self, scores: Array) -> Array:
        """float64."""
        return np.asarray(scores.astype(np.float64) * self.unit + self.center)


@dataclass(frozen=True)
class RowScale:
    """The scale of rows, (rows - center) * factor in float32. center, factor (dim,)."""

    center: Array
    factor: Array

    def __call__(self, rows: Array) -> Array:
        return np.asarray((rows - self.center) * self.factor, np.float32)


@dataclass(frozen=True)
class Scaling:
    """The scales of a training: `examples` are what a trainer gets; `unscaled` makes its heads read rows and give numbers as they
    were.
    """

    examples: Examples
    target: TargetScale | None
    views: tuple[RowScale | None, ...]

    @classmethod
    def of(cls, examples: Examples) -> Scaling:
        target = TargetScale.of(examples.values) if examples.target is Target.NUMBERS and examples.count else None
        views = tuple(row_scale(view.rows) for view in examples.views)
        values = target.to_scores(examples.values) if target else examples.values
        scaled = replace(
            examples,
            views=_scaled(examples.views, views),
            values=values,
            unlabeled=_scaled(examples.unlabeled, views),
            described=tuple(_rows(rows, by) for rows, by in zip(examples.described, views, strict=False)),
        )
        return cls(scaled, target, views)

    def unscaled(self, fitted: FittedHead) -> FittedHead:
        rows = self.views[fitted.view]
        return fitted if rows is None and self.target is None else ScaledHead(fitted, rows, self.target)


def _scaled(views: Sequence[FeatureView], scales: Sequence[RowScale | None]) -> tuple[FeatureView, ...]:
    return tuple(replace(view, rows=_rows(view.rows, by)) for view, by in zip(views, scales, strict=False))


def _rows(rows: Array, by: RowScale | None) -> Array:
    return rows if by is None else by(rows)


def row_scale(rows: Array) -> RowScale | None:
    """Choose the scale of rows; None where they need none."""
    if not len(rows):
        return None
    center, spread = centers_and_spreads(rows)
    varies = spread > 0
    if not varies.any():
        return None
    far = bool((np.abs(center[varies]) > FAR * spread[varies]).any())
    typical = float(np.sort(spread[varies])[(int(varies.sum()) - 1) // 2])
    unequal = float(spread.max()) > UNEQUAL * typical
    if not far and not unequal and SMALL < typical < LARGE:
        return None
    factor = _power_of_two(np.where(varies & unequal, spread, typical))
    return RowScale((center if far else np.zeros(len(center))).astype(np.float32), factor.astype(np.float32))


def _power_of_two(spread: Array) -> Array:
    """About one over the spread; multiplying by it rounds nothing."""
    return np.asarray(2.0 ** -np.round(np.log2(spread)).clip(-120, 120))


class ScaledHead(FittedHead):
    """A head that reads and gives unscaled rows and numbers; the numbers are float64."""

    def __init__(self, inner: FittedHead, rows: RowScale | None, target: TargetScale | None) -> None:
        self.view: int = inner.view
        self.chosen: Mapping[str, Any] = inner.chosen
        self.trials: Sequence[Trial] = inner.trials
        self.measure: str = inner.measure
        self._inner, self._rows, self.target = inner, rows, target

    def scores(self, rows: Array) -> Array:
        scores = self._inner.scores(_rows(rows, self._rows))
        return self.target.to_numbers(scores) if self.target else scores

    def graph(self) -> onnx.ModelProto:
        import onnx

        model = onnx.ModelProto()
        model.CopyFrom(self._inner.graph())
        rename_values(model.graph, lambda name: _OWN + name)
        before, after = NodeWriter(f"{_OWN}rows/"), NodeWriter(f"{_OWN}numbers/")
        _scale_rows(before, self._rows)
        _scale_numbers(after, self.target)
        nodes = [*before.made, *model.graph.node, *after.made]
        del model.graph.node[:]
        model.graph.node.extend(nodes)
        model.graph.input[0].name, model.graph.output[0].name = ROWS, SCORES
        if self.target:
            model.graph.output[0].type.tensor_type.elem_type = onnx.TensorProto.DOUBLE
        return model


def _scale_rows(nodes: NodeWriter, by: RowScale | None) -> None:
    if by is None:
        nodes.add("Identity", ROWS, output=_OWN + ROWS)
        return
    off = nodes.add("Sub", ROWS, nodes.constant(by.center))
    nodes.add("Mul", off, nodes.constant(by.factor), output=_OWN + ROWS)


def _scale_numbers(nodes: NodeWriter, by: TargetScale | None) -> None:
    if by is None:
        nodes.add("Identity", _OWN + SCORES, output=SCORES)
        return
    wide = nodes.add("Cast", _OWN + SCORES, to=11)  # onnx.TensorProto.DOUBLE
    scaled = nodes.add("Mul", wide, nodes.constant(np.array(by.unit, np.float64)))
    nodes.add("Add", scaled, nodes.constant(np.array(by.center, np.float64)), output=SCORES)

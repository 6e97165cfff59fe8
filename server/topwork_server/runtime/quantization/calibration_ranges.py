"""Ranges of a graph's tensors on real inputs, and the best part of each for 8 bits."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from topwork_server.runtime.quantization.qdq import OPERATORS, Ranges
from topwork_server.runtime.session import Session
from topwork_server.types import Array

BINS = 4096
LEVELS = 256
#: One of so many values of a tensor is counted.
THINNING = 3
#: The shares of the largest value among which the best range is sought.
SHARES = np.linspace(1.0, 0.2, 41)

Feeds = Sequence[Mapping[str, Array]]


@dataclass
class Histogram:
    """Counts (BINS,) of a tensor's values between `low` and `high`."""

    low: float
    high: float
    counts: Array

    def add(self, values: Array) -> None:
        wide = max(self.high - self.low, 1e-12)
        places = ((values.ravel()[::THINNING] - self.low) * (BINS / wide)).astype(np.int32)
        self.counts += np.bincount(np.clip(places, 0, BINS - 1), minlength=BINS)

    def best_range(self) -> tuple[float, float]:
        """The range with the least mean squared error in 8 bits. It contains zero, so that padding and ReLU are exact."""
        low, high = min(self.low, 0.0), max(self.high, 0.0)
        tried = [(low * share, high * share) for share in SHARES]
        errors = [self._error(*one) for one in tried]
        return tried[int(np.argmin(errors))]

    def _error(self, low: float, high: float) -> float:
        centers = self.low + (np.arange(BINS) + 0.5) * (self.high - self.low) / BINS
        scale = max((high - low) / (LEVELS - 1), 1e-12)
        zero = round(-low / scale)
        found = (np.clip(np.rint(centers / scale) + zero, 0, LEVELS - 1) - zero) * scale
        return float(((found - centers) ** 2 * self.counts).sum())


def calibrate(model: Path, feeds: Feeds, scratch: Path) -> Ranges:
    """Measure ranges in two passes over the inputs: the extremes, then histograms between them."""
    names = _expose_tensors(model, scratch / "watched.onnx")
    session = Session(scratch / "watched.onnx")
    seen: dict[str, Histogram] = {}
    for name, values in _values(session, names, feeds):
        low, high = float(values.min()), float(values.max())
        known = seen.setdefault(name, Histogram(low, high, np.zeros(BINS, np.int64)))
        known.low, known.high = min(known.low, low), max(known.high, high)
    for name, values in _values(session, names, feeds):
        seen[name].add(values)
    return {name: histogram.best_range() for name, histogram in seen.items()}


def _values(session: Session, names: Sequence[str], feeds: Feeds) -> Iterator[tuple[str, Array]]:
    computed = [name for name in names if name not in session.inputs]
    for feed in feeds:
        yield from ((name, array) for name, array in feed.items() if name in names)
        yield from zip(computed, session.run(computed, feed), strict=True)


def _expose_tensors(model: Path, out: Path) -> list[str]:
    """Write the graph with every tensor that may become integers as an output; returns their names."""
    import onnx

    whole = onnx.shape_inference.infer_shapes(onnx.load(str(model)))
    graph = whole.graph
    values = (*graph.input, *graph.output, *graph.value_info)
    floats = {value.name for value in values if value.type.tensor_type.elem_type == onnx.TensorProto.FLOAT}
    constants = {tensor.name for tensor in graph.initializer}
    touched = [name for node in graph.node if node.op_type in OPERATORS for name in (*node.input, *node.output)]
    names = list(dict.fromkeys(name for name in touched if name in floats - constants))  # not the arithmetic of shapes
    known = {value.name for value in (*graph.output, *graph.input)}
    for name in names:
        if name not in known:
            graph.output.append(onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None))
    onnx.save(whole, str(out))
    return names

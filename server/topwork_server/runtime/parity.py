"""Parity of a graph with the network that it was exported from, measured on real inputs at several shapes and batch sizes."""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from topwork_server import regular_files
from topwork_server.errors import ExportFailed
from topwork_server.features import rows_of
from topwork_server.plugin_api.encoder import Encoder, Reference, Run, Trunk, batch_key
from topwork_server.runtime.session import Session
from topwork_server.types import Array, Granularity, Item, Numerics, Sample, Tap

FP32_FLOOR = 0.9999
#: At most so many samples (windows) of one example item are measured.
SAMPLES_PER_ITEM = 2


@dataclass(frozen=True)
class ParityBatch:
    """Samples that share a run of the graph. `origins` are of each sample the position of its item, and its place among the
    item's samples."""

    samples: Sequence[Sample]
    feeds: Mapping[str, Array]
    origins: Sequence[tuple[int, int]] = ()

    @property
    def shapes(self) -> str:
        return " ".join(f"{name}{list(array.shape)}" for name, array in self.feeds.items())


@dataclass(frozen=True)
class ParityRecord:
    numerics: Numerics
    by_tap: Mapping[str, Mapping[str, float]]

    @property
    def worst(self) -> str:
        return min(self.by_tap, key=lambda tap: self.by_tap[tap]["min_cosine"])


def example_batches(encoder: Encoder, items: Sequence[Item]) -> list[ParityBatch]:
    """Batches of one, two, and as many as the encoder's budget allows, of equal shapes unless the encoder pads."""
    each = _by_item(encoder, items)
    samples = [sample for some in each for sample in some]
    origins = {id(sample): (i, nth) for i, some in enumerate(each) for nth, sample in enumerate(some)}
    if not samples:
        raise ExportFailed(
            f"{encoder.spec.name} has no example inputs",
            remedy="give its Trunk `examples`, or its class an `examples` method",
        )
    samples.sort(key=encoder.cost)
    batches = [[samples[0]], [samples[len(samples) // 2]], [samples[-1]]]
    for group in _groups(encoder, samples):
        batches += [group[-2:], group[: _fitting(encoder, group)]]
    return [ParityBatch(batch, encoder.collate(batch), [origins[id(sample)] for sample in batch]) for batch in batches]


def _fitting(encoder: Encoder, group: Sequence[Sample]) -> int:
    """Number of samples of a group, in the order of their cost, that make one full batch."""
    counts = range(1, len(group) + 1)
    return max([n for n in counts if n * encoder.cost(group[n - 1]) <= encoder.budget], default=1)


def _by_item(encoder: Encoder, items: Sequence[Item]) -> list[list[Sample]]:
    options = encoder.example_options
    return [list(islice(encoder.preprocess(item, options), SAMPLES_PER_ITEM)) for item in items]


def _groups(encoder: Encoder, samples: Sequence[Sample]) -> list[list[Sample]]:
    groups: dict[Hashable, list[Sample]] = {}
    for sample in samples:
        groups.setdefault(batch_key(encoder, sample), []).append(sample)
    return list(groups.values())


def export_arguments(encoder: Encoder, batches: Sequence[ParityBatch]) -> dict[str, Array]:
    """A batch of two to trace with: an axis of size 1 would be taken for a constant."""
    feeds = max(batches, key=lambda batch: min(len(batch.samples), 2)).feeds
    return {name: np.repeat(array, 2, axis=0) if len(array) == 1 else array[:2] for name, array in feeds.items()}


def reference_of(trunk: Trunk) -> Reference:
    """fp32 torch; for a trunk that came as a graph, what it brings, or the same graph run plainly."""
    if trunk.reference is not None:
        return trunk.reference
    if trunk.module is None:
        assert trunk.graph is not None, "a Trunk has a module or a graph"
        return Reference("the ONNX file as it came, fp32", Session(trunk.graph, optimize=False).run)
    import torch

    module, order = trunk.module, [tap.name for tap in trunk.taps]

    def run(outputs: Sequence[str], feeds: Mapping[str, Array]) -> list[Array]:
        with torch.no_grad():
            tensors = module(*(torch.from_numpy(feeds[name]) for name in trunk.inputs))
        if not isinstance(tensors, tuple | list) or len(tensors) != len(order):
            given = f"{len(tensors)} tensors" if isinstance(tensors, tuple | list) else f"a {type(tensors).__name__}"
            raise ExportFailed(
                f"the module returns {given} for {len(order)} taps", remedy="return a tuple: a tensor a tap, in the order of taps"
            )
        found = dict(zip(order, tensors, strict=True))
        return [found[name].numpy() for name in outputs]

    return Reference(f"torch {torch.__version__} fp32", run)


def recorded(reference: Reference, taps: Sequence[Tap], batches: Sequence[ParityBatch]) -> Reference:
    """Run the reference on all batches, and give what it computed: the network itself is not needed any more."""
    names = [tap.name for tap in taps]
    found = {id(batch.feeds): dict(zip(names, reference.run(names, batch.feeds), strict=True)) for batch in batches}

    def run(outputs: Sequence[str], feeds: Mapping[str, Array]) -> list[Array]:
        return [found[id(feeds)][name] for name in outputs]

    return Reference(reference.name, run)


def measure(taps: Sequence[Tap], batches: Sequence[ParityBatch], reference: Run, candidate: Run) -> ParityRecord:
    """Largest absolute difference and least cosine a tap, over the rows that a caller would get.

    ExportFailed where a tensor of the reference has another shape than its tap says.
    """
    worst = {tap.name: {"max_abs_error": 0.0, "min_cosine": 1.0} for tap in taps}
    for batch in batches:
        wanted = reference([tap.name for tap in taps], batch.feeds)
        found = candidate([tap.name for tap in taps], batch.feeds)
        for tap, a, b in zip(taps, wanted, found, strict=True):
            _check_shape(tap, a, len(batch.samples))
            for i, sample in enumerate(batch.samples):
                error, cosine = difference(rows_of(tap, a[i], sample), rows_of(tap, b[i], sample))
                worst[tap.name]["max_abs_error"] = max(worst[tap.name]["max_abs_error"], error)
                worst[tap.name]["min_cosine"] = min(worst[tap.name]["min_cosine"], cosine)
    parity = min(w["min_cosine"] for w in worst.values())
    return ParityRecord(Numerics("cpu", "fp32", parity, max(w["max_abs_error"] for w in worst.values())), worst)


def _check_shape(tap: Tap, tensor: Array, count: int) -> None:
    """Raise ExportFailed unless the tensor has the shape that `Tap` documents."""
    between = {Granularity.TOKEN: tensor.shape[1:2], Granularity.CELL: (math.prod(tap.grid or (0,)),)}
    wanted = (count, *between.get(tap.granularity, ()), tap.dim)
    if tensor.shape != wanted:
        raise ExportFailed(
            f"the tap {tap.name} ({tap.granularity}, dim {tap.dim}) means the shape {wanted}, and its tensor has {tensor.shape}",
            remedy="correct Trunk.taps, or what the module returns",
        )


def invariance(encoder: Encoder, taps: Sequence[Tap], items: Sequence[Item], run: Run, most: int = 8) -> tuple[float, float]:
    """Difference of rows alone and in batches: largest absolute difference and least cosine between samples run alone and in
    one batch, with its padding. `most` samples share a batch."""
    names, worst, least = [tap.name for tap in taps], 0.0, 1.0
    for group in _groups(encoder, [sample for some in _by_item(encoder, items) for sample in some]):
        group = group[:most]
        together = run(names, encoder.collate(group))
        for i, sample in enumerate(group):
            for tap, one, many in zip(taps, run(names, encoder.collate([sample])), together, strict=True):
                error, cosine = difference(rows_of(tap, one[0], sample), rows_of(tap, many[i], sample))
                worst, least = max(worst, error), min(least, cosine)
    return worst, least


def difference(a: Array, b: Array) -> tuple[float, float]:
    """Largest absolute difference and least row cosine of two (n, dim) arrays. Two zero rows agree; NaN never does. Rows of one
    number have no direction: the cosine is that of the angle which is their relative error, or absolute below 1."""
    if a.shape != b.shape or not (np.isfinite(a).all() and np.isfinite(b).all()):
        return float("inf"), -1.0
    if not a.size:
        return 0.0, 1.0
    a, b = a.astype(np.float64), b.astype(np.float64)
    if a.shape[1] == 1:
        angles = np.abs(a - b) / np.maximum(1, np.maximum(np.abs(a), np.abs(b)))
        return float(np.abs(a - b).max()), float(np.cos(angles).min())
    norms = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    cosines = np.where(norms > 0, (a * b).sum(1) / np.where(norms > 0, norms, 1), np.all(a == b, axis=1))
    return float(np.abs(a - b).max()), float(min(cosines.min(), 1.0))


def save_inputs(batches: Sequence[ParityBatch], path: Path) -> None:
    """Save the feeds of the batches of one sample (without padding), so that other providers can be measured without torch."""
    np.savez_compressed(path, **numbered([batch.feeds for batch in batches if len(batch.samples) == 1]))


def numbered(feeds: Sequence[Mapping[str, Array]]) -> dict[str, Any]:
    """The arrays of several batches in one map, as `saved_inputs` takes them apart."""
    return {f"{i}/{name}": array for i, named in enumerate(feeds) for name, array in named.items()}


def saved_inputs(path: Path) -> list[dict[str, Array]]:
    """Load the feeds of each batch, as a map of `numbered` arrays."""
    feeds: dict[str, dict[str, Array]] = {}
    with np.load(regular_files.checked(path), allow_pickle=False) as arrays:
        for key in arrays:
            batch, _, name = key.partition("/")
            feeds.setdefault(batch, {})[name] = arrays[key]
    return list(feeds.values())

"""Ready vectors -> slices of features that can be sent."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np

from topwork._codec import messages
from topwork._codec.items import describe
from topwork.errors import InvalidInput, NotReady
from topwork.features import Array, Features, Numerics
from topwork.v1 import types_pb2

SPANS = {name: types_pb2.SpanKind.Name(types_pb2.SpanKind.ValueType(number)) for number, name in messages.SPAN_KINDS.items()}
GRANULARITIES = {name.removeprefix("GRANULARITY_").lower(): name for name, _ in types_pb2.Granularity.items()}


@dataclass(frozen=True)
class VectorTarget:
    """Knowledge of the taps that vectors go to. `tap` is that of a bare array, "" for the set's only one; fingerprints are by
    tap, that of "" is any other's."""

    tap: str
    fingerprints: Mapping[str, str]
    granularities: Mapping[str, str]
    of_encoder: bool


@dataclass(frozen=True)
class ReadyVectors:
    """Features of one tap that were made elsewhere: items are counted, rows are cast as they are sent."""

    tap: str
    fingerprint: str
    granularity: str
    rows: Array
    counts: Array | None  # None: one row an item
    spans: Array | None = None
    span_kind: str | None = None
    parts: Array | None = None
    numerics: Numerics | None = None

    def __len__(self) -> int:
        return len(self.rows) if self.counts is None else len(self.counts)

    @property
    def item_bytes(self) -> float:
        """Average bytes of an item."""
        return float(self.rows.shape[0] * self.rows.shape[1] * 4 / max(len(self), 1))

    @cached_property
    def _starts(self) -> Array:
        assert self.counts is not None
        return np.concatenate([[0], np.cumsum(self.counts)])

    def cut(self, start: int, end: int) -> ReadyVectors:
        if self.counts is None:
            return replace(self, rows=self.rows[start:end])
        first, last = int(self._starts[start]), int(self._starts[end])
        return replace(
            self,
            rows=self.rows[first:last],
            counts=self.counts[start:end],
            spans=None if self.spans is None else self.spans[first:last],
            parts=None if self.parts is None else self.parts[first:last],
        )

    def message(self) -> types_pb2.TapFeatures:
        counts = [1] * len(self.rows) if self.counts is None else self.counts.tolist()
        return types_pb2.TapFeatures(
            tap=self.tap,
            fingerprint=self.fingerprint,
            granularity=GRANULARITIES.get(self.granularity),
            rows=messages.tensor(sendable(self.rows)),
            counts=counts,
            spans=self._spans(),
        )

    def _spans(self) -> types_pb2.Spans | None:
        if self.spans is None:
            return None
        parts = None if self.parts is None else messages.tensor(np.asarray(self.parts, np.int32))
        values = messages.tensor(np.asarray(self.spans, np.float32))
        return types_pb2.Spans(kind=SPANS.get(self.span_kind or ""), values=values, parts=parts)


def pieces(vectors: Any, target: VectorTarget) -> Iterator[tuple[ReadyVectors, ...]]:
    """The taps of consecutive items, as many items in each: of one array, Features or dict of them, or of an iterable of such."""
    position = 0
    for piece in _listed(vectors):
        taps = _taps(piece, target, position)
        sizes = {tap.tap: len(tap) for tap in taps}
        if len(set(sizes.values())) > 1:
            counts = ", ".join(f"{name} {size}" for name, size in sizes.items())
            raise InvalidInput(f"taps of different numbers of items: {counts}", remedy="pass features of the same items")
        position += len(taps[0])
        yield taps


def total(vectors: Any) -> int | None:
    """Number of items, None where it is not known beforehand."""
    if isinstance(vectors, Mapping):
        return total(next(iter(vectors.values()), None))
    if isinstance(vectors, Features):
        return len(vectors.counts)
    if _is_sequence_of_pieces(vectors):
        return None
    if isinstance(vectors, list | tuple):
        return len(vectors)
    return len(vectors) if hasattr(vectors, "__array__") and np.ndim(vectors) else None


def matrix(values: Any) -> Array:
    """Convert to rows of numbers, (n, dim) or (dim,), of the dtype they have. Raises InvalidInput."""
    if hasattr(values, "detach"):  # a torch tensor: numpy refuses one that needs gradients or lies on a device
        values = values.detach().cpu()
    try:
        found: Array = np.asarray(values)
    except (ValueError, TypeError) as error:
        raise InvalidInput(f"vectors come as {describe(values)}: {error}", remedy="pass an array (n, dim)") from None
    if found.dtype.kind not in "fiu":
        raise InvalidInput(f"vectors of {found.dtype.name}", remedy="pass an array (n, dim) of float32 or float16")
    return found


def sendable(rows: Array) -> Array:
    """float16 as it is, all else as float32; what does not fit becomes infinite, which the server refuses by its item."""
    with np.errstate(over="ignore"):
        return rows if rows.dtype == np.float16 else np.asarray(rows, np.float32)


def _is_sequence_of_pieces(vectors: Any) -> bool:
    return isinstance(vectors, list | tuple) and bool(vectors) and isinstance(vectors[0], Features | Mapping)


def _listed(vectors: Any) -> Iterable[Any]:
    if isinstance(vectors, Features | Mapping) or hasattr(vectors, "__array__"):
        return [vectors]
    if isinstance(vectors, list | tuple) and not _is_sequence_of_pieces(vectors):
        return [vectors]
    if not isinstance(vectors, Iterable) or isinstance(vectors, str | bytes):
        raise InvalidInput(f"vectors come as {describe(vectors)}", remedy="pass an array (n, dim), or Features")
    return vectors


def _taps(piece: Any, target: VectorTarget, position: int) -> tuple[ReadyVectors, ...]:
    if not isinstance(piece, Mapping):
        return (_ready(piece, piece.tap if isinstance(piece, Features) else target.tap, target, position),)
    if not piece:
        raise InvalidInput("vectors of no tap", remedy="pass an array (n, dim) for each tap")
    return tuple(_ready(values, tap, target, position) for tap, values in piece.items())


def _ready(values: Any, tap: str, target: VectorTarget, position: int) -> ReadyVectors:
    wanted = target.fingerprints.get(tap, target.fingerprints.get("", ""))
    if isinstance(values, Features):
        return _of_features(values, tap, wanted, position)
    rows = matrix(values)
    if rows.ndim != 2:
        raise InvalidInput(f"vectors of shape {list(rows.shape)}", remedy="pass an array (n, dim): a row an item")
    granularity = target.granularities.get(tap, "item")
    if granularity != "item":
        raise InvalidInput(
            f"a row of {tap!r} is a {granularity}, not an item", remedy="pass Features, which say whose each row is"
        )
    if target.of_encoder and not wanted:
        raise InvalidInput(
            "bare vectors do not say which encoder made them", remedy="pass fingerprint=, or Features, which carry it"
        )
    return ReadyVectors(tap, wanted, granularity, rows, None)


def _of_features(features: Features, tap: str, wanted: str, position: int) -> ReadyVectors:
    if features.dtype not in ("float32", "float16"):
        raise InvalidInput(f"features of {features.dtype}", remedy="embed them as float32 or float16")
    if wanted and wanted != features.fingerprint:
        raise NotReady(f"the features have fingerprint {features.fingerprint}, not {wanted}", remedy="embed the items again")
    for item, error in sorted(features.failures.items()):
        raise InvalidInput(f"it has no features: {error.message}", remedy="leave failed items out", item=position + item)
    return ReadyVectors(
        tap=tap,
        fingerprint=features.fingerprint,
        granularity=features.granularity,
        rows=features.rows,
        counts=features.counts,
        spans=features.spans,
        span_kind=features.span_kind,
        parts=features.parts,
        numerics=features.numerics,
    )

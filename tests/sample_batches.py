"""Small blocks of made-up features, for tests of feature sets."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from topwork_server.feature_sets.feature_set import FeatureSet
from topwork_server.feature_sets.schema import SPAN_KINDS
from topwork_server.feature_sets.set_types import Change, Column, ColumnType, ItemBatch, Selection, SetDefinition
from topwork_server.features import Spans, TapRows
from topwork_server.types import FingerprintedTap, Granularity, Tap

DIM = 4
POOLED = FingerprintedTap(Tap("pooled", DIM, Granularity.ITEM), "a" * 64)
TOKENS = FingerprintedTap(Tap("hidden.6", DIM, Granularity.TOKEN), "b" * 64)
WINDOWS = FingerprintedTap(Tap("windows", DIM, Granularity.WINDOW), "c" * 64)
CELLS = FingerprintedTap(Tap("cells", DIM, Granularity.CELL, (2, 2)), "d" * 64)

TYPES = {bool: ColumnType.BOOL, int: ColumnType.INT, float: ColumnType.FLOAT, str: ColumnType.STRING, list: ColumnType.STRINGS}


def wanted(name: str = "birds", *taps: FingerprintedTap, **more: Any) -> SetDefinition:
    return SetDefinition(name, taps or (POOLED,), **more)


def rows(info: FingerprintedTap, counts: Sequence[int], seed: int = 0, spans: bool = True) -> TapRows:
    """Random rows, as many of each item as `counts` says, with spans where the tap has them."""
    rng, total = np.random.default_rng(seed), sum(counts)
    kind, width = SPAN_KINDS.get(info.tap.granularity, ("", 0))
    parts = rng.integers(0, 2, total).astype(np.int32) if kind == "chars" else None
    covered = Spans(kind, rng.random((total, width), np.float32), parts) if kind and spans else None
    return TapRows(info, rng.standard_normal((total, info.tap.dim), np.float32), np.array(counts, np.int64), covered)


def block(ids: Sequence[str], seed: int = 0, contents: Sequence[str] = (), **metadata: Sequence[Any]) -> ItemBatch:
    """One row of POOLED an item; types of metadata by their first value."""
    columns = tuple(
        Column(name, TYPES[type(next(v for v in values if v is not None))], values) for name, values in metadata.items()
    )
    return ItemBatch(ids, (rows(POOLED, [1] * len(ids), seed),), columns, contents)


def names(start: int, stop: int) -> list[str]:
    return [f"item-{number:05d}" for number in range(start, stop)]


def hold(feature_set: FeatureSet) -> Callable[[], None]:
    """Keep the commit thread busy until the returned function is called: what is queued meanwhile shares a commit. Leaves an
    item `held`."""
    go, held = threading.Event(), threading.Event()

    def listener(_: Change) -> None:
        held.set()
        go.wait()

    feature_set.add_listener(listener)
    feature_set.write(block(["held"]))
    assert held.wait(30)
    feature_set.remove_listener(listener)
    return go.set


def everything(feature_set: FeatureSet, **selection: Any) -> dict[str, dict[str, Any]]:
    """What a reader sees: by id, its rows of the first tap ("rows") and its metadata."""
    found: dict[str, dict[str, Any]] = {}
    for part in feature_set.read(Selection(**selection)).batches:
        ends = np.cumsum(part.taps[0].counts) if part.taps else np.zeros(len(part.ids), int)
        starts = ends - part.taps[0].counts if part.taps else ends
        for position, id in enumerate(part.ids):
            assert id not in found, "an id is read once"
            taken = part.taps[0].rows[starts[position] : ends[position]] if part.taps else None
            found[id] = {"rows": taken, **{column.name: column.values[position] for column in part.metadata}}
    return found

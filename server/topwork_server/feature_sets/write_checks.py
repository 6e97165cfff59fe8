"""Checks a batch against its set. Every refusal names what was wrong and leaves the set unchanged."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from topwork_server.errors import InvalidInput, NotReady
from topwork_server.feature_sets.schema import SPAN_KINDS
from topwork_server.feature_sets.set_names import check_column_name
from topwork_server.feature_sets.set_types import ColumnType, ItemBatch, SetDefinition
from topwork_server.features import TapRows
from topwork_server.types import LEAST_PARITY, Array, FingerprintedTap, Granularity, Numerics

MOST_ITEMS = 1 << 22


def check_numerics(numerics: Numerics | None) -> None:
    """Rows of one fingerprint mix when what computed them is near enough to the network that the fingerprint is of."""
    if numerics is not None and not numerics.mixes:
        raise NotReady(
            f"these rows come from {numerics.provider} in {numerics.precision}, whose parity to fp32 is {numerics.parity:.6g}",
            remedy=f"rows mix at {LEAST_PARITY} and above: compute them with another provider or precision",
        )


def check_taps(definition: SetDefinition, batch: ItemBatch) -> tuple[TapRows, ...]:
    """Check the batch's taps (dims, fingerprints, counts, spans, numbers); return them in the set's order, rows (n, dim)."""
    given = {rows.tap.tap.name: rows for rows in batch.taps}
    names = [info.tap.name for info in definition.taps]
    if len(given) != len(batch.taps) or set(given) != set(names):
        raise InvalidInput(
            f"rows of the taps {', '.join(sorted(given)) or 'none'}",
            remedy=f"the set {definition.name!r} takes {', '.join(names)}",
        )
    return tuple(_check_tap(info, given[info.tap.name], batch.ids, definition) for info in definition.taps)


def _check_tap(info: FingerprintedTap, given: TapRows, ids: Sequence[str], definition: SetDefinition) -> TapRows:
    name = info.tap.name
    fingerprint = given.tap.fingerprint
    if fingerprint and fingerprint != info.fingerprint:
        raise NotReady(
            f"rows of tap {name!r} have the fingerprint {fingerprint}, and {definition.name!r} has {info.fingerprint or 'none'}",
            remedy="write them to a set of their own encoder",
        )
    rows, counts = np.asarray(given.rows), np.asarray(given.counts)
    if rows.ndim != 2 or rows.shape[1] != info.tap.dim or rows.dtype.kind != "f":
        raise InvalidInput(
            f"rows of tap {name!r} are {rows.dtype} of shape {rows.shape}", remedy=f"send floats of shape (n, {info.tap.dim})"
        )
    _check_counts(info, counts, len(ids), len(rows))
    _check_finite(name, rows, counts, ids, definition.dtype)
    _check_spans(info, given, len(rows))
    return replace(given, tap=info, rows=rows, counts=counts.astype(np.int64))


def _check_counts(info: FingerprintedTap, counts: Array, items: int, rows: int) -> None:
    name = info.tap.name
    if counts.shape != (items,) or counts.dtype.kind not in "iu" or (counts < 0).any() or int(counts.sum()) != rows:
        raise InvalidInput(f"tap {name!r}: {rows} rows and counts {counts.shape} for {items} items", remedy="one count an item")
    if info.tap.granularity is Granularity.ITEM and not (counts == 1).all():
        position = int((counts != 1).argmax())
        raise InvalidInput(f"{counts[position]} rows of tap {name!r}, which has one an item", item=position)


def _check_finite(name: str, rows: Array, counts: Array, ids: Sequence[str], dtype: str) -> None:
    # The sum is finite only where all are, and takes one pass without a mask; what overflows is looked at again.
    if np.isfinite(np.add.reduce(rows, axis=None, dtype=np.float64)) and dtype == "float32" and rows.dtype.itemsize <= 4:
        return
    most = np.finfo(np.float16 if dtype == "float16" else np.float32).max
    bad = ~(np.abs(rows) <= most)
    if bad.any():
        row, column = (int(index[0]) for index in bad.nonzero())
        item = int(np.searchsorted(np.cumsum(counts), row, side="right"))
        raise InvalidInput(
            f"id {ids[item]!r}, tap {name!r}: number {column} of its row is {rows[row, column]}",
            remedy=f"send finite numbers within {dtype} (at most {most:.6g})",
            item=item,
        )


def _check_spans(info: FingerprintedTap, given: TapRows, rows: int) -> None:
    if given.spans is None:
        return
    kind, width = SPAN_KINDS.get(info.tap.granularity, ("none", 0))
    if given.spans.kind != kind or np.shape(given.spans.values) != (rows, width):
        raise InvalidInput(
            f"tap {info.tap.name!r}: spans {given.spans.kind!r} of shape {np.shape(given.spans.values)} for {rows} rows",
            remedy=f"a tap of {info.tap.granularity.value} rows takes spans {kind!r} of shape ({rows}, {width})",
        )
    if given.spans.parts is not None and np.shape(given.spans.parts) != (rows,):
        raise InvalidInput(f"tap {info.tap.name!r}: parts of shape {np.shape(given.spans.parts)} for {rows} rows")


def check_batch(batch: ItemBatch, keep_inputs: bool) -> None:
    """Lengths and names, before anything is converted."""
    items = len(batch.ids)
    if items > MOST_ITEMS:
        raise InvalidInput(f"{items} items in one batch", remedy=f"send at most {MOST_ITEMS}")
    lists = {"contents": len(batch.content_hashes), "inputs": len(batch.inputs) if keep_inputs else 0}
    for what, length in lists.items():
        if length not in (0, items):
            raise InvalidInput(f"{length} {what} for {items} items", remedy="one an item, or none at all")
    seen: dict[str, str] = {}
    for column in batch.metadata:
        check_column_name(column.name)
        if len(column.values) != items:
            raise InvalidInput(f"metadata column {column.name!r}: {len(column.values)} values for {items} items")
        if column.name.lower() in seen:
            raise InvalidInput(
                f"metadata columns {seen[column.name.lower()]!r} and {column.name!r}", remedy="give each a name of its own"
            )
        seen[column.name.lower()] = column.name


def check_column_type(name: str, stored: ColumnType, given: ColumnType, empty: bool) -> None:
    """Check that values of type `given` may go into a column of type `stored`: numbers mix, and empty columns fit anything."""
    numbers = (ColumnType.INT, ColumnType.FLOAT)
    if given is not stored and not empty and not (given in numbers and stored in numbers):
        raise InvalidInput(
            f"metadata column {name!r} holds {stored.value}, and values of {given.value} were sent",
            remedy=f"send {stored.value}, use another name, or cast the column",
        )


def check_spelling(name: str, stored: Mapping[str, ColumnType]) -> None:
    """SQL does not tell Year from year, so a set has only one of them."""
    for other in stored:
        if other != name and other.lower() == name.lower():
            raise InvalidInput(f"metadata column {name!r}: the set has {other!r}", remedy=f"write it as {other!r}")

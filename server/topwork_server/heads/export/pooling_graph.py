"""The pooling of `pooling.py` as ONNX nodes, from the output of a tap for a batch to what a head reads, (n, dim_after)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from topwork_server.heads.head_types import Head, Pooling
from topwork_server.heads.pooling import TOWERS, cells_below, dim_after
from topwork_server.models.onnx_graph import NodeWriter
from topwork_server.types import Array, Granularity

ROW_MASK, TEXT_MASK, PAIR_MASK = "row_mask", "text_mask", "pair_mask"
#: Prefix of the inputs for the second text of a pair, where each text is read separately.
SECOND_INPUT = "second_"
_LEAST = float(np.finfo(np.float32).min)
_SMALL = 1e-30


def masks_of(head: Head) -> tuple[str, ...]:
    """Name the inputs (batch, tokens) int64 that the pooling needs beside the trunk's: 1 for tokens that are rows."""
    if head.parts:
        return tuple(dict.fromkeys(mask for part in heads_of_parts(head) for mask in masks_of(part)))
    if head.tap.tap.granularity is not Granularity.TOKEN or head.pooling in (Pooling.ROW, Pooling.ROWS):
        return ()
    return (TEXT_MASK, PAIR_MASK) if head.pooling in (Pooling.PAIR, *TOWERS) else (ROW_MASK,)


def heads_of_parts(head: Head) -> list[Head]:
    """The head as it would read each of its taps alone."""
    return [replace(head, tap=info, pooling=how, dim=dim_after(how, info.tap.dim), parts=()) for info, how in head.parts]


def pool_side_by_side(nodes: NodeWriter, head: Head, taps: Sequence[str]) -> str:
    """Write the nodes of all poolings of a head on several taps, and put the rows side by side; cells are repeated on the finest
    grid."""
    parts, finest, rows = heads_of_parts(head), head.tap.tap.grid, []
    for part, tap in zip(parts, taps, strict=True):
        grid = part.tap.tap.grid
        if finest and grid and grid != finest:
            tap = nodes.add("Gather", tap, nodes.constant(cells_below(grid, finest)), axis=1)
        rows.append(pool(nodes, part, tap))
    return nodes.add("Concat", *rows, axis=-1)


def pool(nodes: NodeWriter, head: Head, tap: str, other: str = "") -> str:
    """Write the nodes of a pooling and return the name of the pooled rows.

    `tap`: (batch, dim) for ITEM, (batch, rows, dim) for TOKEN and CELL, (windows, dim) for WINDOW, the windows of one video.
    `other`: for two towers the tap of the second text.
    """
    granularity = head.tap.tap.granularity
    if head.pooling in TOWERS:
        masks = [_mask_as_bool(nodes, mask) for mask in masks_of(head)]
        u, v = (_mean(nodes, one, mask) for one, mask in zip((tap, other), masks, strict=True)) if masks else (tap, other)
        return _towers(nodes, head.pooling, u, v)
    if head.pooling is Pooling.ROW:
        return tap
    if head.pooling is Pooling.ROWS:
        return nodes.add("Reshape", tap, _ints(nodes, -1, head.dim))
    if granularity is Granularity.WINDOW:
        tap = nodes.add("Unsqueeze", tap, _ints(nodes, 0))
    there = [_mask_as_bool(nodes, mask) for mask in masks_of(head)]
    if head.pooling is Pooling.PAIR:
        return _pair(nodes, *(_mean(nodes, tap, one) for one in there))
    mask = there[0] if there else ""
    if head.pooling is Pooling.MAX:
        return nodes.add("ReduceMax", _masked(nodes, tap, mask, _LEAST), _ints(nodes, 1), keepdims=0)
    mean = _mean(nodes, tap, mask)
    return mean if head.pooling is Pooling.MEAN else nodes.add("Concat", mean, _spread(nodes, tap, mean, mask), axis=-1)


def unpool(nodes: NodeWriter, head: Head, tap: str, scores: str, output: str) -> str:
    """Reshape the outputs for rows back to one for each position of the tap."""
    if head.pooling is not Pooling.ROWS:
        return nodes.add("Identity", scores, output=output)
    places = nodes.add("Shape", tap, start=0, end=2)
    return nodes.add("Reshape", scores, nodes.add("Concat", places, _ints(nodes, -1), axis=0), output=output)


def _mask_as_bool(nodes: NodeWriter, mask: str) -> str:
    """Turn a mask into (batch, tokens, 1) bool."""
    return nodes.add("Greater", nodes.add("Unsqueeze", mask, _ints(nodes, 2)), nodes.constant(np.array(0, np.int64)))


def _masked(nodes: NodeWriter, rows: str, there: str, instead: float) -> str:
    """Replace the values at masked positions, NaN too, so that they have no effect."""
    return nodes.add("Where", there, rows, nodes.constant(np.array(instead, np.float32))) if there else rows


def _mean(nodes: NodeWriter, rows: str, there: str) -> str:
    if not there:
        return nodes.add("ReduceMean", rows, _ints(nodes, 1), keepdims=0)
    total = nodes.add("ReduceSum", _masked(nodes, rows, there, 0.0), _ints(nodes, 1), keepdims=0)
    count = nodes.add("ReduceSum", nodes.add("Cast", there, to=1), _ints(nodes, 1), keepdims=0)
    return nodes.add("Div", total, count)


def _spread(nodes: NodeWriter, rows: str, mean: str, there: str) -> str:
    """Compute the population's standard deviation."""
    off = nodes.add("Sub", rows, nodes.add("Unsqueeze", mean, _ints(nodes, 1)))
    return nodes.add("Sqrt", _mean(nodes, nodes.add("Mul", off, off), there))


def _pair(nodes: NodeWriter, u: str, v: str) -> str:
    apart = nodes.add("Abs", nodes.add("Sub", u, v))
    return nodes.add("Concat", u, v, apart, nodes.add("Mul", u, v), axis=-1)


def _towers(nodes: NodeWriter, pooling: Pooling, u: str, v: str) -> str:
    lengths = [nodes.add("ReduceL2", one, _ints(nodes, 1), keepdims=1) for one in (u, v)]
    least = nodes.constant(np.array(_SMALL, np.float32))
    directions = [nodes.add("Div", one, nodes.add("Max", length, least)) for one, length in zip((u, v), lengths, strict=True)]
    cosine = nodes.add("ReduceSum", nodes.add("Mul", *directions), _ints(nodes, 1), keepdims=1)
    return cosine if pooling is Pooling.COSINE else nodes.add("Concat", _pair(nodes, u, v), cosine, axis=-1)


def _ints(nodes: NodeWriter, *values: int) -> str:
    array: Array = np.array(values, np.int64)
    return nodes.constant(array)

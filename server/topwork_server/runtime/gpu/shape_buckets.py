"""Shape buckets: a batch is padded to the next of a few shapes, and the padding is removed from its outputs.

A GPU pays for a new shape (kernels are chosen, buffers allocated, a CUDA graph captured) more than for a little padding. Rows of
padding repeat the first row; along the axis of tokens padding is 0, which only graphs with a mask have: an axis may be padded
where an input whose name says mask has it too, and a row does not depend on masked places (the contract of every encoder that
pads; parity and invariance are measured through this padding too).
"""

from __future__ import annotations

import sys
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from topwork_server.types import Array

Shape = tuple[int, ...]
#: Axes of a graph's input or output: a name for a dynamic one.
Axes = tuple[str | int, ...]

ROWS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64)
#: Above the last, multiples of so many; and the most of one run: larger batches run in parts.
ROWS_STEP, MOST_ROWS = 32, 512
#: Tokens up to 64 by 8 (what tensor cores divide by), then by 32 and 64.
TOKENS = (8, 16, 24, 32, 40, 48, 56, 64, 96, 128, 160, 192, 224, 256)
TOKENS_STEP = 64


def round_up(steps: Sequence[int], step: int, count: int) -> int:
    """The least of `steps`, or above them the least multiple of `step`, that holds `count`."""
    if count <= steps[-1]:
        return steps[bisect_left(steps, count)]
    return -(-count // step) * step


@dataclass(frozen=True)
class ShapeBuckets:
    """Shapes of one graph. `inputs` and `outputs` are its axes by name; `tokens` is the name of the axis that may be padded, to
    `longest` at most: a table of positions ends somewhere, and not at a bucket's end."""

    inputs: Mapping[str, Axes]
    outputs: Mapping[str, Axes]
    tokens: str | None
    longest: int = sys.maxsize

    @classmethod
    def of_axes(cls, inputs: Mapping[str, Axes], outputs: Mapping[str, Axes]) -> ShapeBuckets:
        masks = [axes for name, axes in inputs.items() if "mask" in name.lower() and len(axes) > 1]
        tokens = masks[0][1] if masks and isinstance(masks[0][1], str) else None
        return cls(inputs, outputs, tokens)

    def padded(self, shapes: Mapping[str, Shape]) -> dict[str, Shape]:
        """Shape of each input's bucket."""
        return {name: self._shape(self.inputs[name], shape) for name, shape in shapes.items()}

    def _shape(self, axes: Axes, shape: Shape) -> Shape:
        return tuple(self._size(i, axis, size) for i, (axis, size) in enumerate(zip(axes, shape, strict=True)))

    def _size(self, place: int, axis: str | int, size: int) -> int:
        if isinstance(axis, int):
            return size
        if place == 0:
            return round_up(ROWS, ROWS_STEP, size)
        padded = round_up(TOKENS, TOKENS_STEP, size) if axis == self.tokens else size
        return padded if padded <= self.longest else size

    def remove_padding(self, name: str, output: Array, rows: int, tokens: int | None) -> Array:
        """Remove the padding from an output. Its second axis is that of the tokens where it is one of three and has a name (the
        shape of a TOKEN tap, see `Tap`; the cells of a picture are a number)."""
        axes = self.outputs[name]
        if tokens is not None and len(axes) == 3 and isinstance(axes[1], str):
            return output[:rows, :tokens]
        return output[:rows]

    def token_count(self, shapes: Mapping[str, Shape]) -> int | None:
        """Tokens of a batch of these shapes; None where only rows are padded."""
        for name, shape in shapes.items():
            if self.tokens is not None and self.tokens in self.inputs[name]:
                return shape[self.inputs[name].index(self.tokens)]
        return None


def pad_into(target: Array, source: Array) -> None:
    """Copy a batch into the buffer of its bucket."""
    rows = len(source)
    inner = tuple(slice(0, size) for size in source.shape[1:])
    if target.shape[1:] != source.shape[1:]:
        target[:rows] = 0
    target[(slice(0, rows), *inner)] = source
    target[rows:] = target[:1]


def split_rows(feeds: Mapping[str, Array], most: int = MOST_ROWS) -> list[dict[str, Array]]:
    """Split a batch into parts of at most so many rows."""
    rows = len(next(iter(feeds.values())))
    return [{name: array[i : i + most] for name, array in feeds.items()} for i in range(0, rows, most)]


def concat_outputs(pieces: Sequence[Sequence[Array]]) -> list[Array]:
    """Concatenate the outputs of a batch's parts; TOKEN outputs have one length, since the batch had."""
    return list(pieces[0]) if len(pieces) == 1 else [np.concatenate(arrays) for arrays in zip(*pieces, strict=True)]

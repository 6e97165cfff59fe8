"""Output format of rows: truncated, of unit length, in fewer bits. Arrays in, arrays out; numpy only."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

import numpy as np

from topwork_server.errors import InvalidInput, TopworkError
from topwork_server.types import Array


class RowType(StrEnum):
    """Number type of the rows that are sent."""

    FLOAT32 = "float32"
    FLOAT16 = "float16"
    INT8 = "int8"
    BINARY = "binary"


@dataclass(frozen=True, slots=True)
class OutputFormat:
    """Requested format of rows. `dimensions` 0 keeps all."""

    dtype: RowType = RowType.FLOAT32
    normalize: bool = False
    dimensions: int = 0


@dataclass(frozen=True, slots=True)
class EncodedRows:
    """Rows ready to be sent: `values` (n, dim), or (n, ceil(dim / 8)) uint8 for BINARY; `scales` (n,) float32 for INT8."""

    dtype: RowType
    dim: int
    values: Array
    scales: Array | None = None


def format_rows(rows: Array, output: OutputFormat) -> EncodedRows:
    """Truncate, then normalize, then quantize (n, dim) float32 rows."""
    rows = truncate(rows, output.dimensions)
    if output.normalize:
        rows = normalize(rows)
    return pack(rows, output.dtype)


def truncate(rows: Array, dimensions: int) -> Array:
    """Keep the first so many columns. InvalidInput for more than there are, since the caller would read them wrongly."""
    dim = rows.shape[1]
    if not 0 <= dimensions <= dim:
        raise InvalidInput(f"{dimensions} dimensions of a tap that has {dim}", remedy=f"ask for 1 to {dim}, or leave it out")
    return rows[:, :dimensions] if dimensions else rows


def normalize(rows: Array) -> Array:
    """Rows of unit Euclidean length; a row of zeros stays zeros. Lengths are in float64: squares of 1e20 are not infinite."""
    lengths = np.sqrt(np.einsum("ij,ij->i", rows, rows, dtype=np.float64))[:, None]
    lengths[lengths == 0] = 1
    unit: Array = np.divide(rows, lengths, out=np.empty_like(rows), casting="same_kind")
    return unit


def pack(rows: Array, dtype: RowType) -> EncodedRows:
    """The rows in `dtype`. Raises InvalidInput where float16 cannot hold them."""
    dim = rows.shape[1]
    match dtype:
        case RowType.FLOAT16:
            return EncodedRows(dtype, dim, _to_float16(rows))
        case RowType.INT8:
            return EncodedRows(dtype, dim, *_to_int8(rows))
        case RowType.BINARY:
            return EncodedRows(dtype, dim, np.packbits(rows > 0, axis=1, bitorder="big"))
    return EncodedRows(dtype, dim, np.ascontiguousarray(rows, np.float32))


def _to_float16(rows: Array) -> Array:
    largest = _largest_magnitudes(rows).max(initial=0)
    if largest > np.finfo(np.float16).max:
        raise InvalidInput(
            f"a row reaches {largest:.4g}, and float16 ends at 65504", remedy="ask for float32, or for normalized rows"
        )
    return rows.astype(np.float16)


def _to_int8(rows: Array) -> tuple[Array, Array]:
    """Quantize symmetrically, one scale a row: value = byte * scale, and the largest number of a row is +-127."""
    scales = (_largest_magnitudes(rows) / 127).astype(np.float32)
    steps = np.where(scales == 0, np.float32(1), scales)[:, None]
    # The clip is for subnormal rows, whose scale is rounded so far that the quotient passes 127.
    return np.clip(np.rint(rows / steps), -127, 127).astype(np.int8), scales


def _largest_magnitudes(rows: Array) -> Array:
    """The largest magnitude of each row (n,)."""
    peaks: Array = np.abs(rows).max(axis=1, initial=0)
    if not np.isfinite(peaks).all():
        row = int(np.flatnonzero(~np.isfinite(peaks))[0])
        raise TopworkError(
            f"row {row} has numbers that are not finite", remedy="ask for float32 to see them, and report the encoder"
        )
    return peaks

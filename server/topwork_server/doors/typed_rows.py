"""Rows in the types that Cohere and Jina name.

Integers of a row are scaled by its largest number, so that rows compare by cosine; bits say which numbers are 0 or more.
"""

from __future__ import annotations

import base64
from typing import Any, Literal

import numpy as np

from topwork_server.inference.output_format import RowType, pack
from topwork_server.types import Array

EmbeddingType = Literal["float", "int8", "uint8", "binary", "ubinary", "base64"]


def typed(rows: Array, kind: str) -> list[Any]:
    """Rows (n, dim) float32 in a type, a list, an array or a str each."""
    match kind:
        case "int8" | "uint8":
            integers = pack(rows, RowType.INT8).values
            return list(integers if kind == "int8" else (integers.astype(np.int16) + 128).astype(np.uint8))
        case "binary" | "ubinary":
            bits = np.packbits(rows >= 0, axis=1)
            return list(bits if kind == "ubinary" else (bits.astype(np.int16) - 128).astype(np.int8))
        case "base64":
            return base64_rows(rows)
    return list(rows)


def base64_rows(rows: Array) -> list[str]:
    """Encode the bytes of each row (n, dim), of any little-endian dtype."""
    return [base64.b64encode(row.tobytes()).decode("ascii") for row in rows]

"""Rows of a feature set as files: .npz and .parquet. A file appears whole or not at all."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import IO, Any

import numpy as np

from topwork import _saving, _tables
from topwork.errors import InvalidInput
from topwork.features import Array, Features
from topwork.rows import Rows

#: What stands where a value is missing, and the dtype of the array.
_ARRAYS: Mapping[str, tuple[Any, Any]] = {
    "bool": (False, np.bool_),
    "int": (0, np.int64),
    "float": (np.nan, np.float64),
    "string": ("", np.str_),
    "time": (np.datetime64("NaT"), "datetime64[us]"),
    "strings": ("null", np.str_),
}


def save(rows: Rows, path: str | os.PathLike[str]) -> None:
    """See `Rows.save`."""
    write = _saving.chosen(WRITERS, Path(path))
    with _saving.whole(Path(path)) as file:
        write(rows, file)


def about(rows: Rows) -> dict[str, Any]:
    """What the arrays are, as JSON can say it."""
    return {
        "version": rows.version,
        "total": rows.total,
        "columns": dict(rows.column_types),
        "taps": {tap: _tap(features) for tap, features in rows.features.items()},
    }


def _tap(features: Features) -> dict[str, Any]:
    return {
        "column": _tables.column("features", features.tap),
        "encoder": features.encoder,
        "fingerprint": features.fingerprint,
        "granularity": features.granularity,
        "dtype": features.dtype,
        "dim": features.dim,
        "span_kind": features.span_kind,
        "numerics": asdict(features.numerics) if features.numerics else None,
    }


def _npz(rows: Rows, file: IO[bytes]) -> None:
    """ids; of each tap features_, counts_, spans_ and parts_; of each column metadata_, and missing_ where anything is."""
    arrays: dict[str, Array] = {"ids": np.array(rows.ids, np.str_)}
    for tap, features in rows.features.items():
        found = {"features": features.rows, "counts": features.counts, "spans": features.spans, "parts": features.parts}
        arrays |= {_tables.column(kind, tap): values for kind, values in found.items() if values is not None}
    for name, values in rows.metadata.items():
        arrays[f"metadata_{name}"] = _array(values, rows.column_types.get(name, "string"))
        if None in values:
            arrays[f"missing_{name}"] = np.array([value is None for value in values])
    if rows.inputs is not None:
        arrays["inputs"] = _texts(rows.inputs)
    np.savez(file, allow_pickle=False, about=np.array(json.dumps(about(rows))), **arrays)


def _array(values: Sequence[Any], kind: str) -> Array:
    filler, dtype = _ARRAYS.get(kind, _ARRAYS["string"])
    return np.array([filler if value is None else _plain(value) for value in values], dtype)


def _plain(value: Any) -> Any:
    """As numpy can hold it: a time without its zone (it is UTC), a list of strings as JSON."""
    if isinstance(value, datetime):
        return value.replace(tzinfo=None)
    return json.dumps(value, ensure_ascii=False) if isinstance(value, list) else value


def _texts(inputs: Sequence[Any]) -> Array:
    if not all(value is None or isinstance(value, str) for value in inputs):
        raise InvalidInput(
            "raw inputs other than texts do not go into .npz", remedy="write .parquet, or read without inputs=True"
        )
    return np.array([value or "" for value in inputs], np.str_)


def _parquet(rows: Rows, file: IO[bytes]) -> None:
    _, parquet = _saving.pyarrow()
    parquet.write_table(_tables.arrow(rows).replace_schema_metadata({"topwork": json.dumps(about(rows))}), file)


WRITERS: Mapping[str, Callable[[Rows, IO[bytes]], None]] = {".npz": _npz, ".parquet": _parquet}

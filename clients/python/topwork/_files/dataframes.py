"""Rows of a feature set as tables and tensors of other libraries, which are imported only here."""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from topwork._files import save_features
from topwork.errors import InvalidInput, NotReady

if TYPE_CHECKING:
    from topwork.features import Array, Features
    from topwork.rows import RawInput, Rows


def column(kind: str, tap: str) -> str:
    """The name of a tap's column, as the Lance dataset of the set has it: "features_hidden_6" for "hidden.6"."""
    return f"{kind}_{re.sub(r'[^0-9A-Za-z]', '_', tap)}"


def is_single(features: Features) -> bool:
    """Tell whether each item has one row."""
    return features.granularity == "item" and bool((features.counts == 1).all())


def arrow(rows: Rows) -> Any:
    pa = _library("pyarrow", "to_arrow")
    columns: dict[str, Any] = {"id": pa.array(rows.ids, pa.string())}
    columns |= _of_taps(rows, partial(_nested, pa))
    if rows.inputs is not None:
        columns["input"] = _inputs(pa, rows.inputs)
    types = _arrow_types(pa)
    for name, values in rows.metadata.items():
        columns[name] = pa.array(values, types.get(rows.column_types.get(name, "")))
    return pa.table(columns)


def pandas(rows: Rows) -> Any:
    library = _library("pandas", "to_pandas")
    columns: dict[str, Any] = {"id": rows.ids, **_of_taps(rows, _cells)}
    if rows.inputs is not None:
        columns["input"] = rows.inputs
    return library.DataFrame({**columns, **rows.metadata})


def torch(rows: Rows) -> dict[str, Any]:
    library = _library("torch", "to_torch")
    tensors: dict[str, Any] = {"id": rows.ids}
    for tap, features in rows.features.items():
        tensors[column("features", tap)] = library.from_numpy(features.rows)
        if not is_single(features):
            tensors[column("counts", tap)] = library.from_numpy(features.counts)
    for name, values in rows.metadata.items():
        numbers = rows.column_types.get(name) in ("bool", "int", "float") and None not in values
        tensors[name] = library.tensor(values) if numbers else values
    return tensors


def _library(name: str, verb: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError:
        raise NotReady(f"{verb} needs {name}", remedy=f"pip install {name}") from None


def _of_taps(rows: Rows, convert: Callable[[Features, Array], Any]) -> dict[str, Any]:
    """The columns of each tap: its features, and spans and parts where it has any."""
    found: dict[str, Any] = {}
    for tap, features in rows.features.items():
        for kind, values in (("features", features.rows), ("spans", features.spans), ("parts", features.parts)):
            if values is not None:
                found[column(kind, tap)] = convert(features, values)
    return found


def _arrow_types(pa: Any) -> dict[str, Any]:
    return {
        "bool": pa.bool_(),
        "int": pa.int64(),
        "float": pa.float64(),
        "string": pa.string(),
        "time": pa.timestamp("us", "UTC"),
        "strings": pa.list_(pa.string()),
    }


def _nested(pa: Any, features: Features, values: Array) -> Any:
    """A value an item: a row of `values`, or the list of its rows."""
    flat = pa.array(values) if values.ndim == 1 else save_features.lists(pa, values)
    if is_single(features):
        return flat
    return pa.ListArray.from_arrays(np.concatenate([[0], np.cumsum(features.counts)]).astype(np.int32), flat)


def _cells(features: Features, values: Array) -> list[Array]:
    if is_single(features):
        return list(values)
    return np.split(values, np.cumsum(features.counts)[:-1]) if len(features.counts) else []


def _inputs(pa: Any, inputs: list[RawInput | None]) -> Any:
    """Texts as strings, pairs among them as structs, pictures, videos and recordings as their bytes."""
    kinds = {type(value) for value in inputs if value is not None}
    if kinds <= {str}:
        return pa.array(inputs, pa.string())
    if kinds <= {bytes}:
        return pa.array(inputs, pa.large_binary())
    if kinds <= {str, tuple}:
        fields = pa.struct([("text", pa.string()), ("pair", pa.string())])
        pairs = ((value, None) if isinstance(value, str) else value for value in inputs)
        return pa.array([pair and {"text": pair[0], "pair": pair[1]} for pair in pairs], fields)
    raise InvalidInput("raw inputs that are arrays do not go into a table", remedy="read without inputs=True, or use `inputs`")

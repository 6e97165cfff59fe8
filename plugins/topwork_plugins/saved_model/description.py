"""Describes a converted SavedModel as the ONNX family wants it: what it reads, and its taps."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from topwork_server import Array, InvalidInput, Modality

from topwork_plugins.onnx_file.description import Description
from topwork_plugins.saved_model.reading import Reading

#: Settings of `--set` that are of this family; the others are fields of docs/onnx.md's table of the modality.
OWN = ("signature", "lowercase")
#: The outputs that `pooled` is taken of, first those that are features rather than scores.
FEATURES = ("pooled", "pooled_output", "pooler_output", "feature_vector", "embeddings", "embedding", "default")
MOST_TOKENS = 512


def reads(reading: Reading, settings: Mapping[str, Any]) -> dict[str, Any]:
    """The table of what is read, with the settings of `--set`. InvalidInput where a setting is none, or one is missing."""
    fixed = _table(reading)
    table = fixed | {key: value for key, value in settings.items() if key not in OWN}
    if {"size"} & set(fixed) & set(settings):
        raise InvalidInput(f"--set size: the signature {reading.signature.name} says what it is", remedy="leave it out")
    if reading.modality is Modality.IMAGE and "size" not in table:
        raise InvalidInput(
            f"the signature {reading.signature.name} reads pictures of any size",
            remedy="say of which: --set size=224, for example",
        )
    Description.parse({"modality": reading.modality, reading.modality: table, "taps": {"pooled": {"output": "any"}}}, "--set")
    return table


def _table(reading: Reading) -> dict[str, Any]:
    if reading.modality is Modality.TEXT:
        inputs = {role: f"input_{i}" for i, role in enumerate(reading.inputs)}
        return {"max_tokens": reading.tokens or MOST_TOKENS, "inputs": inputs}
    if reading.modality is Modality.TENSOR:
        return {}
    (tensor,) = reading.signature.inputs.values()
    known = [axis for axis in (tensor.shape or ())[1:3] if axis is not None]
    white = 255 if tensor.dtype == "uint8" else 1
    return {"layout": "NHWC", "white": white} | ({"size": known} if len(known) == 2 else {})


def taps(reading: Reading, found: Mapping[str, Array], count: int, tokens: int) -> dict[str, Any]:
    """The taps of the outputs that were found for `count` items, of `tokens` tokens each: by the outputs' names, and `pooled`.

    InvalidInput where no output has a row, a cell or a token for each item.
    """
    made: dict[str, Any] = {}
    for i, name in enumerate(reading.outputs):
        array = found[f"output_{i}"]
        table = _tap(reading.modality, array.shape, tokens) if len(array) == count else None
        if table is not None:
            made[name] = {"output": f"output_{i}", "description": f"the output {name} of the SavedModel", **table}
    if not made:
        shapes = ", ".join(f"{name} {list(found[f'output_{i}'].shape)}" for i, name in enumerate(reading.outputs))
        raise InvalidInput(
            f"the outputs of the signature {reading.signature.name} have no row for each of {count} items: {shapes}",
            remedy="save a signature with a dynamic batch axis, whose outputs are (batch, features)",
        )
    return {"pooled": _pooled(made), **{name: table for name, table in made.items() if name != "pooled"}}


def _tap(modality: Modality, shape: Sequence[int], tokens: int) -> dict[str, Any] | None:
    """The table of an output of that shape; None where its rows are of nothing that a tap may have."""
    if len(shape) == 2:
        return {}
    if modality is Modality.TEXT:
        return {"granularity": "token"} if len(shape) == 3 and shape[1] == tokens else None
    if modality is Modality.TENSOR:
        return {"pool": "mean"} if len(shape) == 3 else None
    if len(shape) == 4:
        return {"granularity": "cell", "layout": "NHWC"}
    for skip in (0, 1):  # patches, and patches after a class token
        side = math.isqrt(shape[1] - skip)
        if side and side * side == shape[1] - skip:
            return {"granularity": "cell", "layout": "NLC", "skip": skip, "grid": [side, side]}
    return None


def _pooled(made: Mapping[str, dict[str, Any]]) -> dict[str, Any]:
    """The table of `pooled`: an output of one row an item, else the mean over the first of several."""
    rows = [name for name, table in made.items() if "granularity" not in table]
    if rows:
        return made[next((name for name in FEATURES if name in rows), rows[0])]
    first = next(iter(made.values()))
    skipped = {key: first[key] for key in ("layout", "skip") if first.get(key)}
    return {"output": first["output"], "pool": "mean", "description": f"mean of {first['description']}", **skipped}

"""Vectors that are ready, out of .npy and .npz, for `topwork write --vectors` and `topwork search --vector`."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from topwork.errors import InvalidInput, TopworkError
from topwork.features import Array, Features, Numerics


class VectorFile(NamedTuple):
    """Vectors of a file: one item a row of `rows` (n, dim); or `features`, which a .npz of `topwork embed -o` holds: they know
    their fingerprint and which item each row is of. `names` are what the items were, where the file says so."""

    rows: Array
    features: Features | None = None
    names: Sequence[str] | None = None

    def __len__(self) -> int:
        return len(self.rows) if self.features is None else len(self.features.counts)

    def labels(self, path: Path) -> Sequence[str]:
        """Name each item: rows:1, rows:2 where they have none."""
        return self.names or [f"{path.stem}:{number}" for number in range(1, len(self) + 1)]


def load(path: Path) -> VectorFile:
    """Load the rows of a file. Those of .npy stay on disk until they are sent. Raises InvalidInput."""
    try:
        found: Any = np.load(path, mmap_mode="r", allow_pickle=False)
    except OSError as error:
        raise InvalidInput(f"{path} cannot be read: {error.strerror or error}") from None
    except (ValueError, EOFError) as error:
        raise InvalidInput(f"{path} holds no vectors: {error}", remedy="give .npy, or .npz of `topwork embed -o`") from None
    if isinstance(found, np.ndarray):
        return VectorFile(_checked(found, path))
    with found:
        return _of_embed({name: found[name] for name in found.files}, path)


def single(path: Path) -> VectorFile:
    """Load as `load`, but each item must have one row: what can be searched for."""
    found = load(path)
    if found.features is not None and (found.features.counts != 1).any():
        raise InvalidInput(f"items of {path} have several rows, or none", remedy="search for the items themselves")
    return found


def _of_embed(arrays: Mapping[str, Array], path: Path) -> VectorFile:
    if not {"rows", "counts", "about"} <= set(arrays):
        raise InvalidInput(f"{path} was not written by `topwork embed -o`", remedy="give its array as .npy")
    about = json.loads(str(arrays["about"]))
    if about["dtype"] not in ("float32", "float16"):
        raise InvalidInput(f"{path} holds features of {about['dtype']}", remedy="embed them as float32 or float16")
    features = Features(
        rows=_checked(arrays["rows"], path),
        counts=arrays["counts"],
        spans=arrays.get("spans"),
        parts=arrays.get("parts"),
        numerics=Numerics(**about["numerics"]) if about["numerics"] else None,
        failures={int(item): TopworkError(message) for item, message in about["failures"].items()},
        **{name: about[name] for name in ("encoder", "tap", "fingerprint", "granularity", "dtype", "dim", "span_kind")},
    )
    return VectorFile(features.rows, features, arrays["inputs"].tolist() if "inputs" in arrays else None)


def _checked(rows: Array, path: Path) -> Array:
    rows = rows[None] if rows.ndim == 1 else rows
    if rows.ndim != 2 or not rows.size or rows.dtype.kind != "f":
        shape = "x".join(map(str, rows.shape))
        raise InvalidInput(f"{path} holds {shape} {rows.dtype}, no vectors", remedy="vectors are (n, dim) float32 or float16")
    return rows if rows.dtype in (np.float16, np.float32) else rows.astype(np.float32)

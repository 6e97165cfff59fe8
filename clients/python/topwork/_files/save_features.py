"""Features as files: .npy, .npz, .parquet. A file appears whole or not at all."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, TypeVar

import numpy as np

from topwork.errors import InvalidInput, NotReady

if TYPE_CHECKING:
    from topwork.features import Array, Features

Inputs = Sequence[str] | None
W = TypeVar("W")


def save(features: Features, path: str | os.PathLike[str], inputs: Sequence[str | os.PathLike[str]] | None) -> None:
    """See `Features.save`."""
    write = writer(Path(path))
    if inputs is not None and len(inputs) != len(features.counts):
        raise InvalidInput(f"{len(inputs)} names for {len(features.counts)} items", remedy="pass one name an item")
    names = None if inputs is None else [os.fspath(name) for name in inputs]
    with whole(Path(path)) as file:
        write(features, file, names)


@contextmanager
def whole(target: Path) -> Iterator[IO[bytes]]:
    """A file that takes the target's name once all of it is written."""
    part = target.with_name(f".{target.name}.{os.getpid()}.part")
    try:
        with part.open("wb") as file:
            yield file
        part.replace(target)
    finally:
        part.unlink(missing_ok=True)


def writer(path: Path) -> Callable[[Features, IO[bytes], Inputs], None]:
    """The writer of files of that name. Raises before any work is done: InvalidInput, or NotReady where pyarrow is missing."""
    return chosen(WRITERS, path)


def chosen(writers: Mapping[str, W], path: Path) -> W:
    """The writer for the path's suffix."""
    found = writers.get(path.suffix.lower())
    if found is None:
        raise InvalidInput(f"{path.name} is not a name for features", remedy=f"end it in {', '.join(writers)}")
    if path.suffix.lower() == ".parquet":
        pyarrow()
    if not path.absolute().parent.is_dir():
        raise InvalidInput(f"there is no folder {path.absolute().parent}", remedy="create it, or write elsewhere")
    return found


def made_by(features: Features) -> dict[str, Any]:
    """Describe in JSON values what made the rows."""
    names = ("encoder", "fingerprint", "granularity", "dtype", "dim", "span_kind")
    made: dict[str, Any] = {name: getattr(features, name) for name in names}
    return made | {"numerics": asdict(features.numerics) if features.numerics else None}


def about(features: Features) -> dict[str, Any]:
    """Describe in JSON values what made the rows, and the notes and failures of items."""
    return made_by(features) | {
        "tap": features.tap,
        "notes": {str(item): dict(counts) for item, counts in features.notes.items()},
        "failures": {str(item): str(error) for item, error in features.failures.items()},
    }


def _npy(features: Features, file: IO[bytes], inputs: Inputs) -> None:
    np.save(file, features.rows)


def _npz(features: Features, file: IO[bytes], inputs: Inputs) -> None:
    arrays = {"rows": features.rows, "items": features.items, "counts": features.counts, **_optional(features)}
    if inputs is not None:
        arrays["inputs"] = np.array(list(inputs), np.str_)
    np.savez(file, allow_pickle=False, about=np.array(json.dumps(about(features))), **arrays)


def _optional(features: Features) -> dict[str, Array]:
    arrays = {"spans": features.spans, "parts": features.parts, "scales": features.scales}
    return {name: array for name, array in arrays.items() if array is not None}


def _parquet(features: Features, file: IO[bytes], inputs: Inputs) -> None:
    """A line a row: item, [input], [span, part, scale], features as a list of fixed size; what made them in the schema."""
    pa, parquet = pyarrow()
    columns: dict[str, Any] = {"item": pa.array(features.items)}
    if inputs is not None:
        columns["input"] = pa.array(list(inputs), pa.string()).take(columns["item"])
    for name, array in _optional(features).items():
        columns[name.removesuffix("s")] = pa.array(array) if array.ndim == 1 else lists(pa, array)
    columns["features"] = lists(pa, features.rows)
    table = pa.table(columns).replace_schema_metadata({"topwork": json.dumps(about(features))})
    parquet.write_table(table, file)


def lists(pa: Any, rows: Array) -> Any:
    """A list of fixed size for each row."""
    return pa.FixedSizeListArray.from_arrays(pa.array(rows.reshape(-1)), rows.shape[1])


def pyarrow() -> tuple[Any, Any]:
    """pyarrow and pyarrow.parquet."""
    try:
        import pyarrow as pa
        import pyarrow.parquet as parquet
    except ImportError:
        raise NotReady("writing .parquet needs pyarrow", remedy="pip install 'topwork[parquet]', or write .npz") from None
    return pa, parquet


WRITERS = {".npy": _npy, ".npz": _npz, ".parquet": _parquet}

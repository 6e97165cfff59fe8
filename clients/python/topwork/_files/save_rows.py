"""Rows of a feature set as files, a piece at a time: .npz, .parquet, .npy, .jsonl, .csv. A file appears whole or not at all."""

from __future__ import annotations

import csv
import io
import json
import os
import tempfile
import zipfile
from array import array
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from datetime import datetime
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Protocol

import numpy as np

from topwork._files import dataframes, save_features
from topwork.errors import InvalidInput

if TYPE_CHECKING:
    from topwork.features import Array
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
#: Texts that are padded at a time.
BATCH = 4096


class RowsWriter(Protocol):
    """A file under way. Pieces follow each other in the order of the set; there is at least one."""

    def add(self, rows: Rows) -> None: ...

    def finish(self) -> None: ...


def save(rows: Rows, path: str | os.PathLike[str]) -> None:
    """See `Rows.save`."""
    with sink(Path(path)) as made:
        made.add(rows)
        made.finish()


@contextmanager
def sink(path: Path) -> Iterator[RowsWriter]:
    """The sink of that suffix, and in the end its file."""
    make = save_features.chosen(SINKS, path)
    with save_features.whole(path) as file, ExitStack() as stack:
        yield make(file, path, stack)


def about(rows: Rows) -> dict[str, Any]:
    """Describe the arrays in JSON values."""
    return {
        "version": rows.version,
        "total": rows.total,
        "columns": dict(rows.column_types),
        "taps": {
            tap: {"column": dataframes.column("features", tap), **save_features.made_by(features)}
            for tap, features in rows.features.items()
        },
    }


class NumericArrayFile:
    """An .npy file of numbers of one dtype that grows along the first axis; its length is known only in the end."""

    def __init__(self, file: IO[bytes], path: Path) -> None:
        self._file, self._path = file, path
        self._dtype: np.dtype[Any] | None = None
        self._shape: tuple[int, ...] = (0,)

    def add(self, values: Array) -> None:
        if self._dtype is None:
            self._dtype, self._shape = values.dtype, (0, *values.shape[1:])
            _write_header(self._file, self._dtype, self._shape)
        self._file.write(np.ascontiguousarray(values, self._dtype).reshape(-1).view(np.uint8).data)
        self._shape = (self._shape[0] + len(values), *self._shape[1:])

    def finish(self) -> Path:
        """Complete the file. numpy pads a header so that any length fits into its place."""
        self._file.seek(0)
        _write_header(self._file, self._dtype or np.dtype(np.float32), self._shape)
        self._file.flush()
        return self._path


class TextArrayFile:
    """An .npy file of texts, which numpy holds padded to the longest."""

    def __init__(self, file: IO[bytes], path: Path) -> None:
        self._file, self._path = file, path
        self._lengths = array("L")
        self._longest = 1

    def add(self, values: list[str]) -> None:
        for text in values:
            encoded = text.encode("utf-32-le")
            self._file.write(encoded)
            self._lengths.append(len(encoded))
            self._longest = max(self._longest, len(encoded) // 4)

    def finish(self) -> Path:
        self._file.seek(0)
        padded = self._path.with_suffix(".padded")
        dtype = np.dtype(f"<U{self._longest}")
        with padded.open("wb") as file:
            _write_header(file, dtype, (len(self._lengths),))
            for start in range(0, len(self._lengths), BATCH):
                texts = [self._file.read(size).ljust(dtype.itemsize, b"\0") for size in self._lengths[start : start + BATCH]]
                file.write(b"".join(texts))
        return padded


def _write_header(file: IO[bytes], dtype: np.dtype[Any], shape: tuple[int, ...]) -> None:
    about = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(file, about)


class NpzWriter:
    """ids; of each tap features_, counts_, spans_ and parts_; of each column metadata_, and missing_ where anything is."""

    def __init__(self, file: IO[bytes], path: Path, stack: ExitStack) -> None:
        self._file, self._stack = file, stack
        self._folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix=f".{path.name}.", dir=path.absolute().parent)))
        self._spools: dict[str, NumericArrayFile | TextArrayFile] = {}
        self._missing: set[str] = set()
        self._first: Rows | None = None

    def add(self, rows: Rows) -> None:
        self._first = self._first or rows
        self._take("ids", rows.ids)
        for tap, features in rows.features.items():
            found = {"features": features.rows, "counts": features.counts, "spans": features.spans, "parts": features.parts}
            for kind, of_tap in found.items():
                if of_tap is not None:
                    self._take(dataframes.column(kind, tap), of_tap)
        for name, values in rows.metadata.items():
            self._take(f"metadata_{name}", _array(values, rows.column_types.get(name, "string")))
            self._take(f"missing_{name}", np.array([value is None for value in values], np.bool_))
            self._missing |= {f"missing_{name}"} if None in values else set()
        if rows.inputs is not None:
            self._take("inputs", _texts(rows.inputs))

    def finish(self) -> None:
        assert self._first is not None
        with zipfile.ZipFile(self._file, "w", zipfile.ZIP_STORED, allowZip64=True) as archive:
            for name, spool in self._spools.items():
                if name in self._missing or not name.startswith("missing_"):
                    archive.write(spool.finish(), f"{name}.npy")
            described = io.BytesIO()
            np.save(described, np.array(json.dumps(about(self._first))))
            archive.writestr("about.npy", described.getvalue())

    def _take(self, name: str, values: Any) -> None:
        if name not in self._spools:
            path = self._folder / str(len(self._spools))
            file = self._stack.enter_context(path.open("w+b"))
            self._spools[name] = TextArrayFile(file, path) if isinstance(values, list) else NumericArrayFile(file, path)
        self._spools[name].add(values)


class NpyWriter:
    """The features of one tap, and nothing else."""

    def __init__(self, file: IO[bytes], path: Path, stack: ExitStack) -> None:
        self._spool = NumericArrayFile(file, path)

    def add(self, rows: Rows) -> None:
        if len(rows.features) != 1:
            raise InvalidInput(
                f"an .npy file holds the features of one tap, not {len(rows.features)}", remedy="name one, or .npz"
            )
        self._spool.add(next(iter(rows.features.values())).rows)

    def finish(self) -> None:
        self._spool.finish()


class ParquetWriter:
    """A writer of `Rows.to_arrow`, which puts what made the features into the schema."""

    def __init__(self, file: IO[bytes], path: Path, stack: ExitStack) -> None:
        self._file, self._stack = file, stack
        self._pa, self._parquet = save_features.pyarrow()
        self._writer: Any = None

    def add(self, rows: Rows) -> None:
        table = dataframes.arrow(rows)
        if self._writer is None:
            schema = table.schema.with_metadata({"topwork": json.dumps(about(rows))})
            self._writer = self._stack.enter_context(self._parquet.ParquetWriter(self._file, schema))
        try:
            self._writer.write_table(table.cast(self._writer.schema))
        except (self._pa.ArrowException, ValueError) as error:
            raise InvalidInput(f"items of different kinds do not go into one table: {error}", remedy="write .jsonl") from None

    def finish(self) -> None:
        self._writer.close()


class JsonLinesWriter:
    """An object an item: id, metadata, features by tap (a list where an item has one row, else a list of them), input."""

    def __init__(self, file: IO[bytes], path: Path, stack: ExitStack) -> None:
        self._text = _writing(file, stack)

    def add(self, rows: Rows) -> None:
        for record in _records(rows):
            self._text.write(json.dumps(record, ensure_ascii=False) + "\n")

    def finish(self) -> None:
        self._text.flush()


class CsvWriter:
    """A line an item: id, metadata (times in ISO 8601, lists as JSON), features_TAP as JSON."""

    def __init__(self, file: IO[bytes], path: Path, stack: ExitStack) -> None:
        self._writer = csv.writer(_writing(file, stack))
        self._begun = False

    def add(self, rows: Rows) -> None:
        if not self._begun:
            taps = [dataframes.column("features", tap) for tap in rows.features]
            self._writer.writerow(["id", *rows.metadata, *taps, *([] if rows.inputs is None else ["input"])])
            self._begun = True
        for record in _records(rows):
            cells = [*record["metadata"].values(), *record.get("features", {}).values()]
            cells += [record["input"]] if "input" in record else []
            self._writer.writerow([record["id"], *map(_cell, cells)])

    def finish(self) -> None:
        """Do nothing: closing the text flushes it."""


def _writing(file: IO[bytes], stack: ExitStack) -> IO[str]:
    """The file as UTF-8 text, which stays open for its owner."""
    text = io.TextIOWrapper(file, "utf-8", newline="")
    stack.callback(text.detach)
    return text


def _records(rows: Rows) -> Iterator[dict[str, Any]]:
    single = {tap: dataframes.is_single(features) for tap, features in rows.features.items()}
    inputs = None if rows.inputs is None else _texts(rows.inputs)
    for i, id in enumerate(rows.ids):
        record: dict[str, Any] = {"id": id, "metadata": {name: _json_value(values[i]) for name, values in rows.metadata.items()}}
        if rows.features:
            found = {tap: features.of(i).tolist() for tap, features in rows.features.items()}
            record["features"] = {tap: values[0] if single[tap] else values for tap, values in found.items()}
        yield record if inputs is None else {**record, "input": inputs[i]}


def _json_value(value: Any) -> Any:
    return value.isoformat() if isinstance(value, datetime) else value


def _cell(value: Any) -> Any:
    if isinstance(value, bool):
        return "true" if value else "false"
    return json.dumps(value, ensure_ascii=False) if isinstance(value, list) else value


def _array(values: Sequence[Any], kind: str) -> Array | list[str]:
    """Texts stay a list."""
    filler, dtype = _ARRAYS.get(kind, _ARRAYS["string"])
    plain = [filler if value is None else _plain(value) for value in values]
    return plain if dtype is np.str_ else np.array(plain, dtype)


def _plain(value: Any) -> Any:
    """Convert a value to one that numpy can hold: a time without its zone (it is UTC), a list of strings as JSON."""
    if isinstance(value, datetime):
        return value.replace(tzinfo=None)
    return json.dumps(value, ensure_ascii=False) if isinstance(value, list) else value


def _texts(inputs: Sequence[Any]) -> list[str]:
    if not all(value is None or isinstance(value, str) for value in inputs):
        raise InvalidInput(
            "raw inputs other than texts go into .parquet alone", remedy="write .parquet, or read without inputs=True"
        )
    return [value or "" for value in inputs]


SINKS: Mapping[str, Callable[[IO[bytes], Path, ExitStack], RowsWriter]] = {
    ".npz": NpzWriter,
    ".parquet": ParquetWriter,
    ".npy": NpyWriter,
    ".jsonl": JsonLinesWriter,
    ".csv": CsvWriter,
}

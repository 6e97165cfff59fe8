"""Parquet as records, a batch of rows at a time. Needs pyarrow."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from topwork.cli.record_files import Record, RecordFile
from topwork.errors import InvalidInput, NotReady

BATCH = 1024


class ParquetFile(RecordFile):
    """.parquet: the types of its columns are the schema's. Times come in UTC; without a zone they are UTC. A decimal is a
    float where the float has the same digits."""

    place = "row"

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self._pa, self._parquet = _pyarrow()
        with self._open() as file:
            schema, self.rows = file.schema_arrow, file.metadata.num_rows
        self.columns = tuple(schema.names)
        self.kinds = {field.name: kind for field in schema if (kind := self._kind(field.type))}

    def every(self, columns: Sequence[str] | None = None) -> Iterator[Record]:
        with self._open() as file:
            row = 0
            for batch in file.iter_batches(BATCH, columns=None if columns is None else list(columns)):
                lists = [self._plain(column) for column in batch.columns]
                for values in zip(*lists, strict=True):
                    row += 1
                    yield Record(row, dict(zip(batch.schema.names, values, strict=True)))

    def _open(self) -> Any:
        try:
            return self._parquet.ParquetFile(self.path)
        except OSError as error:
            raise InvalidInput(f"{self.path} cannot be read: {error.strerror or error}") from None
        except self._pa.ArrowException as error:
            raise InvalidInput(f"{self.path} is not Parquet: {error}") from None

    def _plain(self, column: Any) -> list[Any]:
        """Convert to Python's own values; a time that Python has none for (finer than a microsecond, beyond the year 9999) is its
        text."""
        types = self._pa.types
        if not types.is_temporal(column.type):
            return list(column.to_pylist())
        try:
            return list(
                (column.cast(self._pa.timestamp("us", column.type.tz)) if types.is_timestamp(column.type) else column).to_pylist()
            )
        except (ValueError, OverflowError):  # Arrow's refusals among them
            return [self._time(scalar) for scalar in column]

    def _time(self, scalar: Any) -> Any:
        types = self._pa.types
        try:
            if types.is_timestamp(scalar.type):
                return scalar.cast(self._pa.timestamp("us", scalar.type.tz)).as_py()
            return scalar.as_py()
        except (ValueError, OverflowError):
            return str(scalar.cast(self._pa.string()))

    def _kind(self, kind: Any) -> str | None:
        """Find the type of metadata; None where there is none for it."""
        types = self._pa.types
        if types.is_dictionary(kind):
            return self._kind(kind.value_type)
        if types.is_list(kind) or types.is_large_list(kind):
            return "strings" if self._kind(kind.value_type) == "string" else None
        return next((name for name, test in self._tests().items() if test(kind)), None)

    def _tests(self) -> Mapping[str, Any]:
        types = self._pa.types
        return {
            "bool": types.is_boolean,
            "int": types.is_integer,
            "float": lambda kind: types.is_floating(kind) or types.is_decimal(kind),
            "string": lambda kind: types.is_string(kind) or types.is_large_string(kind),
            "time": lambda kind: types.is_timestamp(kind) or types.is_date(kind),
        }


def _pyarrow() -> tuple[Any, Any]:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise NotReady("reading .parquet needs pyarrow", remedy="pip install 'topwork[parquet]', or give .jsonl") from None
    return pyarrow, pyarrow.parquet

"""Files of records, read a line at a time and never whole: .txt, .csv, .tsv, .jsonl, and .parquet in batches, by pyarrow. Of
lines also as .gz. The letters of files are in `text_encoding.py`."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from topwork._files.text_encoding import reading
from topwork.errors import InvalidInput, NotReady

#: The name under which a line stands that has no columns: none that a column can have.
LINE = "\n"
#: Characters of one value of a .csv; the module's own limit of 131,072 is less than a long text.
LONGEST = 1 << 30
#: Rows of a Parquet file that are read at a time.
BATCH = 1024


class Record(NamedTuple):
    """A record: values by the file's names of columns, and the line of the file on which they begin (in .parquet the row), from
    1; where the line is no record, `error` says why."""

    line: int
    values: Mapping[str, Any]
    error: InvalidInput | None = None


class RecordFile:
    """A file of records. It can be read again and again; each reading starts at the top.

    columns   their names in order; None where only a reading tells (.jsonl)
    kinds     their types, where the file declares them (.parquet)
    rows      how many records, where the file says so
    texts     values are texts that are to be read as numbers, dates ...; empty ones are missing (.csv)
    place     what `Record.line` counts
    """

    columns: tuple[str, ...] | None = ()
    kinds: Mapping[str, str] = {}
    rows: int | None = None
    texts = False
    place = "line"

    def __init__(self, path: Path, encoding: str | None = None) -> None:
        self.path, self.encoding = path, encoding

    def every(self, columns: Sequence[str] | None = None) -> Iterator[Record]:
        """Read all records, also those that cannot be read; with `columns` at least those."""
        raise NotImplementedError

    def records(self, columns: Sequence[str] | None = None) -> Iterator[Record]:
        """Read as `every`. Raises InvalidInput, naming the line, for one that cannot be read."""
        for record in self.every(columns):
            if record.error:
                raise record.error
            yield record

    def name(self, record: Record) -> str:
        """Name the record's place for a message."""
        return f"{self.path} {self.place} {record.line}"

    def check(self, column: str, parameter: str) -> None:
        """Refuse a column that `parameter` names: raises InvalidInput where the file is known not to have it."""
        if self.columns is not None and not any(self.columns):
            raise InvalidInput(
                f"{self.path} has no columns", remedy=f"give a file with a line of names, or leave `{parameter}` out"
            )
        if self.columns is not None and column not in self.columns:
            names = ", ".join(name for name in self.columns if name)
            raise InvalidInput(f"{self.path} has no column {column!r}", remedy=f"`{parameter}` is one of {names}")


class LinesFile(RecordFile):
    """.txt: a line an item. Other separators of lines (U+2028 ...) are part of a text."""

    def every(self, columns: Sequence[str] | None = None) -> Iterator[Record]:
        with reading(self.path, "\n", self.encoding) as file:
            for number, line in enumerate(file, 1):
                yield Record(number, {LINE: line.removesuffix("\n").removesuffix("\r")})


class JsonLinesFile(RecordFile):
    """.jsonl: an object a line, or a string a line."""

    columns = None

    def every(self, columns: Sequence[str] | None = None) -> Iterator[Record]:
        with reading(self.path, "\n", self.encoding) as file:
            for number, line in enumerate(file, 1):
                if line.strip():
                    yield self._parsed(number, line)

    def _parsed(self, number: int, line: str) -> Record:
        try:
            record = json.loads(line)
        except json.JSONDecodeError as error:
            reason = f"{error.msg} at character {error.pos + 1}"
            return Record(number, {}, InvalidInput(f"{self.path} line {number} is not JSON: {reason}"))
        except (ValueError, RecursionError) as error:
            return Record(number, {}, InvalidInput(f"{self.path} line {number} is not JSON: {error}"))
        if isinstance(record, dict | str):
            return Record(number, record if isinstance(record, dict) else {LINE: record})
        kind = "a list" if isinstance(record, list) else json.dumps(record)
        remedy = 'write an object a line, such as {"id": "a", "text": "a red bird"}, or a string'
        return Record(number, {}, InvalidInput(f"{self.path} line {number} is {kind}, and no object", remedy=remedy))


class DelimitedFile(RecordFile):
    """.csv and .tsv: a first line of names, then as many values on each line; values may be quoted and hold line breaks."""

    texts = True

    def __init__(self, path: Path, separator: str, encoding: str | None = None) -> None:
        super().__init__(path, encoding)
        self._separator = separator
        first = next(self._rows(), (1, []))[1]
        if isinstance(first, InvalidInput):
            raise first
        header = [name.strip() for name in first]
        self.columns = tuple(header) or ("",)
        self._check_header(header)

    def every(self, columns: Sequence[str] | None = None) -> Iterator[Record]:
        names, rows = self.columns or (), self._rows()
        next(rows, None)
        for line, row in rows:
            if isinstance(row, InvalidInput):
                yield Record(line, {}, row)
            elif len(row) != len(names):
                error = InvalidInput(
                    f"{self.path} line {line} has {_values(len(row))} for {len(names)} columns",
                    remedy=f'a value that holds {self._separator!r} or a line break stands in "quotes"',
                )
                yield Record(line, {}, error)
            else:
                yield Record(line, dict(zip(names, row, strict=True)))

    def _rows(self) -> Iterator[tuple[int, list[str] | InvalidInput]]:
        """Read each row, or what is wrong with it, with the line on which it begins; empty lines are none."""
        csv.field_size_limit(LONGEST)
        with reading(self.path, "", self.encoding) as file:
            rows, line = csv.reader(file, delimiter=self._separator, strict=True), 1
            while True:
                try:
                    row = next(rows, None)
                except csv.Error as error:
                    yield line, InvalidInput(f"{self.path} line {line}: {error}", remedy="correct it there")
                else:
                    if row is None:
                        return
                    if row:
                        yield line, row
                line = rows.line_num + 1

    def _check_header(self, header: list[str]) -> None:
        twice = [name for i, name in enumerate(header) if name in header[:i]]
        if twice:
            raise InvalidInput(f"{self.path} has two columns {twice[0]!r}", remedy="rename one")
        others = [other for other in (";", "\t", ",", "|") if other != self._separator]
        found = next((other for other in others if len(header) == 1 and other in header[0]), None)
        if found:
            raise InvalidInput(
                f"the columns of {self.path} seem to be separated by {found!r}, not {self._separator!r}",
                remedy=f"say `separator={found!r}`",
            )


def _values(count: int) -> str:
    return f"{count} value{'s' * (count != 1)}"


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


def opened(path: Path, separator: str | None = None, encoding: str | None = None) -> RecordFile:
    """Open the file by its suffix. Raises InvalidInput for other suffixes and unreadable heads, NotReady without pyarrow."""
    if path.is_dir():
        raise InvalidInput(f"{path} is a folder", remedy=f"name a file: {', '.join(TABLES)}")
    suffix = suffix_of(path)
    if suffix not in TABLES:
        raise InvalidInput(f"{path} is not a list of items", remedy=f"give one of {', '.join(TABLES)}")
    if suffix in SEPARATORS:
        if separator and len(separator) != 1:
            raise InvalidInput(f"{separator!r} cannot separate columns", remedy="say one character with `separator`")
        return DelimitedFile(path, separator or SEPARATORS[suffix], encoding)
    if separator:
        raise InvalidInput(f"{path} has no separator of columns", remedy="leave `separator` out")
    if encoding and suffix == ".parquet":
        raise InvalidInput(f"{path} knows its encoding", remedy="leave `encoding` out")
    return TABLES[suffix](path, encoding)


def suffix_of(path: Path) -> str:
    """The suffix that tells the format: that before .gz, of what can be read a line at a time."""
    suffix = path.suffix.lower()
    inner = Path(path.stem).suffix.lower()
    return inner if suffix == ".gz" and inner != ".parquet" else suffix


SEPARATORS: Mapping[str, str] = {".csv": ",", ".tsv": "\t"}
TABLES: Mapping[str, Callable[[Path, str | None], RecordFile]] = {
    ".txt": LinesFile,
    **{suffix: lambda path, encoding: opened(path, None, encoding) for suffix in SEPARATORS},
    ".jsonl": JsonLinesFile,
    ".ndjson": JsonLinesFile,
    ".parquet": lambda path, encoding: ParquetFile(path),
}

"""Files of records, read a line at a time and never whole: .txt, .csv, .tsv, .jsonl; and what one record gives: its id, its item,
its metadata. Parquet is in `parquet_reader.py`, the letters of files in `text_encoding.py`."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from topwork.cli.column_types import convert
from topwork.cli.text_encoding import reading
from topwork.errors import InvalidInput

#: The name under which a line stands that has no columns: none that a column can have.
LINE = "\n"
#: Characters of one value of a .csv; the module's own limit of 131,072 is less than a long text.
LONGEST = 1 << 30


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

    def check(self, column: str, flag: str) -> None:
        """Refuse a column: raises InvalidInput where the file is known not to have that column."""
        if self.columns == ():
            raise InvalidInput(f"{self.path} has no columns", remedy=f"leave {flag} out")
        if self.columns is not None and column not in self.columns:
            names = ", ".join(name for name in self.columns if name) or "none"
            raise InvalidInput(f"{self.path} has no column {column!r}", remedy=f"{flag} is one of {names}")


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
            separator = "$'\\t'" if found == "\t" else f"'{found}'"
            raise InvalidInput(
                f"the columns of {self.path} seem to be separated by {found!r}, not {self._separator!r}",
                remedy=f"say --separator {separator}",
            )


def _values(count: int) -> str:
    return f"{count} value{'s' * (count != 1)}"


def opened(path: Path, separator: str | None = None, encoding: str | None = None) -> RecordFile:
    """Open the file by its suffix. Raises InvalidInput for other suffixes and unreadable heads, NotReady without pyarrow."""
    suffix = path.suffix.lower()
    if suffix not in TABLES:
        raise InvalidInput(f"{path} is not a list of items", remedy=f"give one of {', '.join(TABLES)}, or a folder")
    if suffix in SEPARATORS:
        if separator and len(separator) != 1:
            raise InvalidInput(f"{separator!r} cannot separate columns", remedy="say one character with --separator")
        return DelimitedFile(path, separator or SEPARATORS[suffix], encoding)
    if separator:
        raise InvalidInput(f"{path} has no separator of columns", remedy="leave --separator out")
    if encoding and suffix == ".parquet":
        raise InvalidInput(f"{path} knows its encoding", remedy="leave --encoding out")
    return TABLES[suffix](path, encoding)


def _parquet(path: Path, encoding: str | None) -> RecordFile:
    from topwork.cli.parquet_reader import ParquetFile

    return ParquetFile(path)


SEPARATORS: Mapping[str, str] = {".csv": ",", ".tsv": "\t"}
TABLES: Mapping[str, Callable[[Path, str | None], RecordFile]] = {
    ".txt": LinesFile,
    **{suffix: lambda path, encoding: opened(path, None, encoding) for suffix in SEPARATORS},
    ".jsonl": JsonLinesFile,
    ".ndjson": JsonLinesFile,
    ".parquet": _parquet,
}


class RecordColumn(NamedTuple):
    """A column of a file that becomes one of metadata: its name there, its name in the set, its type."""

    source: str
    name: str
    kind: str


def id_of(table: RecordFile, column: str, record: Record) -> str:
    value = record.values.get(column)
    if value is None or value == "":
        raise InvalidInput(f"{table.name(record)} has no id under {column!r}", remedy="give each item one")
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise InvalidInput(
            f"{table.name(record)}: the id under {column!r} is {value!r}",
            remedy="ids are texts or whole numbers",
        )
    return str(value)


def text_of(table: RecordFile, column: str, record: Record) -> str | bytes:
    """Return the item itself: a text, the path of a file or (of .parquet) its bytes."""
    value = record.values.get(column, record.values.get(LINE))
    if isinstance(value, str) or (isinstance(value, bytes) and value):
        return value
    if value in (None, b""):
        raise InvalidInput(f"{table.name(record)} has no text under {column!r}", remedy="name where it is with --column")
    raise InvalidInput(
        f"{table.name(record)}: {column!r} is {value!r:.60}, no text", remedy="name the column of texts with --column"
    )


def is_blank(column: str, record: Record) -> bool:
    """Tell whether a record has no item: nothing, or a text of spaces."""
    value = record.values.get(column, record.values.get(LINE))
    return value is None or (isinstance(value, str | bytes) and not value.strip())


def value_of(table: RecordFile, column: str, kind: str, record: Record) -> Any:
    value = record.values.get(column)
    if table.texts and value == "":
        return None
    try:
        return convert(kind, value)
    except ValueError:
        raise InvalidInput(
            f"{table.name(record)}: {column!r} is {value!r}, no {kind}",
            remedy=f"correct it, say --type {column}=TYPE, or which columns to keep with --metadata",
        ) from None


def metadata_of(table: RecordFile, columns: Iterable[RecordColumn], record: Record) -> dict[str, Any]:
    """Convert a record's metadata, by the names in the set; what is missing is left out."""
    found: Iterator[tuple[str, Any]] = ((c.name, value_of(table, c.source, c.kind, record)) for c in columns)
    return {name: value for name, value in found if value is not None}

"""One pass over a file before any of it is sent: how many records, which columns of which types, and no id twice.

A file that is wrong is refused then, and nothing of it is written. The pass keeps 8 bytes a record.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from topwork._files.column_types import TypeInference, identifiers
from topwork._files.record_files import LINE, Record, RecordFile
from topwork._files.record_values import RecordColumn, id_of, is_blank, text_of, value_of
from topwork.errors import InvalidInput

#: Ids that come twice which are named before the rest is counted.
NAMED = 3
EMPTY = "it is empty"
MOULD = (
    "metadata are truth values, numbers, texts, times and lists of texts: write a box as '10,20,60,80:owl' (x0,y0,x1,y1:LABEL),"
    " a span as '0:5:PER'"
)


@dataclass(frozen=True)
class SchemaRequest:
    """Columns to take of a file. `metadata` None takes all other columns; `kinds` are types that are known, by either name;
    `skip` leaves bad records out."""

    item: str | None
    id: str | None
    metadata: Sequence[str] | None
    kinds: Mapping[str, str]
    skip: bool = False


@dataclass(frozen=True)
class InferredSchema:
    """Records and columns of a file. `left_out` are columns of which nothing can be kept, with the reason."""

    total: int
    columns: tuple[RecordColumn, ...]
    left_out: Mapping[str, str]


def survey(table: RecordFile, request: SchemaRequest) -> InferredSchema:
    """Read what must be read. Raises InvalidInput: a column that is missing, a value of another type, an id that comes twice."""
    for column, parameter in ((request.id, "id"), *((name, "metadata") for name in request.metadata or ())):
        if column is not None:
            table.check(column, parameter)
    reading = _Reading(table, request)
    if table.rows is None or reading.needed:
        for record in table.every(reading.needed):
            reading.take(record)
    reading.ids.check(table, request)
    columns, left_out = reading.columns()
    return InferredSchema(reading.total if table.rows is None else table.rows, columns, left_out)


class _Reading:
    def __init__(self, table: RecordFile, request: SchemaRequest) -> None:
        self.total = 0
        self.ids = DuplicateIdCheck()
        self._table, self._request = table, request
        self._names: dict[str, str] = {}
        self._kinds: dict[str, str] = {}
        self._guesses: dict[str, TypeInference] = {}
        if table.columns is not None:
            self._expect([column for column in table.columns if self._is_metadata(column)])
        else:
            self._expect(request.metadata or ())

    @property
    def needed(self) -> list[str]:
        """Columns that must be read to know them; of a file that declares its types only those that are wanted as others."""
        declared = self._table.kinds
        unsure = [column for column in self._names if not declared or self._kinds.get(column) != declared.get(column)]
        item = [self._request.item] if self._request.item and self._request.skip and unsure else []
        return list(dict.fromkeys([*unsure, *([self._request.id] if self._request.id else ()), *item]))

    def _is_metadata(self, column: str) -> bool:
        if self._request.metadata is not None:
            return column in self._request.metadata
        return column not in (self._request.item, self._request.id, LINE)

    def _expect(self, columns: Iterable[str]) -> None:
        """Name columns that were not seen before; a name once given stays."""
        self._names = identifiers([*self._names, *columns])
        for column, name in self._names.items():
            kinds = self._request.kinds
            known = kinds.get(column) or kinds.get(name) or self._table.kinds.get(column)
            if known:
                self._kinds[column] = known
            elif not self._table.kinds:
                self._guesses.setdefault(column, TypeInference())

    def take(self, record: Record) -> None:
        try:
            name = self._checked(record)
        except InvalidInput:
            if not self._request.skip:
                raise
            return
        self.total += 1
        if self._request.id:
            self.ids.take(name)
        if not self._is_skipped(record):
            self._guess(record)

    def _is_skipped(self, record: Record) -> bool:
        """Tell whether the record holds no item and is left out for that: it decides nothing about the columns."""
        return self._request.skip and self._request.item is not None and is_blank(self._request.item, record)

    def _checked(self, record: Record) -> str:
        """Return the id of a record that can be written, if ids are taken. Raises InvalidInput for any other record."""
        if record.error:
            raise record.error
        if self._table.columns is None and self._request.metadata is None:
            new = [column for column in record.values if column not in self._names and self._is_metadata(column)]
            if new:
                self._expect(new)
        name = id_of(self._table, self._request.id, record) if self._request.id else ""
        if self._request.item is not None and self._table.columns is None:
            text_of(self._table, self._request.item, record)
        for column, kind in self._kinds.items():
            value_of(self._table, column, kind, record)
        return name

    def _guess(self, record: Record) -> None:
        for column, guess in self._guesses.items():
            if self._table.texts:
                guess.take_text(record.values[column])
            else:
                guess.take(record.values.get(column), record.line)

    def columns(self) -> tuple[tuple[RecordColumn, ...], dict[str, str]]:
        found, left_out = [], {}
        for column, name in self._names.items():
            kind = self._kinds.get(column) or (self._guesses[column].kind if column in self._guesses else None)
            if kind:
                found.append(RecordColumn(column, name, kind))
            else:
                left_out[column] = self._reason(column)
        self._refuse_what_was_asked_for(left_out)
        return tuple(found), left_out

    def _refuse_what_was_asked_for(self, left_out: Mapping[str, str]) -> None:
        for column in self._request.metadata or ():
            if column in left_out and left_out[column] != EMPTY:
                raise InvalidInput(f"{self._table.path}: column {column!r} cannot be kept: {left_out[column]}", remedy=MOULD)

    def _reason(self, column: str) -> str:
        if column not in self._guesses:
            return "its type is none of metadata's"
        guess = self._guesses[column]
        if guess.foreign:
            return f"it holds {guess.foreign}"
        conflict = guess.conflict
        if not conflict:
            return EMPTY
        raise InvalidInput(
            f"{self._table.path}: column {column!r} holds {conflict}",
            remedy=f"say --type {column}=string, or which others to keep with --metadata",
        )


class DuplicateIdCheck:
    """All ids of a file as 8 bytes each: enough to know whether any may come twice."""

    def __init__(self) -> None:
        self._hashes = array("q")

    def take(self, value: str) -> None:
        self._hashes.append(hash(value))

    def check(self, table: RecordFile, request: SchemaRequest) -> None:
        """Refuse ids that come twice: raises InvalidInput that names them, and where. Reads the file again only if some seem
        to."""
        ordered = np.sort(np.array(self._hashes, np.int64))
        suspects = set(ordered[1:][ordered[1:] == ordered[:-1]].tolist())
        if not request.id or not suspects:
            return
        lines: dict[str, list[int]] = {}
        for record in table.every([request.id]):
            found = _id(table, request.id, record)
            if found is not None and hash(found) in suspects:
                lines.setdefault(found, []).append(record.line)
        twice = {value: places for value, places in lines.items() if len(places) > 1}
        if twice:
            raise _repeated(table, request.id, twice)


def _id(table: RecordFile, column: str, record: Record) -> str | None:
    """Return the id; None of a record that is skipped: without skipping it was refused before."""
    try:
        return None if record.error else id_of(table, column, record)
    except InvalidInput:
        return None


def _repeated(table: RecordFile, column: str, twice: Mapping[str, list[int]]) -> InvalidInput:
    named = [f"{value!r} in {table.place}s {_listed(places)}" for value, places in list(twice.items())[:NAMED]]
    more = f" and {len(twice) - NAMED} more" if len(twice) > NAMED else ""
    return InvalidInput(f"{table.path}: ids in {column!r} come twice: {', '.join(named)}{more}", remedy="an id names one item")


def _listed(places: Sequence[int], most: int = 5) -> str:
    numbers = [str(place) for place in places[:most]] + (["..."] if len(places) > most else [])
    return f"{', '.join(numbers[:-1])} and {numbers[-1]}"

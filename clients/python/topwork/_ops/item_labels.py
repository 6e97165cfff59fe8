"""The ids and the metadata of what is written, taken in step with its items."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Sized
from dataclasses import dataclass
from itertools import islice
from os import PathLike, fspath
from typing import Any, TypeAlias

import numpy as np

from topwork._codec.items import describe
from topwork._display.number_text import counted
from topwork.errors import InvalidInput

IDS = "pass one id an item: str or int"


@dataclass
class KnownIds:
    """Ids that are all known and checked before anything is sent."""

    values: list[str]

    def __post_init__(self) -> None:
        self.total: int | None = len(self.values)
        unique(self.values, 0)

    def take(self, start: int, count: int) -> list[str]:
        return self.values[start : start + count]


class StreamedIds:
    def __init__(self, source: Iterable[Any]) -> None:
        self.total: int | None = None
        self._source = iter(source)

    def take(self, start: int, count: int) -> list[str]:
        taken = [text_of(id, start + i) for i, id in enumerate(islice(self._source, count))]
        unique(taken, start)
        return taken


class PathIds:
    """The items' own paths as ids where none were passed, noted as the items are read."""

    def __init__(self) -> None:
        self.total: int | None = None
        self._noted: deque[str] = deque()

    def noting(self, items: Iterable[Any]) -> Iterator[Any]:
        for position, item in enumerate(items):
            if not isinstance(item, str | PathLike):
                raise InvalidInput(f"{describe(item)} has no id", remedy=IDS, item=position)
            self._noted.append(fspath(item))
            yield item

    def take(self, start: int, count: int) -> list[str]:
        taken = [self._noted.popleft() for _ in range(count)]
        unique(taken, start)
        return taken


#: Ids as they were passed. `total` is None where it is not known beforehand.
IdSource: TypeAlias = KnownIds | StreamedIds | PathIds
#: The first time that Python's datetime has not.
LAST_YEAR = np.datetime64("10000-01-01", "us")


def ids_of(ids: Any) -> IdSource:
    streamed = isinstance(ids, Iterable) and not isinstance(ids, Sized)
    return StreamedIds(ids) if streamed else KnownIds(texts(ids))


def text_of(id: Any, position: int) -> str:
    """Convert an id to text: a str as it is, a whole number in decimal."""
    if isinstance(id, str):
        return encodable(id, position)
    if isinstance(id, int | np.integer) and not isinstance(id, bool):
        return str(int(id))
    raise InvalidInput(f"{describe(id)} is no id", remedy=IDS, item=position)


def encodable(id: str, position: int) -> str:
    try:
        id.encode()
    except UnicodeEncodeError as error:
        reason = f"{error.reason} at character {error.start}"
        raise InvalidInput(f"the id {id!r:.80} is not valid Unicode: {reason}", item=position) from None
    return str(id)


def texts(ids: Any) -> list[str]:
    """Ids of one item or of several."""
    if isinstance(ids, str | int | np.integer):
        return [text_of(ids, 0)]
    if not isinstance(ids, Iterable) or isinstance(ids, bytes | Mapping):
        raise InvalidInput(f"ids come as {describe(ids)}", remedy=IDS)
    return [text_of(id, position) for position, id in enumerate(plain(ids))]


def unique(ids: Sequence[str], start: int) -> None:
    """Raises InvalidInput where an id comes twice."""
    if len(set(ids)) == len(ids):
        return
    seen: set[str] = set()
    for position, id in enumerate(ids):
        if id in seen:
            raise InvalidInput(f"the id {id!r} comes twice", remedy="write each item once", item=start + position)
        seen.add(id)


@dataclass
class KnownMetadata:
    """Columns of all items, None where a value is missing."""

    columns: dict[str, list[Any]]
    total: int | None

    def take(self, start: int, count: int) -> dict[str, list[Any]]:
        if self.total is not None and start + count > self.total:
            raise InvalidInput(f"metadata ends after {counted(self.total, 'item')}", remedy="pass one row an item")
        return {name: values[start : start + count] for name, values in self.columns.items()}


class StreamedMetadata:
    """Rows as they come."""

    def __init__(self, source: Iterable[Any]) -> None:
        self.total: int | None = None
        self._source = iter(source)

    def take(self, start: int, count: int) -> dict[str, list[Any]]:
        rows = list(islice(self._source, count))
        if len(rows) < count:
            raise InvalidInput(f"metadata ends after {counted(start + len(rows), 'item')}", remedy="pass one row an item")
        return columns_of(rows, start)


#: Metadata as it was passed. `total` is None where it is not known beforehand.
MetadataSource: TypeAlias = KnownMetadata | StreamedMetadata


def metadata_of(metadata: Any) -> MetadataSource:
    """Read metadata from rows (dicts), columns (a dict, a data frame, an Arrow table), or nothing."""
    if metadata is None:
        return KnownMetadata({}, None)
    if hasattr(metadata, "to_pydict"):
        metadata = _python(metadata.to_pydict)
    elif hasattr(metadata, "columns") and hasattr(metadata, "iloc"):
        metadata = {name: metadata[name] for name in metadata.columns}
    if isinstance(metadata, Mapping):
        return _known({named(name): plain(values) for name, values in metadata.items()})
    if isinstance(metadata, list | tuple):
        return KnownMetadata(columns_of(metadata, 0), len(metadata))
    if isinstance(metadata, Iterable) and not isinstance(metadata, str | bytes):
        return StreamedMetadata(metadata)
    raise InvalidInput(f"metadata comes as {describe(metadata)}", remedy="pass a dict an item, or a dict of columns")


def columns_of(rows: Sequence[Any], start: int) -> dict[str, list[Any]]:
    names: dict[str, None] = {}
    for position, row in enumerate(rows):
        if not isinstance(row, Mapping):
            raise InvalidInput(f"metadata is {describe(row)}", remedy="pass a dict an item", item=start + position)
        names.update(dict.fromkeys(row))
    return {named(name): [row.get(name) for row in rows] for name in names}


def named(name: Any) -> str:
    if not isinstance(name, str) or not name:
        raise InvalidInput(f"{name!r} names no column", remedy="names of columns are strings")
    return name


def plain(values: Any) -> list[Any]:
    """Plain Python values of a list, an array, a column of a data frame ..."""
    if isinstance(values, str | bytes | Mapping) or not isinstance(values, Iterable):
        raise InvalidInput(f"a column comes as {describe(values)}", remedy="pass a value an item")
    if isinstance(values, np.ndarray) and values.dtype.kind in "mM":
        return _times(values)
    if hasattr(values, "detach"):
        values = values.detach().cpu()
    convert = getattr(values, "tolist", None) or getattr(values, "to_pylist", None)
    return list(_python(convert) if convert else values)


def _python(convert: Callable[[], Any]) -> Any:
    """Arrow raises where Python has no such value: a time in nanoseconds, a date of the year 12024."""
    try:
        return convert()
    except (ValueError, OverflowError) as error:
        raise InvalidInput(
            f"a column has no plain values: {error}", remedy="round times to microseconds of the years 1 to 9999"
        ) from None


def _times(values: Any) -> list[Any]:
    """NumPy gives bare numbers for times that Python has none for: those stay NumPy's, and `_columns` names the first."""
    if values.dtype.kind == "M":
        micros = values.astype("datetime64[us]")
        exact = ((micros.astype(values.dtype) == values) & (micros < LAST_YEAR)) | np.isnat(values)
        if exact.all():
            return list(micros.tolist())
    return list(values)


def _known(columns: dict[str, list[Any]]) -> KnownMetadata:
    lengths = {len(values) for values in columns.values()}
    if len(lengths) > 1:
        counts = ", ".join(f"{name!r} {len(values)}" for name, values in columns.items())
        raise InvalidInput(f"columns of different lengths: {counts}", remedy="pass a value an item in each")
    return KnownMetadata(columns, lengths.pop() if lengths else None)

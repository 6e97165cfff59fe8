"""Metadata <-> Column messages: one type a column, a value an item, missing ones marked."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, date, datetime, timedelta
from typing import Any

import numpy as np

from topwork._codec.items import describe
from topwork.errors import InvalidInput
from topwork.v1 import sets_pb2

EPOCH, MICROSECOND = datetime(1970, 1, 1, tzinfo=UTC), timedelta(microseconds=1)
#: Type -> its number, the field of Column that holds its values, and what stands there for a missing one.
_FIELDS: Mapping[str, tuple[sets_pb2.ColumnType, str, Any]] = {
    "bool": (sets_pb2.COLUMN_TYPE_BOOL, "bools", False),
    "int": (sets_pb2.COLUMN_TYPE_INT, "ints", 0),
    "float": (sets_pb2.COLUMN_TYPE_FLOAT, "floats", 0.0),
    "string": (sets_pb2.COLUMN_TYPE_STRING, "strings", ""),
    "time": (sets_pb2.COLUMN_TYPE_TIME, "ints", 0),
    "strings": (sets_pb2.COLUMN_TYPE_STRINGS, "lists", sets_pb2.Strings()),
}
_NAMES = {number: name for name, (number, _, _) in _FIELDS.items()}
_TYPES: tuple[tuple[str, tuple[type, ...]], ...] = (  # bool is an int, and a datetime is a date
    ("missing", (type(None),)),
    ("bool", (bool, np.bool_)),
    ("int", (int, np.integer)),
    ("float", (float, np.floating)),
    ("string", (str,)),
    ("time", (date, np.datetime64)),
    ("strings", (list, tuple, np.ndarray)),
)
MISSING_TYPES = {"NAType", "NaTType"}  # pandas'
MOST_INT = 1 << 63
#: Microseconds since 1970 of the first and the last time that Python's datetime has, and hence a set.
FIRST, LAST = -62_135_596_800_000_000, 253_402_300_799_999_999
_seen: dict[type, str] = {}


class ColumnTypes:
    """The types of a write's columns. A column keeps the type that it has in the set, or that its first values had."""

    def __init__(self, known: Mapping[str, str]) -> None:
        self._known = dict(known)

    def survey(self, columns: Mapping[str, Sequence[Any]]) -> None:
        """Look at all values before the first are packed: whole numbers may be followed by others."""
        for name, values in columns.items():
            self._type(name, values)

    def pack(self, columns: Mapping[str, Sequence[Any]], start: int) -> list[sets_pb2.Column]:
        """Encode columns; those without any value are left out. Raises InvalidInput; `start` is the first item's position."""
        found = [(name, self._type(name, values), values) for name, values in columns.items()]
        return [_packed(name, kind, values, start) for name, kind, values in found if kind]

    def _type(self, name: str, values: Sequence[Any]) -> str | None:
        known = self._known.get(name)
        if (known is None or (known == "int" and _has_fractions(values))) and (kind := inferred(values)):
            self._known[name] = kind
        return self._known.get(name)


def _has_fractions(values: Sequence[Any]) -> bool:
    """Tell whether a column of whole numbers must widen to take these values; the server widens what it has stored."""
    floats = {kind for kind in set(map(type, values)) if kind_of(kind) == "float"}
    return bool(floats) and any(type(v) in floats and not is_missing(v) and not float(v).is_integer() for v in values)


def inferred(values: Sequence[Any]) -> str | None:
    """The type of the first value that is not missing; numbers of which some are not whole are floats. None: all are missing."""
    kinds = {kind_of(kind) for kind in set(map(type, values))} - {"missing"}
    if kinds == {"int", "float"}:
        return "int" if all(is_missing(value) for value in values if kind_of(type(value)) == "float") else "float"
    return next((kind_of(type(value)) for value in values if not is_missing(value)), None)


def kind_of(kind: type) -> str:
    """ "unknown" for a type that no column holds."""
    found = _seen.get(kind)
    if found is None:
        missing = kind.__name__ in MISSING_TYPES
        # NumPy's spans of time are its integers, without their unit, and Arrow's months, days and nanoseconds are a tuple.
        known = () if issubclass(kind, np.timedelta64) or hasattr(kind, "n_fields") else _TYPES
        found = "missing" if missing else next((name for name, types in known if issubclass(kind, types)), "unknown")
        _seen[kind] = found
    return found


def is_missing(value: Any) -> bool:
    """Tell whether a value is missing: None, NaN, NaT or pandas' NA."""
    kind = kind_of(type(value))
    return kind == "missing" or (kind in ("float", "time") and bool(value != value))


def unpack(column: sets_pb2.Column) -> tuple[str, list[Any]]:
    """The column's type and its values, None where missing; times as datetime in UTC."""
    kind = _NAMES.get(column.type)
    if kind is None:
        return "unknown", []
    values: list[Any] = list(getattr(column, _FIELDS[kind][1]))
    if kind == "time":
        values = [_moment(value) for value in values]
    if kind == "strings":
        values = [list(value.values) for value in values]
    for position in column.nulls:
        values[position] = None
    return kind, values


def _moment(micros: int) -> Any:
    """A datetime; NumPy's where another client wrote a time that Python has none for."""
    return EPOCH + timedelta(microseconds=micros) if FIRST <= micros <= LAST else np.datetime64(micros, "us")


def type_name(number: int) -> str:
    return {int(known): name for known, name in _NAMES.items()}.get(number, "unknown")


def type_number(name: str) -> sets_pb2.ColumnType:
    if name not in _FIELDS:
        raise InvalidInput(f"{name!r:.60} is no type of metadata", remedy=f"pass one of {', '.join(_FIELDS)}")
    return _FIELDS[name][0]


def _packed(name: str, kind: str, values: Sequence[Any], start: int) -> sets_pb2.Column:
    number, field, filler = _FIELDS.get(kind, _FIELDS["string"])
    if _as_it_is(kind, values):
        try:
            return sets_pb2.Column(name=name, type=number, **{field: values})
        except ValueError:
            pass  # the longer way names the item
    missing = [i for i, value in enumerate(values) if is_missing(value)]
    absent = set(missing)
    filled = [filler if i in absent else _converted(name, kind, value, start + i) for i, value in enumerate(values)]
    return sets_pb2.Column(name=name, type=number, nulls=missing, **{field: filled})


def _as_it_is(kind: str, values: Sequence[Any]) -> bool:
    """Tell whether no value needs a conversion, as in most columns of most writes."""
    if set(map(type, values)) != {_EXACT.get(kind)}:
        return False
    return kind != "float" or not any(value != value for value in values)


def _converted(name: str, kind: str, value: Any, position: int) -> Any:
    convert = _CONVERT.get((kind, kind_of(type(value))))
    try:
        if convert is not None:
            return convert(value)
    except (ValueError, OverflowError) as error:
        raise InvalidInput(f"column {name!r}: {error}", item=position) from None
    if kind_of(type(value)) == "unknown":
        raise InvalidInput(
            f"column {name!r} holds {describe(value)}",
            remedy="send bool, int, float, str, datetime or lists of str",
            item=position,
        )
    remedy = f"send {_ASKED[kind]}, or another column" if kind in _ASKED else ""
    raise InvalidInput(f"column {name!r} holds {kind} values, but here {value!r:.60}", remedy=remedy, item=position)


def _int(value: Any) -> int:
    whole = int(value)
    if not -MOST_INT <= whole < MOST_INT:
        raise ValueError(f"{whole} does not fit into 64 bits")
    return whole


def _whole(value: Any) -> int:
    """A float without a fraction: what pandas makes of whole numbers beside a missing one."""
    if not float(value).is_integer():
        raise ValueError(f"{float(value):g} is not a whole number, and the column holds int values")
    return _int(value)


def _text(value: str) -> str:
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"not valid Unicode: {error.reason} at character {error.start}") from None
    return str(value)


def _real(value: Any) -> float:
    """A whole number, or NumPy's longest float, as the 64 bits that a column keeps."""
    found = float(value)
    if found != value:
        raise ValueError(f"{value} would come back as {found!r}: a float has 53 bits; send it as a str")
    return found


def _micros(value: Any) -> int:
    """Convert a time to microseconds; one without a zone, and a date, are UTC. Nothing is cut off."""
    if isinstance(value, np.datetime64):
        micros = value.astype("datetime64[us]")
        if micros.astype(value.dtype) != value:
            raise ValueError(f"{value} is finer than a microsecond, or beyond the year 9999: round it")
        return _bounded(int(micros.astype(np.int64)), value)
    if not isinstance(value, datetime):
        value = datetime(value.year, value.month, value.day)
    if getattr(value, "nanosecond", 0):
        raise ValueError(f"{value} is finer than a microsecond: round it, as value.floor('us')")
    moment = value if value.tzinfo else value.replace(tzinfo=UTC)
    return _bounded(int((moment - EPOCH) // MICROSECOND), value)


def _bounded(micros: int, value: Any) -> int:
    if not FIRST <= micros <= LAST:
        raise ValueError(f"{value} is not of the years 1 to 9999")
    return micros


def _list(value: Any) -> sets_pb2.Strings:
    if isinstance(value, np.ndarray) and value.ndim != 1:
        raise ValueError(f"an array of shape {value.shape}; lists are flat")
    texts = value.tolist() if isinstance(value, np.ndarray) else value
    wrong = [text for text in texts if not isinstance(text, str)]
    if wrong:
        raise ValueError(f"a list with {describe(wrong[0])}; lists hold strings: leave it out of the list, or write it as a str")
    return sets_pb2.Strings(values=[_text(text) for text in texts])


_EXACT = {"bool": bool, "int": int, "float": float, "string": str}
_ASKED = {
    "bool": "True or False",
    "int": "int",
    "float": "numbers",
    "string": "str",
    "time": "datetime",
    "strings": "lists of str",
}
#: (type of the column, type of the value) -> how one becomes the other.
_CONVERT: Mapping[tuple[str, str], Callable[[Any], Any]] = {
    ("bool", "bool"): bool,
    ("int", "int"): _int,
    ("int", "float"): _whole,
    ("float", "float"): _real,
    ("float", "int"): _real,
    ("string", "string"): _text,
    ("time", "time"): _micros,
    ("strings", "strings"): _list,
}

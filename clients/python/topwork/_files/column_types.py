"""Metadata columns out of files: their names, their types, and each value as that type."""

from __future__ import annotations

import json
import math
import re
import unicodedata
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any

#: Types of metadata, as `--type COLUMN=TYPE` and `topwork sets` name them.
KINDS = ("bool", "int", "float", "string", "time", "strings")
#: What a set keeps for itself, or SQL reads as something else.
RESERVED = frozenset({"id", "key", "content"})
RESERVED_STARTS = ("features_", "spans_", "parts_", "input")
#: Letters of a column's name; a set takes 100.
LONGEST_NAME = 80

_INT = re.compile(r"[+-]?(0|[1-9][0-9]*)")
_FLOAT = re.compile(r"[+-]?((0|[1-9][0-9]*)(\.[0-9]*)?|\.[0-9]+)([eE][+-]?[0-9]+)?")
_TIME = re.compile(r"\d{4}-\d\d-\d\d([T ]\d\d:\d\d(:\d\d(\.\d{1,6})?)?(Z|[+-]\d\d:?\d\d)?)?")


def identifiers(columns: Iterable[str]) -> dict[str, str]:
    """Give each column its name in the set, as SQL takes it: a letter of any script, then letters, digits and _; none of the
    set's own; and no two alike but for upper and lower case."""
    found: dict[str, str] = {}
    taken: set[str] = set()
    for position, column in enumerate(columns, 1):
        name = _identifier(column) or f"column_{position}"
        while name.lower() in taken:
            name += "_"
        taken.add(name.lower())
        found[column] = name
    return found


def _identifier(column: str) -> str:
    """Replace what SQL does not take by _."""
    plain = unicodedata.normalize("NFC", column.strip())
    name = "".join(letter if f"a{letter}".isidentifier() else "_" for letter in plain).lstrip("_")[:LONGEST_NAME]
    reserved = name.lower() in RESERVED or name.lower().startswith(RESERVED_STARTS)
    return f"meta_{name}" if reserved or (name and not name[0].isalpha()) else name


class TypeInference:
    """Find the type that all values of a column have. Texts are read (`007` and 20 digits are no numbers: that would lose
    something); values that have a type already (of JSON) keep it."""

    def __init__(self) -> None:
        self._text: str | None = None
        self._seen: dict[str, int] = {}

    def take_text(self, text: str) -> None:
        """Look at a value of a .csv; empty is missing. Whole numbers may be followed by others; no other types go together."""
        if text == "" or self._text == "string":
            return
        text = text.strip()
        if self._text is None:
            self._text = next((kind for kind in ("bool", "int", "float", "time") if _reads_as(kind, text)), "string")
        elif not _reads_as(self._text, text):
            self._text = "float" if self._text == "int" and _reads_as("float", text) else "string"

    def take(self, value: Any, line: int) -> None:
        """Look at a value of JSON; null is missing."""
        if value is not None:
            self._seen.setdefault(_kind_of(value), line)

    @property
    def kind(self) -> str | None:
        """The type of all; None where all are missing, or where they do not agree: see `conflict`."""
        if self._text:
            return self._text
        kinds = set(self._seen)
        if kinds == {"int", "float"}:
            return "float"
        return kinds.pop() if len(kinds) == 1 and kinds <= {*KINDS} else None

    @property
    def foreign(self) -> str:
        """The first value, such as "an object in line 3", that no type of metadata is for; empty where there is none."""
        return next((f"{kind} in line {line}" for kind, line in self._seen.items() if kind not in KINDS), "")

    @property
    def conflict(self) -> str:
        """The types that do not agree, such as "int in line 1, string in line 7"; empty where there is none."""
        if self.kind or not self._seen:
            return ""
        return ", ".join(f"{kind} in line {line}" for kind, line in self._seen.items())


def _reads_as(kind: str, text: str) -> bool:
    try:
        CONVERTERS[kind](text)
    except ValueError:
        return False
    return True


def _kind_of(value: Any) -> str:
    match value:
        case bool():
            return "bool"
        case int():
            return "int"
        case float():
            return "float"
        case str():
            return "string"
        case list() if all(isinstance(element, str) for element in value):
            return "strings"
    return "an object" if isinstance(value, dict) else "a list of others than strings"


def convert(kind: str, value: Any) -> Any:
    """Convert the value to that type; None where it is missing. Raises ValueError."""
    if isinstance(value, str) and kind != "string":
        value = value.strip() or None
    return None if value is None else CONVERTERS[kind](value)


def _bool(value: Any) -> bool:
    if isinstance(value, bool):
        return value
    if isinstance(value, str) and value.lower() in ("true", "false"):
        return value.lower() == "true"
    raise ValueError(value)


def _int(value: Any) -> int:
    if (isinstance(value, str) and _INT.fullmatch(value)) or (isinstance(value, float) and value.is_integer()):
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int) or not -(1 << 63) <= value < 1 << 63:
        raise ValueError(value)
    return value


def _float(value: Any) -> float | None:
    if isinstance(value, str):
        if _INT.fullmatch(value):
            value = _int(value)  # 20 digits are no number: some would be lost
        elif not _FLOAT.fullmatch(value):
            raise ValueError(value)
        else:
            value = float(value)
    if isinstance(value, Decimal):
        return _of_decimal(value)
    if isinstance(value, bool) or not isinstance(value, int | float) or math.isinf(value):
        raise ValueError(value)
    found = None if math.isnan(value) else float(value)
    if found is not None and isinstance(value, int) and found != value:
        raise ValueError(value)  # more than 53 bits
    return found


def _of_decimal(value: Decimal) -> float:
    """Convert a decimal that the float has the same digits as. Raises ValueError for others."""
    if Decimal(repr(float(value))) != value:
        raise ValueError(value)
    return float(value)


def _time(value: Any) -> datetime:
    if isinstance(value, str) and _TIME.fullmatch(value):
        value = datetime.fromisoformat(value)
    if isinstance(value, date) and not isinstance(value, datetime):
        value = datetime(value.year, value.month, value.day)
    if not isinstance(value, datetime):
        raise ValueError(value)
    return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


def _string(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str | int | float | Decimal):
        return str(value)
    if isinstance(value, date):
        return value.isoformat()
    raise ValueError(value)


def _strings(value: Any) -> list[str]:
    """Convert a list, or a cell that holds one as JSON."""
    found = json.loads(value) if isinstance(value, str) else value
    if not isinstance(found, list) or not all(isinstance(element, str) for element in found):
        raise ValueError(value)
    return found


CONVERTERS: Mapping[str, Callable[[Any], Any]] = {
    "bool": _bool,
    "int": _int,
    "float": _float,
    "time": _time,
    "string": _string,
    "strings": _strings,
}

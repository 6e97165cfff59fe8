"""Casts of metadata values from one type to another that lose nothing."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from topwork_server.errors import InvalidInput
from topwork_server.feature_sets.filter_values import parse_time
from topwork_server.feature_sets.set_types import ColumnType

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def cast_values(name: str, values: Sequence[Any], stored: ColumnType, type: ColumnType) -> list[Any]:
    """Cast the values; missing ones stay missing. InvalidInput gives an example and a count of values that cannot be cast."""
    if stored is type:
        return list(values)
    convert = _CASTS.get((stored, type))
    if convert is None:
        raise InvalidInput(
            f"metadata column {name!r}: {stored.value} does not become {type.value}", remedy="cast it to string, and that on"
        )
    made, bad = _convert_each(values, convert)
    if bad:
        raise InvalidInput(
            f"metadata column {name!r}: {len(bad)} of {len(values)} values are no {type.value}, such as {bad[0]!r:.60}",
            remedy="update or delete those, or cast to another type; the column is as it was",
        )
    return made


def _convert_each(values: Sequence[Any], convert: Callable[[Any], Any]) -> tuple[list[Any], list[Any]]:
    made: list[Any] = []
    bad: list[Any] = []
    for value in values:
        try:
            made.append(None if value is None else convert(value))
        except (ValueError, OverflowError):  # InvalidInput is a ValueError
            bad.append(value)
    return made, bad


def _int_to_float(value: int) -> float:
    found = float(value)
    if int(found) != value:
        raise ValueError(value)
    return found


def _float_to_int(value: float) -> int:
    found = int(value)
    if found != value or not -(1 << 63) <= found < 1 << 63:
        raise ValueError(value)
    return found


def _int_to_bool(value: int) -> bool:
    if value not in (0, 1):
        raise ValueError(value)
    return bool(value)


def _from_text(convert: Callable[[str], Any]) -> Callable[[str], Any]:
    """Make a cast of texts; an empty text is a missing value."""
    return lambda text: convert(text.strip()) if text.strip() else None


def _parse_int(text: str) -> int:
    found = int(text)
    if "_" in text or not -(1 << 63) <= found < 1 << 63:
        raise ValueError(text)
    return found


def _parse_float(text: str) -> float:
    if "_" in text:
        raise ValueError(text)
    return float(text)


def _bool_of(text: str) -> bool:
    return {"true": True, "false": False, "1": True, "0": False}[text.lower()] if text.lower() in _BOOLS else _no(text)


_BOOLS = frozenset(("true", "false", "1", "0"))


def _no(text: str) -> bool:
    raise ValueError(text)


def _parse_micros(text: str) -> int:
    found = parse_time(text)
    if not isinstance(found, int):
        raise ValueError(text)
    return found


def _parse_list(text: str) -> list[str]:
    """Parse a JSON list of texts; any other text becomes a list of itself."""
    if not text.startswith("["):
        return [text]
    found = json.loads(text)
    if not all(isinstance(one, str) for one in found):
        raise ValueError(text)
    return list(found)


def _time_to_text(micros: int) -> str:
    return (EPOCH + timedelta(microseconds=micros)).isoformat()


_CASTS: Mapping[tuple[ColumnType, ColumnType], Callable[[Any], Any]] = {
    (ColumnType.INT, ColumnType.FLOAT): _int_to_float,
    (ColumnType.INT, ColumnType.BOOL): _int_to_bool,
    (ColumnType.INT, ColumnType.STRING): str,
    (ColumnType.FLOAT, ColumnType.INT): _float_to_int,
    (ColumnType.FLOAT, ColumnType.STRING): repr,
    (ColumnType.BOOL, ColumnType.INT): int,
    (ColumnType.BOOL, ColumnType.FLOAT): float,
    (ColumnType.BOOL, ColumnType.STRING): lambda value: "true" if value else "false",
    (ColumnType.TIME, ColumnType.STRING): _time_to_text,
    (ColumnType.STRINGS, ColumnType.STRING): lambda value: json.dumps(value, ensure_ascii=False),
    (ColumnType.STRING, ColumnType.INT): _from_text(_parse_int),
    (ColumnType.STRING, ColumnType.FLOAT): _from_text(_parse_float),
    (ColumnType.STRING, ColumnType.BOOL): _from_text(_bool_of),
    (ColumnType.STRING, ColumnType.TIME): _from_text(_parse_micros),
    (ColumnType.STRING, ColumnType.STRINGS): _parse_list,
}

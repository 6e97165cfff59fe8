"""Typed values of a filter, as the SQL that Lance is given: constants, times and comparisons, coerced as standard SQL does.

Times are microseconds since 1970 (int64) throughout, so that no literal of Lance's, which are nanoseconds, bounds them.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta, timezone
from decimal import ROUND_FLOOR, Decimal
from enum import StrEnum
from typing import Any

from topwork_server.errors import InvalidInput
from topwork_server.feature_sets.filter_parser import AND, ATOM, COMPARE, IS, NEGATE, OR

MAX_INT64 = (1 << 63) - 1
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
#: A chain of fewer conditions is written flat; a longer one as a balanced tree, since Lance's planner walks it by recursion.
MOST_FLAT_TERMS = 8


class ValueType(StrEnum):
    """Types of values, as errors name them."""

    BOOL = "bool"
    INT = "int"
    FLOAT = "float"
    STRING = "string"
    TIME = "time"
    INTERVAL = "interval"
    STRINGS = "strings"
    NULL = "NULL"


NUMBERS = (ValueType.INT, ValueType.FLOAT)


@dataclass(frozen=True, slots=True)
class ValueChoice:
    """The literals of a condition `what = literal` or `what IN (literals)`; `negated` of `<>` and NOT IN."""

    what: str
    literals: tuple[str, ...]
    negated: bool

    @property
    def sql(self) -> str:
        if len(self.literals) == 1:
            return f"{self.what} {'<>' if self.negated else '='} {self.literals[0]}"
        return f"{self.what} {'NOT ' if self.negated else ''}IN ({', '.join(self.literals)})"


@dataclass(frozen=True, slots=True)
class FilterValue:
    """`sql` binds as strongly as `power`; `constant` is the value itself where it is known: int, Decimal, str, bool, or a tuple
    of str (a time and an interval in microseconds, int or Decimal). `name` is for messages; `terms` counts the conditions."""

    sql: str
    type: ValueType
    power: int = ATOM
    constant: Any = None
    name: str = ""
    terms: int = 1
    choice: ValueChoice | None = None

    def as_operand(self, power: int) -> str:
        """Return the SQL as an operand of an operator of that power."""
        return self.sql if self.power > power else f"({self.sql})"

    def __str__(self) -> str:
        shown = repr(self.constant) if isinstance(self.constant, str) else self.name or self.sql
        return f"{shown:.60} ({self.type.value})" if self.constant is None else f"{shown:.60}"


def number(value: int | Decimal) -> FilterValue:
    if isinstance(value, int):
        return FilterValue(_int_literal(value), ValueType.INT, ATOM if value >= 0 else NEGATE, value)
    return FilterValue(_float_literal(value), ValueType.FLOAT, ATOM if value >= 0 else NEGATE, value, name=str(value))


def string(value: str) -> FilterValue:
    return FilterValue("'" + value.replace("'", "''") + "'", ValueType.STRING, constant=value)


def boolean(value: bool) -> FilterValue:
    return FilterValue("TRUE" if value else "FALSE", ValueType.BOOL, constant=value, name=str(value).lower())


def null() -> FilterValue:
    return FilterValue("CAST(NULL AS BOOLEAN)", ValueType.NULL, name="NULL")


def time_constant(micros: int | Decimal, type: ValueType = ValueType.TIME) -> FilterValue:
    """A time, or an interval."""
    whole = int(Decimal(micros).to_integral_value(ROUND_FLOOR))
    return replace(number(whole), type=type, constant=micros, name=f"a constant {type.value}")


def negation(value: FilterValue) -> FilterValue:
    """Negate a condition; a choice becomes the opposite choice."""
    if value.choice is not None:
        return from_choice(replace(value.choice, negated=not value.choice.negated))
    if value.sql.startswith("NOT ") and value.power == IS - 1:
        return replace(value, sql=value.sql[5:-1], power=0)
    return replace(value, sql=f"NOT ({value.sql})", power=IS - 1, constant=None, choice=None)


def from_choice(choice: ValueChoice) -> FilterValue:
    return FilterValue(choice.sql, ValueType.BOOL, COMPARE if len(choice.literals) == 1 else COMPARE + 1, choice=choice)


def always(what: FilterValue, truth: bool) -> FilterValue:
    """True (or false) of every value that is not missing."""
    return FilterValue(f"{what.as_operand(COMPARE)} {'=' if truth else '<>'} {what.as_operand(COMPARE)}", ValueType.BOOL, COMPARE)


def join_conditions(word: str, values: Sequence[FilterValue]) -> FilterValue:
    """A chain of AND or OR: a condition that is there twice is asked once, and equalities of one column become one IN."""
    merged: dict[str, FilterValue] = {}
    literals: dict[str, dict[str, None]] = {}
    for value in values:
        choice = value.choice
        if choice is None or choice.negated != (word == "and"):
            merged.setdefault(value.sql, value)
            continue
        known = literals.setdefault(choice.what, {})
        merged.setdefault(f"{choice.what} IN", value)
        known.update(dict.fromkeys(choice.literals))
    for what, known in literals.items():
        merged[f"{what} IN"] = from_choice(ValueChoice(what, tuple(known), word == "and"))
    parts = list(merged.values())
    if len(parts) == 1:
        return parts[0]
    power = AND if word == "and" else OR
    sql = _tree(f" {word.upper()} ", [part.as_operand(power) for part in parts])
    return FilterValue(sql, ValueType.BOOL, power, terms=sum(part.terms for part in parts))


def _tree(operator: str, parts: list[str]) -> str:
    if len(parts) <= MOST_FLAT_TERMS:
        return operator.join(parts)
    half = len(parts) // 2
    return f"({_tree(operator, parts[:half])}){operator}({_tree(operator, parts[half:])})"


def compare(operator: str, left: FilterValue, right: FilterValue) -> FilterValue:
    """Compare `left` with `right`: a constant takes the type of the other side, and whole numbers compare with others
    exactly. InvalidInput where the two types do not compare."""
    if ValueType.NULL in (left.type, right.type):
        return FilterValue("CAST(NULL AS BOOLEAN)", ValueType.BOOL)
    if left.constant is not None and (
        right.constant is None or (left.type is ValueType.STRING and right.type is not ValueType.STRING)
    ):
        return compare({"<": ">", ">": "<", "<=": ">=", ">=": "<="}.get(operator, operator), right, left)
    if right.constant is not None:
        right = coerce(right, left)
        if left.type is ValueType.BOOL and operator in ("=", "<>"):
            return left if right.constant is (operator == "=") else negation(left)
        if left.type in (ValueType.INT, ValueType.TIME, ValueType.INTERVAL):
            return _compare_exactly(operator, left, right.constant)
        return _equal_or(operator, left, right.sql)
    left, right = _same_type(left, right)
    return FilterValue(f"{left.as_operand(COMPARE)} {operator} {right.as_operand(COMPARE)}", ValueType.BOOL, COMPARE)


def coerce(constant: FilterValue, other: FilterValue) -> FilterValue:
    """The constant in the type of the value that it is compared with."""
    kind, given = other.type, constant.constant
    if kind is constant.type or (kind in NUMBERS and constant.type in NUMBERS):
        return number(Decimal(given)) if kind is ValueType.FLOAT and isinstance(given, int) else constant
    if constant.type is ValueType.STRING:
        if kind is ValueType.TIME:
            return time_constant(parse_time(given))
        if kind in NUMBERS:
            return coerce(_parse_number(given, other), other)
        if kind is ValueType.BOOL and given.lower() in ("true", "false"):
            return boolean(given.lower() == "true")
    if kind is ValueType.BOOL and constant.type is ValueType.INT and given in (0, 1):
        return boolean(bool(given))
    raise not_comparable(other, constant)


def not_comparable(left: FilterValue, right: FilterValue) -> InvalidInput:
    kinds = {left.type, right.type}
    remedy = "compare a column with a value of its type: texts stand in '...', times are '2024-01-31 12:00:00'"
    if ValueType.STRINGS in kinds:
        remedy = "ask a list with array_has(column, 'x')"
    return InvalidInput(f"the filter compares {left} with {right}", remedy=remedy)


def _same_type(left: FilterValue, right: FilterValue) -> tuple[FilterValue, FilterValue]:
    if left.type is right.type:
        return left, right
    if left.type in NUMBERS and right.type in NUMBERS:
        return as_float(left), as_float(right)
    raise not_comparable(left, right)


def as_float(value: FilterValue) -> FilterValue:
    if value.type is ValueType.FLOAT:
        return value
    if value.constant is not None:
        return number(Decimal(value.constant))
    return FilterValue(f"CAST({value.sql} AS DOUBLE)", ValueType.FLOAT, name=value.name)


def _compare_exactly(operator: str, left: FilterValue, constant: int | Decimal) -> FilterValue:
    """A value of whole numbers against any number, exactly."""
    whole = int(Decimal(constant).to_integral_value(ROUND_FLOOR))
    if whole != constant:
        if operator in ("=", "<>"):
            return always(left, operator == "<>")
        operator = ">" if operator in (">", ">=") else "<="
    if -MAX_INT64 - 1 <= whole <= MAX_INT64:
        return _equal_or(operator, left, _int_literal(whole))
    return always(left, operator == "<>" or operator in (("<", "<=") if whole > 0 else (">", ">=")))


def _equal_or(operator: str, left: FilterValue, literal: str) -> FilterValue:
    if operator in ("=", "<>") and left.type is not ValueType.STRINGS:
        return from_choice(ValueChoice(left.as_operand(COMPARE), (literal,), operator == "<>"))
    return FilterValue(f"{left.as_operand(COMPARE)} {operator} {literal}", ValueType.BOOL, COMPARE)


def _int_literal(value: int) -> str:
    if abs(value) > MAX_INT64:
        return f"({-MAX_INT64} - 1)" if value == -MAX_INT64 - 1 else _float_literal(Decimal(value))
    return str(value)


def _float_literal(value: Decimal) -> str:
    try:
        found = float(value)
    except OverflowError:
        found = float("inf")
    if abs(found) == float("inf"):
        raise InvalidInput(f"the number {value:.6e} is out of range", remedy="numbers are 64-bit floats")
    return repr(found)


def _parse_number(text: str, other: FilterValue) -> FilterValue:
    if re.fullmatch(r"\s*[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d{1,4})?\s*", text, re.ASCII):
        return number(int(text) if text.strip().lstrip("+-").isdigit() and len(text) < 400 else Decimal(text.strip()))
    raise not_comparable(other, string(text))


_TIME = re.compile(
    r"\s*(?P<date>\d{4}-\d{1,2}-\d{1,2})(?:[T ]\s*(?P<clock>\d{1,2}:\d{2}(?::\d{2})?)(?P<fraction>\.\d+)?)?"
    r"\s*(?P<zone>Z|UTC|[+-]\d{2}(?::?\d{2})?)?\s*",
    re.IGNORECASE | re.ASCII,
)


def parse_time(text: str) -> int | Decimal:
    """Microseconds since 1970 of a date, or of a date and time with or without a zone (UTC where it is left out)."""
    match = _TIME.fullmatch(text)
    try:
        if match is None:
            raise ValueError
        year, month, day = map(int, match["date"].split("-"))
        hour, minute, second = [*map(int, (match["clock"] or "0:0").split(":")), 0][:3]
        at = datetime(year, month, day, hour, minute, second, tzinfo=_zone(match["zone"] or ""))
    except (ValueError, OverflowError):
        raise InvalidInput(
            f"{text[:60]!r} is not a time", remedy="write '2024-01-31', '2024-01-31 12:00:00' or '2024-01-31T12:00:00+01:00'"
        ) from None
    micros = (at - EPOCH) // timedelta(microseconds=1)
    fraction = Decimal(f"0{match['fraction']}") * 1_000_000 if match["fraction"] else Decimal(0)
    return micros + int(fraction) if fraction == int(fraction) else micros + fraction


def _zone(text: str) -> timezone:
    if not text or text.upper() in ("Z", "UTC"):
        return UTC
    digits = text[1:].replace(":", "")
    away = timedelta(hours=int(digits[:2]), minutes=int(digits[2:] or 0))
    return timezone(-away if text[0] == "-" else away)


_UNITS = {
    "microsecond": 1,
    "us": 1,
    "millisecond": 1000,
    "ms": 1000,
    "second": 1_000_000,
    "sec": 1_000_000,
    "minute": 60_000_000,
    "min": 60_000_000,
    "hour": 3_600_000_000,
    "day": 86_400_000_000,
    "week": 604_800_000_000,
}


_PARTS = re.compile(r"\s*([+-]?\d+(?:\.\d+)?)\s*([A-Za-z]+)", re.ASCII)


def parse_interval(text: str) -> int:
    """Microseconds of '7 days' or '1 day 2 hours'. Months and years are refused: they have no one length."""
    parts = _PARTS.findall(text)
    if not parts or _PARTS.sub("", text).strip():
        raise InvalidInput(f"{text[:60]!r} is not an interval", remedy="write '7 days' or '1 day 2 hours'")
    total = Decimal(0)
    for amount, unit in parts:
        micros = _UNITS.get(unit.lower()) or _UNITS.get(unit.lower().removesuffix("s"))
        if micros is None:
            raise InvalidInput(f"an interval in {unit[:20]!r}", remedy="count in weeks, days, hours, minutes or seconds")
        total += Decimal(amount) * micros
    if abs(total) > MAX_INT64:
        raise InvalidInput(f"the interval {text[:60]!r} is too long", remedy="times are of the years 1 to 9999")
    return int(total)

"""A filter's tree to the SQL that Lance is given: names resolved, types known, constants coerced, chains planned."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence

from topwork_server.errors import InvalidInput
from topwork_server.feature_sets import filter_functions as functions
from topwork_server.feature_sets import filter_values as values
from topwork_server.feature_sets.filter_parser import AMONG, ATOM, COMPARE, CONCAT, IS, NEGATE, FilterNode
from topwork_server.feature_sets.filter_values import FilterValue, ValueChoice, ValueType
from topwork_server.feature_sets.set_names import is_reserved
from topwork_server.feature_sets.set_types import ColumnType

_TYPES = {
    ColumnType.BOOL: ValueType.BOOL,
    ColumnType.INT: ValueType.INT,
    ColumnType.FLOAT: ValueType.FLOAT,
    ColumnType.STRING: ValueType.STRING,
    ColumnType.TIME: ValueType.TIME,
    ColumnType.STRINGS: ValueType.STRINGS,
}


class FilterCompiler:
    """Compiles one filter over the metadata `columns`. Every method may raise InvalidInput."""

    def __init__(self, columns: Mapping[str, ColumnType]) -> None:
        self._columns = {name.lower(): (name, _TYPES[type]) for name, type in columns.items()}
        self._columns["id"] = ("id", ValueType.STRING)
        self._now = time.time_ns() // 1000

    def compile_value(self, node: FilterNode) -> FilterValue:
        """Compile any expression."""
        match node.kind:
            case "number":
                return values.number(node.value)
            case "string":
                return values.string(node.value)
            case "bool":
                return values.boolean(node.value)
            case "null":
                return values.null()
            case "column":
                return self._column(node.value)
            case "date" | "timestamp":
                return values.time_constant(values.parse_time(node.value))
            case "interval":
                return values.time_constant(values.parse_interval(node.value), ValueType.INTERVAL)
            case "list":
                return self._list(node)
            case "neg":
                return self._negative(self.compile_value(node.args[0]))
            case "and" | "or":
                return values.join_conditions(node.kind, [self.compile_condition(term) for term in node.args])
            case "not":
                return values.negation(self.compile_condition(node.args[0]))
            case "is":
                return self._is(node)
            case "in":
                return self._in(node)
            case "between":
                return self._between(node)
            case "like":
                return self._like(node)
            case "call":
                return self._call(node)
        return self._operation(node)

    def compile_condition(self, node: FilterNode) -> FilterValue:
        """Compile an expression that must be true, false or missing."""
        found = self.compile_value(node)
        if found.type not in (ValueType.BOOL, ValueType.NULL):
            raise InvalidInput(
                f"{found} is no condition: a filter is true or false", remedy="compare it with something, such as n > 0"
            )
        return found

    def _operation(self, node: FilterNode) -> FilterValue:
        args = [self.compile_value(arg) for arg in node.args]
        match node.kind:
            case "compare":
                return values.compare(node.value, *args)
            case "arithmetic":
                return functions.arithmetic(node.value, *args)
            case "cast" | "try_cast":
                return functions.cast(node.kind, args[0], node.value)
            case "concat":
                _check("||", args, ValueType.STRING)
                return FilterValue(
                    f"{args[0].as_operand(CONCAT - 1)} || {args[1].as_operand(CONCAT)}", ValueType.STRING, CONCAT, name="a text"
                )
        _check("[...]", args[:1], ValueType.STRINGS)
        _check("[...]", args[1:], ValueType.INT)
        return FilterValue(f"{args[0].as_operand(ATOM - 1)}[{args[1].sql}]", ValueType.STRING, name="an element")

    def _column(self, name: str) -> FilterValue:
        if name.lower() in self._columns:
            stored, type = self._columns[name.lower()]
            sql = f"CAST(`{stored}` AS BIGINT)" if type is ValueType.TIME else f"`{stored}`"
            return FilterValue(sql, type, name=f"the column {stored}")
        if is_reserved(name):
            raise InvalidInput(f"the column {name!r} is not for filters", remedy=f"use {self._names()}")
        raise InvalidInput(
            f"the filter names a column {name[:100]!r}, which the set has not",
            remedy=f"use {self._names()}; texts stand in '...'",
        )

    def _names(self) -> str:
        shown = sorted(name for name, _ in self._columns.values())
        return ", ".join(shown[:40]) + (" ..." if len(shown) > 40 else "")

    def _list(self, node: FilterNode) -> FilterValue:
        args = [self.compile_value(arg) for arg in node.args]
        _check("a list", args, ValueType.STRING)
        texts = tuple(arg.constant for arg in args)
        return FilterValue(
            f"[{', '.join(arg.sql for arg in args)}]", ValueType.STRINGS, constant=None if None in texts else texts, name="a list"
        )

    @staticmethod
    def _negative(value: FilterValue) -> FilterValue:
        if value.type is ValueType.INTERVAL and value.constant is not None:
            return values.time_constant(-value.constant, ValueType.INTERVAL)
        if value.type in values.NUMBERS and value.constant is not None:
            return values.number(-value.constant)
        _check("-", [value], *values.NUMBERS, ValueType.INTERVAL)
        if value.sql.startswith("-") and value.power == NEGATE:
            return FilterValue(value.sql[1:].strip(), value.type, name=value.name)
        return FilterValue(f"-{value.as_operand(NEGATE)}", value.type, NEGATE, name=value.name)

    def _call(self, node: FilterNode) -> FilterValue:
        if node.value == "now":
            return values.time_constant(self._now)
        return functions.call_function(node.value, [self.compile_value(arg) for arg in node.args])

    def _is(self, node: FilterNode) -> FilterValue:
        word = node.value
        if word == "distinct":
            return self._distinct(node)
        value = self.compile_value(node.args[0]) if word == "null" else self.compile_condition(node.args[0])
        negated = "NOT " if node.negated else ""
        keyword = "NULL" if word in ("null", "unknown") else word.upper()
        sql = "NULL" if value.type is ValueType.NULL and keyword == "NULL" else value.as_operand(IS)
        return FilterValue(f"{sql} IS {negated}{keyword}", ValueType.BOOL, IS)

    def _distinct(self, node: FilterNode) -> FilterValue:
        left, right = (self.compile_value(arg) for arg in node.args)
        equal = values.compare("=", left, right)
        missing = " AND ".join(f"({'NULL' if value.type is ValueType.NULL else value.sql}) IS NULL" for value in (left, right))
        same = FilterValue(f"({equal.sql}) IS TRUE OR ({missing})", ValueType.BOOL, 1, terms=2)
        return same if node.negated else values.negation(same)

    def _in(self, node: FilterNode) -> FilterValue:
        left = self.compile_value(node.args[0])
        found = [values.compare("=", left, self.compile_value(item)) for item in node.args[1:]]
        missing = any(item.kind == "null" for item in node.args[1:])
        literals = [one for one, item in zip(found, node.args[1:], strict=True) if item.kind != "null"]
        either = values.join_conditions("or", literals) if literals else None
        if missing:
            nothing = FilterValue("CAST(NULL AS BOOLEAN)", ValueType.BOOL)
            known = either.choice if either is not None else None
            if known is not None and known.what == left.as_operand(COMPARE):
                either = values.from_choice(ValueChoice(known.what, (*known.literals, "NULL"), False))
            else:
                either = nothing if either is None else values.join_conditions("or", [either, nothing])
        assert either is not None
        return values.negation(either) if node.negated else either

    def _between(self, node: FilterNode) -> FilterValue:
        value, low, high = (self.compile_value(arg) for arg in node.args)
        both = values.join_conditions("and", [values.compare(">=", value, low), values.compare("<=", value, high)])
        return values.negation(both) if node.negated else both

    def _like(self, node: FilterNode) -> FilterValue:
        text, pattern, *escape = (self.compile_value(arg) for arg in node.args)
        _check(node.value.upper(), [text, pattern], ValueType.STRING)
        if escape:
            pattern = _with_backslash_escape(pattern, escape[0])
        word = f"{'NOT ' if node.negated else ''}{node.value.upper()}"
        return FilterValue(f"{text.as_operand(AMONG)} {word} {pattern.as_operand(AMONG)}", ValueType.BOOL, AMONG)


def _check(what: str, args: Sequence[FilterValue], *types: ValueType) -> None:
    for arg in args:
        if arg.type not in types:
            expected = " or ".join(type.value for type in types)
            raise InvalidInput(f"{what} takes {expected}, and is given {arg}", remedy="pass another column, or cast it")


def _with_backslash_escape(pattern: FilterValue, escape: FilterValue) -> FilterValue:
    """The pattern with the backslash as its escape, which is the only one that Lance knows."""
    if not isinstance(pattern.constant, str) or not isinstance(escape.constant, str) or len(escape.constant) != 1:
        raise InvalidInput("LIKE ... ESCAPE takes a text and one character", remedy="write LIKE '50!%' ESCAPE '!'")
    made, rest = [], iter(pattern.constant)
    for character in rest:
        if character == escape.constant:
            made.append("\\" + next(rest, ""))
        else:
            made.append("\\\\" if character == "\\" else character)
    return values.string("".join(made))

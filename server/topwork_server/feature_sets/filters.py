"""SQL filters over a set's metadata: read here, and given to Lance as SQL that means the same in its dialect.

Lance's parser is lenient and its planner recursive: it reads "label" as a text, ignores what follows a whole expression
(`year > 3 label = 'x'`), compares an int column with no other number, a chain of a thousand operators ends the process (seen with
lance 14.0.2), and a `repeat()` may ask for all memory. So a filter is parsed (`filter_parser.py`), its names are resolved, its
types checked and its constants coerced here, and what Lance sees is made of columns that there are, functions that are known, and
a bounded number of conditions.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

from topwork_server.errors import InvalidInput, TopworkError
from topwork_server.feature_sets import filter_functions as functions
from topwork_server.feature_sets import filter_values as values
from topwork_server.feature_sets.filter_parser import AMONG, ATOM, COMPARE, CONCAT, IS, NEGATE, FilterNode, parse
from topwork_server.feature_sets.filter_values import FilterValue, ValueChoice, ValueType
from topwork_server.feature_sets.lance_io import error_text, translate_error
from topwork_server.feature_sets.set_names import is_reserved
from topwork_server.feature_sets.set_types import ColumnType

MOST_CHARACTERS = 1 << 19
#: Conditions that are not one IN. Lance plans a thousand in 0.1 to 0.4 s, and several thousand in a time that grows faster.
MOST_CONDITIONS = 1000

_TYPES = {
    ColumnType.BOOL: ValueType.BOOL,
    ColumnType.INT: ValueType.INT,
    ColumnType.FLOAT: ValueType.FLOAT,
    ColumnType.STRING: ValueType.STRING,
    ColumnType.TIME: ValueType.TIME,
    ColumnType.STRINGS: ValueType.STRINGS,
}


def compile_filter(where: str, columns: Mapping[str, ColumnType]) -> str:
    """Translate a filter for Lance. InvalidInput says what is wrong with one that it should not see. `columns`: metadata."""
    if len(where) > MOST_CHARACTERS:
        raise InvalidInput(f"a filter of {len(where)} characters", remedy=f"at most {MOST_CHARACTERS}; select by ids instead")
    if not where.strip():
        raise InvalidInput("an empty filter", remedy="leave it out to have all items")
    with _bounded_depth():
        found = FilterCompiler(columns).compile_condition(parse(where))
    if found.terms > MOST_CONDITIONS:
        raise InvalidInput(
            f"a filter of {found.terms} different conditions",
            remedy=f"at most {MOST_CONDITIONS}; equalities of a column count once",
        )
    return found.sql


def check_constants(where: str) -> None:
    """Refuse a filter of which a condition is the same for every item, such as `'label' != 'cat'` or `1=1`: what it selects is to
    be changed, and it would be all items or none."""
    if not where.strip() or len(where) > MOST_CHARACTERS:
        return  # `compile_filter` refuses it
    with _bounded_depth():
        constant = constant_condition(parse(where))
    if constant is not None:
        raise InvalidInput(
            f"a condition that names no column: {describe_condition(constant)}; it is the same for every item",
            remedy='write a column without single quotes, label or "label"; for all items say id IS NOT NULL',
        )


@contextmanager
def _bounded_depth() -> Iterator[None]:
    try:
        yield
    except RecursionError:
        raise InvalidInput("the filter is too deep", remedy="use fewer parentheses and functions in one another") from None


def changes_with_time(where: str) -> bool:
    """Tell whether the same filter may give something else a moment later."""
    return re.search(r"\bnow\s*\(", where, re.IGNORECASE) is not None


def translate_refusal(error: BaseException, where: str) -> TopworkError:
    """Lance's complaint about a filter, in our words. Errors that have nothing to do with the filter are mapped as such."""
    text = error_text(error)
    ours = translate_error(error, f"filter {where:.200}")
    # Only ValueError and its kin (Arrow's and Lance's refusals of an expression) are the caller's error.
    return InvalidInput(f"filter {where:.200}: {text:.500}", remedy=_hint(text)) if _is_refusal(error, ours) else ours


def _is_refusal(error: BaseException, ours: TopworkError) -> bool:
    of_ours = isinstance(error, ValueError | NotImplementedError | RuntimeError) or "filter expression" in str(error)
    return of_ours and type(ours) is TopworkError


def _hint(text: str) -> str:
    if "Cast error" in text or "Parser error" in text:
        return "try_cast(column AS type) is NULL where a value does not convert"
    if "Divide by zero" in text:
        return "nullif(column, 0) is NULL where it is 0"
    return "put it in other words"


_CONNECTIVES = frozenset({"and", "or", "not"})
_CONDITIONS = frozenset({*_CONNECTIVES, "compare", "in", "between", "like", "is"})
_SHOWN = 60


def constant_condition(tree: FilterNode) -> FilterNode | None:
    """Find the first condition that names no column; None where all do. Constants that a column is compared with are no
    conditions."""
    return _search(tree, is_condition=True)[1]


def _search(node: FilterNode, *, is_condition: bool) -> tuple[bool, FilterNode | None]:
    """Tell whether the node names a column, and find the first constant condition in it. AND, OR and NOT join conditions."""
    names_column, found = node.kind == "column", None
    for arg in node.args:
        named, constant = _search(arg, is_condition=node.kind in _CONNECTIVES)
        names_column, found = names_column or named, found or constant
    if found is None and not names_column and (is_condition or node.kind in _CONDITIONS):
        found = node
    return names_column, found


def describe_condition(node: FilterNode) -> str:
    """The condition in SQL, cut where it is long."""
    text = _sql(node)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."


def _sql(node: FilterNode) -> str:
    args = [_sql(arg) for arg in node.args[:8]]
    match node.kind:
        case "string":
            return "'" + str(node.value)[:_SHOWN].replace("'", "''") + "'"
        case "number" | "bool":
            return str(node.value)[:_SHOWN].lower()
        case "null" | "date" | "timestamp" | "interval":
            return "NULL" if node.kind == "null" else f"{node.kind} '{node.value}'"
        case "compare" | "arithmetic":
            return f" {node.value} ".join(args)
        case "and" | "or":
            return f" {node.kind.upper()} ".join(args)
        case "not" | "neg":
            return f"{'NOT ' if node.kind == 'not' else '-'}{args[0]}"
    negated = "NOT " if node.negated else ""
    match node.kind:
        case "in":
            return f"{args[0]} {negated}IN ({', '.join(args[1:])})"
        case "between":
            return f"{args[0]} {negated}BETWEEN {args[1]} AND {args[2]}"
        case "like":
            return f"{args[0]} {negated}{node.value.upper()} {args[1]}"
        case "is":
            return f"{args[0]} IS {negated}{node.value.upper()}{' FROM ' + args[1] if len(args) > 1 else ''}"
        case "list":
            return f"[{', '.join(args)}]"
    return f"{node.value or node.kind}({', '.join(args)})"


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
            f"the filter names a column {name[:100]!r}, which the set does not have",
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

"""SQL filters over a set's metadata: read here, and given to Lance as SQL that means the same in its dialect.

Lance's parser is lenient and its planner recursive: it reads "label" as a text, ignores what follows a whole expression
(`year > 3 label = 'x'`), compares an int column with no other number, a chain of a thousand operators ends the process (seen with
lance 14.0.2), and a `repeat()` may ask for all memory. So a filter is parsed (filter_syntax), typed and planned (filter_compile),
and what Lance sees is made of columns that there are, functions that are known, and a bounded number of conditions.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from topwork_server.errors import InvalidInput, TopworkError
from topwork_server.feature_sets.filter_compiler import FilterCompiler
from topwork_server.feature_sets.filter_parser import FilterNode, parse
from topwork_server.feature_sets.lance_io import error_text, translate_error
from topwork_server.feature_sets.set_types import ColumnType

MOST_CHARACTERS = 1 << 19
#: Conditions that are not one IN. Lance plans a thousand in 0.1 to 0.4 s, and several thousand in a time that grows faster.
MOST_CONDITIONS = 1000


def compile_filter(where: str, columns: Mapping[str, ColumnType]) -> str:
    """The filter for Lance. InvalidInput, naming what was wrong, for one that it should not see. `columns` are the metadata."""
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
        return  # as `compiled` says
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
    """The first condition that names no column; None where all do. Constants that a column is compared with are no conditions."""
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

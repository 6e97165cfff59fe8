"""Conditions of a filter that are the same for every item, since they name no column."""

from __future__ import annotations

from topwork_server.feature_sets.filter_parser import FilterNode

_CONNECTIVES = frozenset({"and", "or", "not"})
_CONDITIONS = frozenset({*_CONNECTIVES, "compare", "in", "between", "like", "is"})
_SHOWN = 60


def constant_condition(tree: FilterNode) -> FilterNode | None:
    """The first condition that names no column; None where all do. Constants that a column is compared with are no conditions."""
    return _search(tree, is_condition=True)[1]


def _search(node: FilterNode, *, is_condition: bool) -> tuple[bool, FilterNode | None]:
    """Whether the node names a column, and the first constant condition in it. What AND, OR and NOT join are conditions."""
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

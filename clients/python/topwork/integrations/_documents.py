"""Stores of documents: filters by metadata, scores between 0 and 1, and hits that differ from each other."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from topwork.errors import InvalidInput
from topwork.search_results import Hits

#: Values that a filter compares.
PLAIN = (bool, int, float, str)
#: A score between 0 and 1, larger for what is nearer, by the metric of the hits.
RELEVANCE: Mapping[str, Callable[[float], float]] = {
    "cosine": lambda score: min(1.0, max(0.0, (1 + score) / 2)),
    "inner_product": lambda score: float(1 / (1 + np.exp(-score))),
    "l2": lambda distance: 1 / (1 + distance),
}


def filter_sql(filter: Any) -> str:
    """The filter as SQL. Raises InvalidInput for one that is neither SQL nor a dict of plain values."""
    if filter is None or isinstance(filter, str):
        return filter or ""
    if not isinstance(filter, Mapping):
        raise InvalidInput(f"a filter is a {type(filter).__name__}", remedy="pass SQL, or a dict of values to be equal")
    return " AND ".join(_equal(name, value) for name, value in filter.items())


def _equal(name: str, value: Any) -> str:
    if isinstance(value, list | tuple):
        return f"{name} IN ({', '.join(_literal(name, one) for one in value)})"
    return f"{name} = {_literal(name, value)}"


def _literal(name: str, value: Any) -> str:
    if not isinstance(value, PLAIN):
        raise InvalidInput(f"the filter of {name!r} is a {type(value).__name__}", remedy="pass SQL for more than equal values")
    if isinstance(value, str):
        return "'" + value.replace("'", "''") + "'"
    return str(value).upper() if isinstance(value, bool) else repr(value)


def most_diverse(hits: Hits, k: int, balance: float) -> list[int]:
    """Positions of `k` hits by maximal marginal relevance (Carbonell and Goldstein, 1998), one after another: each is near the
    query (balance 1) and far from those before it (0). The hits have their vectors, one row each."""
    if not len(hits) or hits.vectors is None:
        return []
    unit = hits.vectors / np.maximum(np.linalg.norm(hits.vectors, axis=1, keepdims=True), 1e-12)
    similar = unit @ unit.T
    near = -hits.scores if hits.metric == "l2" else hits.scores
    closest = np.zeros(len(hits), np.float32)
    chosen: list[int] = []
    while len(chosen) < min(k, len(hits)):
        value = balance * near - (1 - balance) * closest
        value[chosen] = -np.inf
        chosen.append(int(value.argmax()))
        closest = similar[chosen].max(axis=0)
    return chosen

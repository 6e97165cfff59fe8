"""Inputs as the field's JSON has them: a text, token ids, or a list of either."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np

from topwork_server.blocking_calls import check_caller
from topwork_server.errors import InvalidInput, TopworkError
from topwork_server.types import Array, Role

T = TypeVar("T")
R = TypeVar("R")
#: What texts are for in retrieval, as NIM, Jina, Cohere and sentence-transformers name it.
ROLES: Mapping[str, Role] = {
    "query": Role.QUERY,
    "search_query": Role.QUERY,
    "retrieval.query": Role.QUERY,
    "document": Role.DOCUMENT,
    "passage": Role.DOCUMENT,
    "search_document": Role.DOCUMENT,
    "retrieval.passage": Role.DOCUMENT,
}


def as_list(given: str | Sequence[Any] | None) -> Sequence[Any]:
    """A list of inputs, each a text or token ids, of what may be one of them by itself."""
    if isinstance(given, str) or (given and any(isinstance(one, int) for one in given)):
        return [given]
    return given or []


def each(given: Iterable[T], make: Callable[[T], R]) -> list[R]:
    """Make something of each input. An error names the position of the input that is to blame."""
    made: list[R] = []
    for position, one in enumerate(given):
        check_caller()
        try:
            made.append(make(one))
        except TopworkError as error:
            raise error.at(position) from None
    return made


def token_ids(given: Sequence[Any]) -> Array:
    """Token ids (tokens,) int64. InvalidInput for a list of anything else."""
    if not given or not all(isinstance(one, int) and 0 <= one < 1 << 31 for one in given):
        raise InvalidInput(
            f"a list of token ids {'has something else in it' if given else 'is empty'}",
            remedy="send texts, or whole numbers of one text a list",
        )
    return np.array(given, np.int64)


def dimensions(asked: int | None) -> int:
    """Return how many dimensions to keep, 0 for all. InvalidInput for none and for fewer."""
    if asked is not None and asked < 1:
        raise InvalidInput(f"{asked} dimensions", remedy="ask for 1 or more, or leave it out")
    return asked or 0

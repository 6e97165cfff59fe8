"""Which rows learn and which judge: folds that keep groups whole and classes in proportion. Used by the judge and by trainers."""

from __future__ import annotations

from topwork_server.trainer import Examples
from topwork_server.types import Array


def folds(examples: Examples, count: int, seed: int) -> list[Array]:
    """`count` disjoint arrays of row positions (ascending) that together are all rows: what each fold judges.

    Groups are whole; classes (and labels) are spread as evenly as groups allow; the same seed gives the same folds.
    Fewer than `count` where there are fewer groups; InvalidInput where there is one.
    """
    raise NotImplementedError


def rest(count: int, held: Array) -> Array:
    """The rows of 0 .. count - 1 that are not held, ascending."""
    raise NotImplementedError

"""What a set's metadata says of its items: who is learnt from, who judges, who belongs together. In the order of ids, so that
neither updates nor compactions change what is learnt."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from topwork_server.errors import InvalidInput
from topwork_server.heads.examples.labels import Labels, read_as, read_labels
from topwork_server.heads.model import Definition
from topwork_server.sets.model import Column, ColumnType, Reading, Selection
from topwork_server.types import Array

Read = Callable[[Selection], Reading]
GROUPS = (ColumnType.STRING, ColumnType.INT, ColumnType.BOOL, ColumnType.TIME)


@dataclass(frozen=True)
class Items:
    """Of all items that `where` lets through, by id. `groups` are values of the group column, None where there is none."""

    ids: tuple[str, ...]
    column: Column
    groups: Sequence[Hashable | None]
    test: Array  # (n,) bool: those that judge

    def take(self, positions: Array) -> Items:
        """Some of them (ascending)."""
        values = [self.column.values[i] for i in positions]
        ids, groups = tuple(self.ids[i] for i in positions), [self.groups[i] for i in positions]
        return Items(ids, replace(self.column, values=values), groups, self.test[positions])


def items(read: Read, definition: Definition) -> Items:
    """InvalidInput where a column is not there, or nothing matches."""
    columns = [definition.target, definition.group] if definition.group else [definition.target]
    ids: list[str] = []
    found: list[list[Any]] = [[] for _ in columns]
    types = [ColumnType.STRING for _ in columns]
    for block in read(_selection(definition, definition.where, columns)).blocks:
        ids += block.ids
        by_name = {column.name: column for column in block.metadata}
        for i, name in enumerate(columns):
            found[i] += by_name[name].values
            types[i] = by_name[name].type
    if not ids:
        raise InvalidInput(_none_matches(definition.where), remedy="mend `where`, or write items first")
    if definition.group and types[1] not in GROUPS:
        raise InvalidInput(
            f"column {definition.group!r} holds {types[1].value}, which groups nothing",
            remedy=f"group by a column of {', '.join(type.value for type in GROUPS)}",
        )
    order = sorted(range(len(ids)), key=ids.__getitem__)
    test = _matching(read, definition)
    column = Column(definition.target, types[0], [found[0][i] for i in order])
    groups = [found[-1][i] for i in order] if definition.group else [None] * len(order)
    return Items(tuple(ids[i] for i in order), column, groups, np.array([ids[i] in test for i in order], bool))


def _selection(definition: Definition, where: str, columns: Sequence[str]) -> Selection:
    return Selection(version=definition.version, taps=(), columns=columns, where=where)


def _none_matches(where: str) -> str:
    return f"no item matches {where:.200}" if where else "the set has no items"


def _matching(read: Read, definition: Definition) -> set[str]:
    """Ids of the items that judge."""
    if not definition.test_where:
        return set()
    where = both(definition.where, definition.test_where)
    ids = {id for block in read(_selection(definition, where, ())).blocks for id in block.ids}
    if not ids:
        within = " among the items to learn from" if definition.where else ""
        raise InvalidInput(f"no item matches {definition.test_where:.200}{within}", remedy="mend `test_where`, or leave it out")
    return ids


def both(where: str, other: str) -> str:
    return f"({where}) AND ({other})" if where else other


def labels_of_learnt(learnt: Items, definition: Definition, least_per_class: int) -> Labels:
    """InvalidInput names the id of the item that is to blame."""
    tap, names = definition.views[0][0].tap, tuple(definition.descriptions)
    try:
        return read_labels(learnt.column, definition.task, tap, least_per_class, definition.target, names)
    except InvalidInput as error:
        raise _named(error, learnt.ids) from None


def labels_of_test(test: Items, labels: Labels, definition: Definition) -> Labels:
    """InvalidInput also where none of them can judge."""
    try:
        found = read_as(test.column, labels, definition.target)
    except InvalidInput as error:
        raise _named(error, test.ids) from None
    if not found.labelled.any():
        raise InvalidInput(
            f"no item that matches {definition.test_where:.200} has a label that was learnt", remedy="label some of them"
        )
    return found


def _named(error: InvalidInput, ids: Sequence[str]) -> InvalidInput:
    if error.item is None:
        return error
    return InvalidInput(f"item {ids[error.item]!r}: {error.message}", remedy=error.remedy)


def grouped(ids: Sequence[str], groups: Sequence[Hashable | None], contents: Mapping[str, str]) -> Array:
    """(n,) int64: equal for items of one group, for items of equal content, and for what these join."""
    parents = list(range(len(ids)))

    def root(i: int) -> int:
        while parents[i] != i:
            parents[i] = parents[parents[i]]
            i = parents[i]
        return i

    first: dict[Hashable, int] = {}
    for i, key in _keys(ids, groups, contents):
        a, b = root(first.setdefault(key, i)), root(i)
        parents[max(a, b)] = min(a, b)
    roots = np.array([root(i) for i in range(len(ids))], np.int64)
    return np.asarray(np.unique(roots, return_inverse=True)[1], np.int64)


def _keys(ids: Sequence[str], groups: Sequence[Hashable | None], contents: Mapping[str, str]) -> Iterator[tuple[int, Hashable]]:
    """What each item may have in common with others."""
    for i, (id, group) in enumerate(zip(ids, groups, strict=True)):
        if group is not None:
            yield i, ("group", group)
        if contents.get(id):
            yield i, ("content", contents[id])

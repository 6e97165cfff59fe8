"""Reads a set's metadata for a training: which items are trained on, which test, and which belong together.

Items are in the order of their ids, so that neither updates nor compactions change the training.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from topwork._display.number_text import counted

from topwork_server.errors import InvalidInput
from topwork_server.feature_sets.set_types import Column, ColumnType, ReadResult, Selection
from topwork_server.heads.head_types import HeadDefinition
from topwork_server.heads.training.equal_rows import components
from topwork_server.heads.training.labels import LabelColumn, read_labels, read_test_labels
from topwork_server.types import Array

Read = Callable[[Selection], ReadResult]
#: Weights are computed with in single precision.
LEAST_WEIGHT, LARGEST_WEIGHT = 1e-9, 1e9
GROUPS = (ColumnType.STRING, ColumnType.INT, ColumnType.BOOL, ColumnType.TIME)


@dataclass(frozen=True)
class LabeledItems:
    """The items that match `where`, by id. `groups` are values of the group column, None where there is none; `weights` (n,) are
    those of the weight column, NaN where an item has none, or None."""

    ids: tuple[str, ...]
    column: Column
    groups: Sequence[Hashable | None]
    test: Array  # (n,) bool: test items
    weights: Array | None = None

    def take(self, positions: Array) -> LabeledItems:
        """Take some of them, by ascending positions."""
        values = [self.column.values[i] for i in positions]
        ids, groups = tuple(self.ids[i] for i in positions), [self.groups[i] for i in positions]
        weights = None if self.weights is None else self.weights[positions]
        return LabeledItems(ids, replace(self.column, values=values), groups, self.test[positions], weights)

    def where(self, mask: Array) -> LabeledItems:
        """Take those that `mask` (n,) bool is true of."""
        return self if mask.all() else self.take(np.flatnonzero(mask))


def labeled_items(read: Read, definition: HeadDefinition) -> LabeledItems:
    """Read the items of a training. InvalidInput where a column does not exist, or nothing matches."""
    ids, found = _columns(read, definition)
    if not ids:
        raise InvalidInput(_none_matches(definition.where), remedy="correct `where`, or write items first")
    unknown = Column("", ColumnType.STRING, [None] * len(ids))
    column, group = found.get(definition.target, unknown), found.get(definition.group, unknown)
    if group.type not in GROUPS:
        raise InvalidInput(
            f"column {definition.group!r} holds {group.type.value}, which groups nothing",
            remedy=f"group by a column of {', '.join(type.value for type in GROUPS)}",
        )
    order = sorted(range(len(ids)), key=ids.__getitem__)
    test = _matching(read, definition)
    column = replace(column, values=[column.values[i] for i in order])
    groups = [group.values[i] for i in order]
    tested = np.array([ids[i] in test for i in order], bool)
    return LabeledItems(tuple(ids[i] for i in order), column, groups, tested, _weights(definition, found, ids, order))


def _weights(definition: HeadDefinition, found: Mapping[str, Column], ids: Sequence[str], order: Sequence[int]) -> Array | None:
    """Return the weights in that order. InvalidInput for one that is out of bounds; NaN stands for none."""
    if not definition.weight:
        return None
    given = found[definition.weight].values
    weights = np.array([np.nan if given[i] is None else given[i] for i in order], np.float64)
    wrong = [i for i in order if given[i] is not None and not LEAST_WEIGHT <= given[i] <= LARGEST_WEIGHT]
    if wrong:
        raise InvalidInput(
            f"item {ids[wrong[0]]!r}: the weight {given[wrong[0]]:g} in column {definition.weight!r}",
            remedy=f"give numbers from {LEAST_WEIGHT:g} to {LARGEST_WEIGHT:g}, and leave out by `where` what counts for nothing",
        )
    return weights


def _columns(read: Read, definition: HeadDefinition) -> tuple[list[str], dict[str, Column]]:
    """Read all ids, and the target, the group and the weight of each, as far as they are named."""
    ids: list[str] = []
    values: dict[str, list[Any]] = {name: [] for name in (definition.target, definition.group, definition.weight) if name}
    types: dict[str, ColumnType] = {}
    for block in read(_selection(definition, definition.where, list(values))).batches:
        ids += block.ids
        for column in block.metadata:
            values[column.name] += column.values
            types[column.name] = column.type
    return ids, {name: Column(name, types[name], found) for name, found in values.items() if name in types}


def _selection(definition: HeadDefinition, where: str, columns: Sequence[str]) -> Selection:
    return Selection(version=definition.version, taps=(), columns=columns, where=where)


def _none_matches(where: str) -> str:
    return f"no item matches {where:.200}" if where else "the set has no items"


def _matching(read: Read, definition: HeadDefinition) -> set[str]:
    """List the ids of the test items."""
    if not definition.test_where:
        return set()
    where = both(definition.where, definition.test_where)
    ids = {id for block in read(_selection(definition, where, ())).batches for id in block.ids}
    if not ids:
        within = " among the items to learn from" if definition.where else ""
        raise InvalidInput(
            f"no item matches {definition.test_where:.200}{within}", remedy="correct `test_where`, or leave it out"
        )
    return ids


def named_test_items(count: int, test_where: str) -> str:
    """Format as "603 items that match number >= 1300", or, where no filter chose them, "603 items held out"."""
    if not test_where:
        return f"{counted(count, 'item')} held out"
    return f"{counted(count, 'item that matches', 'items that match')} {test_where}"


def both(where: str, other: str) -> str:
    return f"({where}) AND ({other})" if where else other


def training_labels(items: LabeledItems, definition: HeadDefinition, min_per_class: int) -> LabelColumn:
    """Read the labels of the training items. InvalidInput names the id of the item."""
    names = tuple(definition.descriptions)
    if not items.ids:
        raise InvalidInput(
            f"every item matches {definition.test_where:.200}: none is left to learn from", remedy="correct `test_where`"
        )
    try:
        return read_labels(items.column, definition.task, min_per_class, definition.target, names)
    except InvalidInput as error:
        raise _with_id(error, items.ids) from None


def check_weights(items: LabeledItems, weight: str) -> None:
    """Raise InvalidInput with the id of the first item without a weight; the items are those with a label."""
    for at in np.flatnonzero(np.isnan(items.weights)) if items.weights is not None else ():
        raise InvalidInput(f"item {items.ids[at]!r} has a label and no weight in column {weight!r}", remedy="give it one")


def test_labels(test: LabeledItems, labels: LabelColumn, definition: HeadDefinition) -> LabelColumn:
    """Read the labels of the test items. InvalidInput also where none of them has a class that was trained on."""
    try:
        found = read_test_labels(test.column, labels, definition.target)
    except InvalidInput as error:
        raise _with_id(error, test.ids) from None
    if not found.labeled.any():
        raise InvalidInput(
            f"no item that matches {definition.test_where:.200} has a label that was trained on", remedy="label some of them"
        )
    return found


def _with_id(error: InvalidInput, ids: Sequence[str]) -> InvalidInput:
    if error.item is None:
        return error
    return InvalidInput(f"item {ids[error.item]!r}: {error.message}", remedy=error.remedy)


def group_numbers(
    ids: Sequence[str], groups: Sequence[Hashable | None], contents: Mapping[str, str], equal: Sequence[Array] = ()
) -> Array:
    """Number the groups of items, (n,) int64: items share one by the group column, by equal content or by equal features.

    What these join is one group. `equal`: for each view the position of the first item with the same features.
    """
    first: dict[Hashable, int] = {}
    edges = [(first.setdefault(key, i), i) for i, key in _keys(ids, groups, contents)]
    joined = [np.array(edges, np.int64).reshape(-1, 2), *(np.stack([firsts, np.arange(len(ids))], axis=1) for firsts in equal)]
    return components(np.concatenate(joined), len(ids))


def _keys(ids: Sequence[str], groups: Sequence[Hashable | None], contents: Mapping[str, str]) -> Iterator[tuple[int, Hashable]]:
    """List what each item may have in common with others."""
    for i, (id, group) in enumerate(zip(ids, groups, strict=True)):
        if group is not None:
            yield i, ("group", group)
        if contents.get(id):
            yield i, ("content", contents[id])

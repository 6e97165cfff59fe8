"""Reads a column of metadata as labels: its task, its classes, and whether a head can be trained on them.

The error for bad labels names what is wrong, the class or item, and what to do.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from topwork._display.excerpts import excerpt
from topwork._display.number_text import counted

from topwork_server.errors import InvalidInput
from topwork_server.feature_sets.set_types import Column, ColumnType
from topwork_server.heads.head_types import Task
from topwork_server.heads.span_decoding import entity_labels
from topwork_server.heads.training import mask_labels
from topwork_server.heads.training.label_formats import FORMATS, LabelFormat
from topwork_server.names import instead
from topwork_server.types import Array

#: A column of whole numbers with more different ones than this is taken for regression where no task is given.
MOST_INT_CLASSES = 20
SHOWN = 5
#: Different captions that an alignment is learned from and judged by.
FEWEST_CAPTIONS = 10
#: Letters of a class that a message repeats: one may be a whole picture.
LONGEST = 60


@dataclass(frozen=True)
class LabelColumn:
    """A column of labels: one entry for each item in `values` and `labeled`; None in `values` where an item has no label.

    values: int class | frozenset of label numbers | float | tagging: [(start, end, number in entity_labels(names))] | question
    answering: [(start, end)], all of them right | segmentation: LabelMask | detection: TrueBoxes in pixels | alignment: a
    caption. Spans are half-open, in characters.
    names: classes or labels; of tagging BIO names, of question answering "start" and "end", of regression none.
    """

    task: Task
    names: tuple[str, ...]
    values: Sequence[Any]
    labeled: Array
    warnings: tuple[str, ...] = ()

    def take(self, positions: Array) -> LabelColumn:
        """Take the labels of some items, by their positions."""
        return replace(self, values=[self.values[i] for i in positions], labeled=self.labeled[positions])


def check_target(target: str, columns: Mapping[str, ColumnType], set_name: str) -> None:
    """Raise InvalidInput where the set has no such column of metadata; it names similar ones."""
    if target in columns:
        return
    there = instead(target, columns, "there are none")
    raise InvalidInput(
        f"the set {set_name} has no metadata column {excerpt(target)} to learn", remedy=f"{there}; write labels as metadata"
    )


def task_of(column: Column) -> Task:
    """Choose the task of a column by its type and by how its values are written. InvalidInput for times."""
    match column.type:
        case ColumnType.TIME:
            raise _wrong_type(column.name, column.type, None)
        case ColumnType.FLOAT:
            return Task.REGRESSION
        case ColumnType.INT:
            several = len(set(column.values) - {None}) > MOST_INT_CLASSES
            return Task.REGRESSION if several else Task.CLASSIFICATION
        case ColumnType.STRING:
            return Task.SEGMENTATION if _all(column, FORMATS[Task.SEGMENTATION].matches) else Task.CLASSIFICATION
        case ColumnType.STRINGS:
            rows = (Task.TAGGING, Task.QUESTION_ANSWERING, Task.SEGMENTATION)
            return next((task for task in rows if _all(column, FORMATS[task].matches)), Task.MULTI_LABEL)
    return Task.CLASSIFICATION


def _all(column: Column, written: Callable[[Any], Any]) -> bool:
    """Tell whether every value is written in that form, and some give a label."""
    there = [value for value in column.values if value]
    try:
        return bool(there) and all(written(value) is not False for value in there)
    except InvalidInput:
        return False


def read_labels(column: Column, task: Task | None, min_per_class: int, target: str, names: Sequence[str] = ()) -> LabelColumn:
    """Read and check the labels of a column. `names` are described classes: labels are among them, and may be missing.

    InvalidInput, with the position of the item: a wrong type, badly written values, numbers that are not finite, no labels at
    all, one class alone, a class of fewer than `min_per_class` items.
    """
    task = task or task_of(column)
    form = FORMATS[task]
    if column.type not in form.types:
        raise _wrong_type(target, column.type, task)
    read = _parse(form, column)
    if not names:
        _check_some(target, read, column)
    counts = Counter(name for value in read if value is not None for name in form.classes(value))
    if names:
        _check_described(target, form, read, names)
    _check_classes(target, task, counts, read, min_per_class, column.type, names)
    labels = _labels(task, form, read, tuple(names) or tuple(form.order(counts)))
    return _with_warnings(labels, [*_empty(target, column, read), *_near_duplicates(target, counts)])


def read_test_labels(column: Column, known: LabelColumn, target: str) -> LabelColumn:
    """Read the labels of a test set under the classes of `known`; items of other classes become unlabeled, with a warning."""
    form = FORMATS[known.task]
    read = _parse(form, column)
    classes = set(classes_of(known.task, known.names))
    strange = {name for value in read if value is not None for name in form.classes(value)} - classes
    kept = [value if value is None or classes.issuperset(form.classes(value)) else None for value in read]
    lost = sum(value is not None for value in read) - sum(value is not None for value in kept)
    labels = _labels(known.task, form, kept, classes_of(known.task, known.names))
    which = counted(lost, "test item is left out", "test items are left out")
    left_out = f"{which}, whose classes no item to train on has: {_listed(sorted(strange))}"
    return _with_warnings(labels, [left_out] if lost else [])


def classes_of(task: Task, names: tuple[str, ...]) -> tuple[str, ...]:
    """List the classes that labels are written with, given the names of a head."""
    if task is Task.TAGGING:
        return entity_labels(names)
    return () if task is Task.QUESTION_ANSWERING else names


def _parse(form: LabelFormat, column: Column) -> list[Any]:
    read: list[Any] = []
    for position, value in enumerate(column.values):
        try:
            read.append(None if value is None else form.parse(value))
        except InvalidInput as error:
            refusal = InvalidInput(f"column {column.name!r}: {error.message}", remedy=error.remedy, item=position)
            raise refusal from None
    return read


def _labels(task: Task, form: LabelFormat, read: Sequence[Any], classes: tuple[str, ...]) -> LabelColumn:
    index = {name: number for number, name in enumerate(classes)}
    values = [None if value is None else form.encode(value, index) for value in read]
    return LabelColumn(task, form.names(classes), values, np.array([value is not None for value in read], bool))


def _with_warnings(labels: LabelColumn, warnings: Iterable[str]) -> LabelColumn:
    return LabelColumn(labels.task, labels.names, labels.values, labels.labeled, tuple(warnings))


def _check_some(target: str, read: Sequence[Any], column: Column) -> None:
    if all(value is None for value in read):
        raise InvalidInput(
            f"column {target!r} has no label for any of {counted(len(read), 'item')}",
            remedy="write labels into it, or choose items that have them (where)",
        )


def _check_described(target: str, form: LabelFormat, read: Sequence[Any], names: Sequence[str]) -> None:
    for position, value in enumerate(read):
        for name in () if value is None else form.classes(value):
            if name not in names:
                raise InvalidInput(
                    f"column {target!r}: the class {_shorten(name)!r} is not described",
                    remedy=f"describe it too, or leave it out; described are {_listed(names)}",
                    item=position,
                )


def _check_classes(
    target: str,
    task: Task,
    counts: Counter[str],
    read: Sequence[Any],
    least: int,
    type: ColumnType,
    names: Sequence[str],
) -> None:
    labeled = sum(value is not None for value in read)
    if task is Task.REGRESSION:
        _check_numbers(target, [value for value in read if value is not None])
    elif task is Task.ALIGNMENT:
        _check_captions(target, [value for value in read if value is not None])
    elif not names:
        _check_several(target, task, counts, labeled)
    if task is Task.SEGMENTATION and len(counts) > mask_labels.IGNORED:
        raise InvalidInput(
            f"column {target!r} has {len(counts):,} classes, and a mask tells {mask_labels.IGNORED} apart",
            remedy="join some of them",
        )
    spared = {mask_labels.BACKGROUND} if task is Task.SEGMENTATION else set()  # it is never labeled: it is what boxes leave
    few = [(count, name) for name, count in counts.items() if count < least and name not in spared]
    if few:
        raise _too_few(target, task, sorted(few), least, type, others=len(counts) - len(few))


def _check_numbers(target: str, numbers: Sequence[float]) -> None:
    if len(numbers) < 2 or min(numbers) == max(numbers):
        raise InvalidInput(
            f"column {target!r}: {counted(len(numbers), 'item has a number', 'items have the same number')}, {numbers[0]:.6g}:"
            " there is nothing to learn",
            remedy="give at least two different numbers",
        )


def _check_captions(target: str, captions: Sequence[str]) -> None:
    several = len(set(captions))
    if several == 1:
        raise InvalidInput(
            f"column {target!r}: {counted(len(captions), 'item has a caption', 'items have the same caption')},"
            f" {captions[0]!r:.{LONGEST}}",
            remedy="write captions of which each tells its item from others",
        )
    if several < FEWEST_CAPTIONS:
        raise InvalidInput(
            f"column {target!r}: {len(captions):,} items have {several} different captions, and {FEWEST_CAPTIONS} are needed",
            remedy="caption more items",
        )


def _check_several(target: str, task: Task, counts: Counter[str], labeled: int) -> None:
    everywhere = task is Task.MULTI_LABEL and set(counts.values()) == {labeled}
    if len(counts) >= FORMATS[task].least_classes and not everywhere:
        return
    which = "the one label is" if labeled == 1 else f"all {labeled:,} labels are"
    only = f"{which} {_listed(list(counts))}" if counts else f"{which} empty"
    raise InvalidInput(f"column {target!r}: {only}: there is nothing to tell apart", remedy="label items of another class too")


def _too_few(target: str, task: Task, few: list[tuple[int, str]], least: int, type: ColumnType, others: int) -> InvalidInput:
    """Name the classes with too few examples; leaving them out is a remedy where enough `others` remain."""
    count, name = few[0]
    same = f"; the same goes for {_listed([f'{_shorten(name)} ({count})' for count, name in few[1:]])}" if few[1:] else ""
    more = f"label more items of {'it' if len(few) == 1 else 'them'}"
    fewer = "choose a kind of training that needs fewer"
    without = _without(target, task, [name for _, name in few], type)
    return InvalidInput(
        f"column {target!r}: the class {_shorten(name)!r} has {count} example{'s' if count > 1 else ''}, and {least} are needed"
        f"{same}",
        remedy=f"{more}, {fewer}, or {without}" if others >= FORMATS[task].least_classes else f"{more}, or {fewer}",
    )


def _without(target: str, task: Task, names: Sequence[str], type: ColumnType) -> str:
    """Say how to leave classes out, as a filter where that is short."""
    literals = [name if type in (ColumnType.INT, ColumnType.BOOL) else "'" + name.replace("'", "''") + "'" for name in names]
    if len(names) > SHOWN or any(len(name) > LONGEST for name in names) or task not in (Task.CLASSIFICATION, Task.MULTI_LABEL):
        return "take them out of the labels" if len(names) > 1 else "take it out of the labels"
    if task is Task.MULTI_LABEL:
        where = " AND ".join(f"NOT array_has({target}, {literal})" for literal in literals)
    else:
        where = f"{target} NOT IN ({', '.join(literals)})" if len(names) > 1 else f"{target} <> {literals[0]}"
    return f'leave {"them" if len(names) > 1 else "it"} out: `where` "{where}"'


def _wrong_type(target: str, type: ColumnType, task: Task | None) -> InvalidInput:
    if task is None:
        return InvalidInput(
            f"column {target!r} holds times, which no head predicts",
            remedy="write them as numbers (years, seconds) or as classes (texts) in a column of their own",
        )
    takes = " or ".join(one.value for one in FORMATS[task].types)
    fitting = [str(other) for other, form in FORMATS.items() if type in form.types]
    other = f"; {type.value} suits {' or '.join(fitting)}" if fitting else ""
    return InvalidInput(f"column {target!r} holds {type.value}, and {task} reads {takes}", remedy=f"write {takes}{other}")


def _empty(target: str, column: Column, read: Sequence[Any]) -> list[str]:
    count = sum(value is None for value in read) - sum(value is None for value in column.values)
    if not count:
        return []
    which = counted(count, "label is empty, and its item counts", "labels are empty, and their items count")
    return [f"column {target!r}: {which} as unlabeled"]


def _near_duplicates(target: str, classes: Iterable[str]) -> list[str]:
    """Warn of classes that differ in nothing but case and space."""
    by_key: dict[str, list[str]] = {}
    for name in sorted(classes):
        by_key.setdefault(" ".join(name.casefold().split()), []).append(name)
    alike = [" and ".join(map(repr, names)) for names in by_key.values() if len(names) > 1]
    return [f"column {target!r}: classes that differ in case or space alone: {_listed(alike)}"] if alike else []


def _listed(names: Sequence[str]) -> str:
    return ", ".join(map(_shorten, names[:SHOWN])) + (f" and {len(names) - SHOWN:,} more" if len(names) > SHOWN else "")


def _shorten(name: str) -> str:
    return name if len(name) <= LONGEST else f"{name[: LONGEST - 3]}..."

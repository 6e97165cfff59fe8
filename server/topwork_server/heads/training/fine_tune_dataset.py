"""The data of a FineTuner: the raw items of a training, split once into training, validation and test items."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace
from itertools import permutations
from typing import TYPE_CHECKING, Any

import numpy as np
from topwork._display.number_text import counted

from topwork_server.errors import InvalidInput, NotReady
from topwork_server.heads.head_types import HeadDefinition
from topwork_server.plugin_api.splits import folds
from topwork_server.plugin_api.trainer import Examples, FineTuneDataset, Target
from topwork_server.types import Array

if TYPE_CHECKING:
    from topwork_server.heads.training.dataset import TrainingDataset

log = logging.getLogger(__name__)

PARTS = 7  # one validates and one tests: about 70, 15 and 15 of a hundred


def fine_tune_dataset(
    definition: HeadDefinition,
    data: TrainingDataset,
    encoder_options: Any,
    seed: int,
    warn: Callable[[str], None] = log.warning,
    *,
    validates: bool = True,
) -> tuple[FineTuneDataset, tuple[str, ...]]:
    """Collect the raw items and their ids. Groups are whole, and classes are spread evenly.

    `test` are the items that `test_where` names, where it names any; there are validation items where the tuner `validates`.
    NotReady where the set keeps no inputs; items whose own input is missing are left out.
    """
    inputs = data.inputs((*data.ids, *data.test_ids))
    _check_kept(definition, data, bool(inputs))
    training, ids = _with_inputs(data.examples, data.ids, set(inputs) - data.partial)
    test_examples, test_ids = _with_inputs(data.test, data.test_ids, set(inputs) - data.partial) if data.test else (None, ())
    _warn_of_missing(data, inputs.keys(), warn)
    if test_examples is not None and not test_examples.count:
        raise NotReady("the set keeps no raw input of a test item", remedy="write them again, or choose others with `test_where`")
    train, validation, test = _split(training, len(ids), len(test_ids), seed, validates)
    _warn_of_classes(training, train, warn)
    parts = [(training, len(ids))] + ([(test_examples, len(test_ids))] if test_examples is not None else [])
    all_ids = (*ids, *test_ids)
    made = FineTuneDataset(
        items=[inputs[id] for id in all_ids],
        options=encoder_options,
        tap=definition.views[0][0].tap,
        pooling=definition.views[0][1].value,
        target=training.target,
        names=training.names,
        values=np.concatenate([part.values for part, _ in parts]),
        counts=np.concatenate([np.bincount(part.items, minlength=count) for part, count in parts]).astype(np.int64),
        train=train,
        validation=validation,
        test=test,
    )
    return made, all_ids


def _check_kept(definition: HeadDefinition, data: TrainingDataset, some: bool) -> None:
    if some:
        return
    keeps = data.snapshot is not None and data.snapshot.definition.keep_inputs
    raise NotReady(
        f"the set {definition.set!r} keeps {'the raw input of no labeled item' if keeps else 'no raw inputs'}, and"
        f" {definition.kind} trains on them",
        remedy="write the items to a set that keeps them: `Write(SET, keep_inputs=True)`",
    )


def _with_inputs(examples: Examples, ids: tuple[str, ...], there: set[str]) -> tuple[Examples, tuple[str, ...]]:
    """Select the items whose inputs are kept, without their features."""
    plain = replace(examples, views=(), unlabeled=(), described=())
    kept = np.array([id in there for id in ids], bool)
    rows = np.flatnonzero(kept[examples.items])
    some = plain.take(rows)
    places = np.cumsum(kept) - 1
    return replace(some, items=places[some.items]), tuple(id for id, keep in zip(ids, kept, strict=True) if keep)


def _warn_of_missing(data: TrainingDataset, inputs: Any, warn: Callable[[str], None]) -> None:
    missing = [id for id in (*data.ids, *data.test_ids) if id not in inputs]
    if missing:
        which = counted(len(missing), "item is left out, whose", "items are left out, whose")
        warn(f"{which} input the set does not keep (such as {missing[0]!r})")
    partial = len(data.partial & {*data.ids, *data.test_ids})
    if partial:
        which = counted(partial, "item is left out, of which", "items are left out, of which")
        warn(f"{which} some rows are to be ignored: a trunk is trained on whole items")


def _split(examples: Examples, count: int, tests: int, seed: int, validates: bool) -> tuple[Array, Array, Array]:
    """Split positions of items into train, validation and test. A given test set stands after the `count` others."""
    held = ["test"] * (not tests) + ["validation"] * validates
    dealt = folds(examples, PARTS, seed) if held else []
    if held and len(dealt) <= len(held):
        raise InvalidInput(
            f"{counted(len(dealt), 'group')} of items cannot be split into {' and '.join(['training', *held])} items",
            remedy="label more items (those of one group, or of equal content, stay together)",
        )
    chosen = _best(examples, dealt, len(held)) if held else ()
    parts = {part: _items(examples, dealt[fold]) for part, fold in zip(held, chosen, strict=True)}
    validation = parts.get("validation", np.zeros(0, np.int64))
    test = parts.get("test", np.arange(count, count + tests))
    train = np.setdiff1d(np.arange(count), np.concatenate([validation, test]))
    return train, validation, test


def _best(examples: Examples, dealt: list[Array], held: int) -> tuple[int, ...]:
    """Choose the folds to hold out, so that most classes are left to train on, and then that most are evaluated."""
    counts = np.array([_counted(examples, rows) for rows in dealt])

    def left(chosen: tuple[int, ...]) -> tuple[int, ...]:
        others = counts.sum(axis=0) - counts[list(chosen)].sum(axis=0)
        return (int((others > 0).sum()), *(int((counts[one] > 0).sum()) for one in chosen))

    return max(permutations(range(len(dealt)), held), key=left)


def _counted(examples: Examples, rows: Array) -> Array:
    """Count the rows of each class, (classes,)."""
    values = examples.values[rows]
    if examples.target is Target.CLASSES:
        return np.bincount(values, minlength=len(examples.names))
    return np.asarray((values > 0).sum(axis=0)) if examples.target is Target.LABELS else np.zeros(1)


def _items(examples: Examples, rows: Array) -> Array:
    return np.asarray(np.unique(examples.items[rows]), np.int64)


def _warn_of_classes(examples: Examples, train: Array, warn: Callable[[str], None]) -> None:
    if examples.target not in (Target.CLASSES, Target.LABELS):
        return
    missing = np.flatnonzero(_counted(examples, np.flatnonzero(np.isin(examples.items, train))) == 0)
    if len(missing):
        names = ", ".join(examples.names[i] for i in missing[:5])
        warn(f"no item to train on is of {names}{' and others' if len(missing) > 5 else ''}: label more of them")

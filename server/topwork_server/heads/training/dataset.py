"""The dataset of a training: labels and rows of a pinned version of a set, checked and in the order of ids."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from itertools import chain
from pathlib import Path

import numpy as np
from topwork._display.number_text import counted

from topwork_server.blocking_calls import Report, part
from topwork_server.errors import InvalidInput
from topwork_server.feature_sets.set_types import Selection
from topwork_server.feature_sets.snapshot import Snapshot, open_snapshot
from topwork_server.heads.head_types import HeadDefinition, Pooling, Task, UnlabeledUse
from topwork_server.heads.pair_features import Encode
from topwork_server.heads.pooling import trained_views
from topwork_server.heads.training.captions import CaptionVectors, first_of_each
from topwork_server.heads.training.equal_rows import equal_rows, item_means
from topwork_server.heads.training.labeled_items import (
    LabeledItems,
    Read,
    both,
    check_weights,
    group_numbers,
    labeled_items,
    test_labels,
    training_labels,
)
from topwork_server.heads.training.labels import SHOWN, LabelColumn, check_target
from topwork_server.heads.training.row_loader import LoadedRows, load_rows, split_rows, without_items
from topwork_server.heads.training.target_values import TargetValues, item_values, row_values
from topwork_server.plugin_api.trainer import Examples, FeatureView, Target
from topwork_server.types import Array, Item


@dataclass(frozen=True)
class TrainingDataset:
    """The labels and rows of a training, in the order of ids.

    examples   labeled items, none of the test; its `items` are positions in `ids`. It is empty where classes are described and
               nothing is labeled.
    test       the items that `test_where` names, with positions in `test_ids`
    labels     those of `ids`
    unlabeled how many items, none of the test, have no label
    partial    ids of the items that lost some of their rows (unlabeled cells)
    covers     for tasks with a value for each row: (rows, 2 or 4), what the rows of each item cover, characters or pixels
    """

    labels: LabelColumn
    examples: Examples
    ids: tuple[str, ...]
    test: Examples | None = None
    test_ids: tuple[str, ...] = ()
    unlabeled: int = 0
    warnings: tuple[str, ...] = ()
    partial: frozenset[str] = frozenset()
    covers: Mapping[str, Array] = field(default_factory=dict, repr=False, compare=False)
    snapshot: Snapshot | None = field(default=None, repr=False, compare=False)

    def inputs(self, ids: Sequence[str]) -> dict[str, Item]:
        """Read the raw inputs of items, as far as the set keeps them."""
        if self.snapshot is None or not self.snapshot.definition.keep_inputs or not ids:
            return {}
        reading = self.snapshot.read(Selection(taps=(), columns=(), inputs=True, ids=ids))
        pairs = (pair for block in reading.batches for pair in zip(block.ids, block.inputs, strict=True))
        return {id: item for id, item in pairs if item is not None}


def labels_of(read: Read, definition: HeadDefinition, min_per_class: int) -> LabelColumn:
    """Read only the labels of the training items. InvalidInput for wrong ones among them or among the test items'."""
    every = labeled_items(read, definition)
    training = every.take(np.flatnonzero(~every.test))
    labels = training_labels(training, definition, min_per_class)
    check_weights(training.where(labels.labeled), definition.weight)
    if every.test.any():
        test = every.take(np.flatnonzero(every.test))
        check_weights(test.where(test_labels(test, labels, definition).labeled), definition.weight)
    return labels


def load_dataset(
    definition: HeadDefinition, min_per_class: int, report: Report, by_direction: bool = False, encode: Encode | None = None
) -> TrainingDataset:
    """Load labels and rows, in the process of the job.

    `by_direction`: multiples of a row count as its copies; `encode`: see `load_rows`; it encodes captions, too. InvalidInput for
    what cannot be trained on.
    """
    taken = [open_snapshot(Path(one.path), one.set, one.version, one.created) for one in definition.sources]
    if definition.target:
        check_target(definition.target, taken[0].columns, definition.set)
    return _Loader(taken, definition, min_per_class, by_direction, encode).load(report)


class _Loader:
    """Loads one dataset: training items, test items and unlabeled ones, without those that turn out to be unusable."""

    def __init__(
        self, taken: Sequence[Snapshot], definition: HeadDefinition, min_per_class: int, by_direction: bool, encode: Encode | None
    ) -> None:
        self._encode = encode
        self._snapshot, self._definition, self._least, self._by_direction = taken[0], definition, min_per_class, by_direction
        self._sources = taken
        self._warnings: list[str] = []
        self._partial: set[str] = set()
        self._covers: dict[str, Array] = {}
        self._captions: CaptionVectors | None = None  # of an alignment

    def load(self, report: Report) -> TrainingDataset:
        definition = self._definition
        report(0.0, "reading labels")
        every = labeled_items(self._snapshot.read, definition)
        contents = self._snapshot.content_hashes(definition.where)
        training, test = every.take(np.flatnonzero(~every.test)), every.take(np.flatnonzero(every.test))
        labels = training_labels(training, definition, self._least)
        self._compare_others(every.ids, contents)
        unlabeled = training.where(~labels.labeled)
        training = self._without_test_content(training.where(labels.labeled), test, contents)
        if len(test.ids):
            test = test.where(test_labels(test, labels, definition).labeled)
        used = unlabeled.ids if definition.unlabeled is not UnlabeledUse.LEFT_OUT else ()
        rows = self._rows([training.ids, test.ids, used], part(report, 0.05, 0.6 if definition.texts else 0.95))
        training, test = (self._with_rows(one, rows, which) for one, which in ((training, 0), (test, 1)))
        if definition.texts:
            training, test, rows[:2] = self._with_captions(training, test, rows, part(report, 0.6, 1.0))
        training, rows[0] = self._without_test_features(training, test, rows)
        labels = self._remaining_labels(labels, training)
        return self._dataset(labels, training, test, rows, contents, len(unlabeled.ids))

    def _compare_others(self, ids: Sequence[str], contents: Mapping[str, str]) -> None:
        """Warn of items that another set lacks, or holds with another content under the same id."""
        for snapshot, other in zip(self._sources[1:], self._definition.others, strict=True):
            theirs = snapshot.content_hashes()
            missing = [id for id in ids if id not in theirs]
            if missing:
                some = f"{', '.join(missing[:SHOWN])}{' ...' if len(missing) > SHOWN else ''}"
                which = counted(len(missing), f"of {len(ids):,} items is left out", f"of {len(ids):,} items are left out")
                self._warnings.append(f"{which}, which {other.set} lacks: {some}")
            if other.modality is not self._definition.modality:
                continue
            changed = [id for id in ids if theirs.get(id) and contents.get(id) and theirs[id] != contents[id]]
            if changed:
                which = counted(len(changed), "item has", "items have")
                self._warnings.append(
                    f"{which} another content in {other.set} than in {self._definition.set}, such as {changed[0]}"
                )

    def _without_test_content(self, training: LabeledItems, test: LabeledItems, contents: Mapping[str, str]) -> LabeledItems:
        """Leave out training items with the content, or the caption, of a test item, and warn of groups that `test_where`
        splits."""
        test_contents = {contents.get(id) for id in test.ids} - {"", None}
        again = np.array([contents.get(id) in test_contents for id in training.ids], bool)
        self._warn_of_repeated(again, "content is that")
        training = training.where(~again)
        if self._definition.task is Task.ALIGNMENT:
            training = self._without_test_captions(training, test)
        test_groups = set(test.groups)
        shared = sum(group is not None and group in test_groups for group in training.groups)
        if shared:
            which = counted(shared, "item that is trained on shares", "items that are trained on share")
            self._warnings.append(f"{which} a {self._definition.group} with test items: metrics may be too good")
        return training

    def _warn_of_repeated(self, again: Array, what: str) -> None:
        if again.any():
            which = counted(again.sum(), "item is not trained on: its", "items are not trained on: their")
            self._warnings.append(f"{which} {what} of a test item")

    def _without_test_captions(self, training: LabeledItems, test: LabeledItems) -> LabeledItems:
        known = {str(value).strip() for value in test.column.values if value is not None}
        again = np.array([str(value).strip() in known for value in training.column.values], bool)
        self._warn_of_repeated(again, "caption is that")
        return training.where(~again)

    def _rows(self, ids: Sequence[Sequence[str]], report: Report) -> list[LoadedRows]:
        """Load the rows of each list of ids, in its order."""
        ends = np.cumsum([len(one) for one in ids])
        slots = {id: slot for slot, id in enumerate(id for one in ids for id in one)}
        where, target = self._definition.where, self._definition.target
        if not len(ids[-1]):
            where = both(where, f"`{target}` IS NOT NULL" if target else "id = ''")  # no id is empty
        return split_rows(load_rows(self._sources, self._definition, where, slots, report, self._encode), ends)

    def _with_rows(self, some: LabeledItems, rows: Sequence[LoadedRows], which: int) -> LabeledItems:
        there = rows[which].counts > 0
        if not there.all():
            without = [some.ids[i] for i in np.flatnonzero(~there)]
            taps = ", ".join(dict.fromkeys(self._definition.tap_names))
            lost = counted(len(without), "labeled item is left out, which has", "labeled items are left out, which have")
            self._warnings.append(
                f"{lost} no rows of {taps} that the head could read:"
                f" {', '.join(without[:SHOWN])}{' ...' if len(without) > SHOWN else ''}"
            )
        return some.where(there)

    def _with_captions(
        self, training: LabeledItems, test: LabeledItems, rows: Sequence[LoadedRows], report: Report
    ) -> tuple[LabeledItems, LabeledItems, list[LoadedRows]]:
        """Embed the captions, and leave out items whose caption the encoder of texts does not take."""
        assert self._encode is not None, "a training of captions has an encoder of texts"
        assert self._definition.texts is not None, "it is an alignment"
        of_each = [[str(value).strip() for value in some.column.values] for some in (training, test)]
        self._captions = CaptionVectors.of(chain(*of_each), self._encode, report)
        refused = self._captions.refused
        lost = [np.array([caption in refused for caption in captions], bool) for captions in of_each]
        if refused:
            ids = [some.ids[at] for some, mask in zip((training, test), lost, strict=True) for at in np.flatnonzero(mask)]
            why = next(iter(refused.values()))
            self._warnings.append(
                f"{len(ids):,} labeled items are left out, whose captions {self._definition.texts.encoder} does not embed: "
                f"{', '.join(ids[:SHOWN])}{' ...' if len(ids) > SHOWN else ''} ({why})"
            )
        left = [without_items(one, mask) for one, mask in zip(rows[:2], lost, strict=True)]
        return training.where(~lost[0]), test.where(~lost[1]), left

    def _without_test_features(
        self, training: LabeledItems, test: LabeledItems, rows: Sequence[LoadedRows]
    ) -> tuple[LabeledItems, LoadedRows]:
        """Leave out training items with the features of a test item."""
        if not (len(training.ids) and len(test.ids)):
            return training, rows[0]
        again = np.zeros(len(training.ids), bool)
        for firsts in self._equal(rows[:2]):
            ours, theirs = np.split(firsts, [len(training.ids)])
            again |= np.isin(ours, theirs) | np.isin(ours, firsts[theirs])
        self._warn_of_repeated(again, "features are those")
        return training.where(~again), without_items(rows[0], again)

    def _equal(self, rows: Sequence[LoadedRows]) -> list[Array]:
        """Give for each view (items,) int64: for each item with rows, the first item with equal features."""
        counts = np.concatenate([one.counts[one.counts > 0] for one in rows])
        items, count = np.repeat(np.arange(len(counts)), counts), len(counts)
        views = [np.concatenate(parts) if len(rows) > 1 else parts[0] for parts in zip(*(one.views for one in rows), strict=True)]
        whole = views if len(items) == count else [item_means(view, items, count) for view in views]
        # Equal cosines do not make items equal: many pairs share one.
        distinguishing = [
            view for view, (_, how) in zip(whole, self._definition.all_views, strict=True) if how is not Pooling.COSINE
        ]
        return [equal_rows(view, self._by_direction) for view in distinguishing]

    def _remaining_labels(self, labels: LabelColumn, training: LabeledItems) -> LabelColumn:
        """Reduce the labels to the remaining items; they are checked again, since a class may have lost too many."""
        there = int(labels.labeled.sum())
        if there and not len(training.ids):
            pairs = "write pairs of question and context; " if self._definition.task is Task.QUESTION_ANSWERING else ""
            raise InvalidInput("no labeled item has rows to learn from", remedy=pairs + "; ".join(self._warnings))
        if there == len(training.ids):
            return labels.take(np.flatnonzero(labels.labeled))
        with self._reasons_given():
            again = training_labels(training, self._definition, self._least)
        return replace(again, warnings=tuple(dict.fromkeys((*labels.warnings, *again.warnings))))

    @contextmanager
    def _reasons_given(self) -> Iterator[None]:
        """Add to the remedy of an error why items were left out."""
        try:
            yield
        except InvalidInput as error:
            raise InvalidInput(error.message, remedy="; ".join((error.remedy, *self._warnings))) from None

    def _dataset(
        self,
        labels: LabelColumn,
        training: LabeledItems,
        test: LabeledItems,
        rows: Sequence[LoadedRows],
        contents: Mapping[str, str],
        unlabeled: int,
    ) -> TrainingDataset:
        definition = self._definition
        examples, positions = self._examples(labels, training, rows[0], contents)
        _check_several(definition, examples)
        free = self._views(rows[2].views) if definition.unlabeled is not UnlabeledUse.LEFT_OUT else ()
        described = tuple(np.array(view, np.float32) for view in definition.described)
        examples = replace(examples, unlabeled=free, described=described)
        test_examples, test_ids = self._test_examples(labels, test, rows[1], contents) if definition.test_where else (None, ())
        return TrainingDataset(
            labels=labels.take(positions),
            examples=examples,
            ids=tuple(training.ids[i] for i in positions),
            test=test_examples,
            test_ids=test_ids,
            unlabeled=unlabeled,
            warnings=(*labels.warnings, *self._warnings),
            partial=frozenset(self._partial),
            covers=self._covers,
            snapshot=self._snapshot,
        )

    def _test_examples(
        self, labels: LabelColumn, test: LabeledItems, rows: LoadedRows, contents: Mapping[str, str]
    ) -> tuple[Examples, tuple[str, ...]]:
        with self._reasons_given():
            mine = test_labels(test, labels, self._definition)
        self._warnings += mine.warnings
        examples, positions = self._examples(mine, test, rows, contents)
        if not examples.count:
            raise InvalidInput("no test item has rows to evaluate", remedy="choose others with `test_where`")
        return examples, tuple(test.ids[i] for i in positions)

    def _examples(
        self, labels: LabelColumn, some: LabeledItems, rows: LoadedRows, contents: Mapping[str, str]
    ) -> tuple[Examples, Array]:
        """Make examples, and give the positions of the items that have rows."""
        definition, counts = self._definition, rows.counts[rows.counts > 0]
        if definition.task.every_row:
            values = row_values(labels, some.ids, counts, rows.spans)
            self._warnings += values.warnings
            if definition.task is not Task.SEGMENTATION and rows.spans is not None:
                self._covers |= zip(some.ids, np.split(rows.spans, np.cumsum(counts)[:-1]), strict=True)
        else:
            found = self._captions.rows(labels.values) if self._captions else item_values(labels)
            values = TargetValues(found, np.ones(len(some.ids), bool))
        owners = np.repeat(np.arange(len(some.ids)), counts)
        self._partial |= {some.ids[i] for i in np.unique(owners[~values.keep])}
        owners = owners[values.keep]
        there, places = np.unique(owners, return_inverse=True)
        equal = [*self._equal([rows]), *([first_of_each(labels.values)] if definition.task is Task.ALIGNMENT else [])]
        groups = group_numbers(some.ids, some.groups, contents, equal)[owners]
        views = self._views([view if values.keep.all() else view[values.keep] for view in rows.views])
        items = np.asarray(places, np.int64)
        grid = definition.views[0][0].tap.grid if definition.task is Task.DETECTION else None
        examples = Examples(views, definition.task.target, labels.names, values.values[values.keep], items, groups, grid=grid)
        if some.weights is not None:
            examples = replace(examples, weights=some.weights[owners].astype(np.float32))
        return examples, there

    def _views(self, rows: Sequence[Array]) -> tuple[FeatureView, ...]:
        if self._definition.combine:
            rows = [np.concatenate(rows, axis=1)]
        pairs = zip(trained_views(self._definition), rows, strict=True)
        return tuple(FeatureView(info.tap.name, pooling.value, one) for (info, pooling), one in pairs)


def _check_several(definition: HeadDefinition, examples: Examples) -> None:
    """Check that rows have two classes: small labels may be outvoted in every row."""
    if definition.task.every_row and examples.target is Target.CLASSES and len(np.unique(examples.values)) < 2:
        raise InvalidInput(
            f"column {definition.target!r}: all rows of tap {definition.views[0][0].tap.name!r} are of one class",
            remedy="label items of another class too, or larger ones",
        )

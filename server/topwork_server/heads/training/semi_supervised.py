"""Items without a label may help: those that a head, or a graph of neighbours, is sure of are learnt from as if they had one.

A head of a subset sees the rows of that subset and the unlabelled ones, nothing else, so other rows judge it honestly.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from topwork_server.errors import InvalidInput
from topwork_server.heads.head_types import UnlabeledUse
from topwork_server.heads.serving.span_decoding import softmax
from topwork_server.heads.training.equal_rows import components, equal_rows
from topwork_server.heads.training.neighbor_graph import NeighborPropagation
from topwork_server.jobs.progress import Report, part
from topwork_server.plugin_api.result_checks import fit_heads
from topwork_server.plugin_api.trainer import Examples, FeatureView, FittedHead, Target, Trainer
from topwork_server.types import Array

#: How sure is sure: a head's probability, and a class's share of what has spread to a row (which is smeared, and no probability:
#: on clusters that overlap, 0.9 took next to no row, and 0.7 took hundreds and helped).
SURE, SURE_SHARE = 0.9, 0.7
#: Of self-training.
ROUNDS = 3
NEIGHBORS = 20
#: Rows that a graph is made of; of more, a sample.
MOST_ROWS = 50_000
Pseudo = tuple[Array, Array]  # positions of unlabelled rows (ascending), and the class that each is taken for


def fit_semi_supervised(
    trainer: type[Trainer],
    examples: Examples,
    subsets: Sequence[Array],
    options: Any,
    seed: int,
    threads: int,
    report: Report,
    method: UnlabeledUse,
) -> tuple[list[FittedHead], list[int]]:
    """As Trainer.fit, and how many unlabelled rows each head has learnt from. InvalidInput where there are none, and for what is
    not classes."""
    _check(examples, method)
    plain = fit_heads(trainer, replace(examples, unlabelled=()), subsets, options, seed, threads, part(report, 0, 0.25))
    work = _SelfTraining(trainer, examples, options, seed, threads)
    heads, used = [], []
    for i, (subset, head) in enumerate(zip(subsets, plain, strict=True)):
        step = part(report, 0.25 + 0.75 * i / len(subsets), 0.25 + 0.75 * (i + 1) / len(subsets))
        better, count = (
            work.propagate(subset, head, step)
            if method is UnlabeledUse.LABEL_PROPAGATION
            else work.self_train(subset, head, step)
        )
        heads.append(better)
        used.append(count)
    return heads, used


def _check(examples: Examples, method: UnlabeledUse) -> None:
    if examples.target is not Target.CLASSES:
        raise InvalidInput(f"{method.value} is for classes, not for {examples.target.value}", remedy="leave `unlabelled` out")
    if not examples.unlabelled or not len(examples.unlabelled[0].rows):
        raise InvalidInput(f"there is no unlabelled item for {method.value}", remedy="leave `unlabelled` out, or write some")


class _SelfTraining:
    def __init__(self, trainer: type[Trainer], examples: Examples, options: Any, seed: int, threads: int) -> None:
        self._trainer, self._examples, self._options = trainer, examples, options
        self._seed, self._threads = seed, threads
        self._graphs: dict[int, NeighborPropagation] = {}
        self._groups = groups_of(examples)

    def self_train(self, subset: Array, head: FittedHead, report: Report) -> tuple[FittedHead, int]:
        """Self-training (Yarowsky 1995; Lee 2013): who the head is sure of teaches the next one. Each round begins anew, so that
        what was taken wrongly can be left again."""
        before: Pseudo = (np.zeros(0, np.int64), np.zeros(0, np.int64))
        for turn in range(ROUNDS):
            scores = head.scores(self._examples.unlabelled[head.view].rows)
            chosen = confident_rows(softmax(np.asarray(scores, np.float64)), SURE)
            if _equal(before, chosen):
                break
            before = chosen
            head = self._fit(subset, chosen, part(report, turn / ROUNDS, (turn + 1) / ROUNDS))
        return head, len(before[0])

    def propagate(self, subset: Array, head: FittedHead, report: Report) -> tuple[FittedHead, int]:
        """Label propagation (Zhou et al. 2004) over the view that the plain head has chosen."""
        report(0.0, "spreading labels along neighbours")
        near, among = self._neighbors(head.view)
        rows, values = self._examples.views[head.view].rows[subset], self._examples.values[subset]
        labels = np.zeros((len(subset) + len(among), len(self._examples.names)), np.float32)
        labels[np.arange(len(subset)), values] = 1
        mass = near.with_labelled(rows).spread(labels)[len(subset) :]
        total = mass.sum(axis=1, keepdims=True)
        positions, classes = confident_rows(np.divide(mass, total, out=np.zeros_like(mass), where=total > 0), SURE_SHARE)
        if not len(positions):
            return head, 0
        return self._fit(subset, (among[positions], classes), part(report, 0.5, 1)), len(positions)

    def _neighbors(self, view: int) -> tuple[NeighborPropagation, Array]:
        rows = self._examples.unlabelled[view].rows
        among = np.arange(len(rows))
        if len(rows) > MOST_ROWS:
            among = np.sort(np.random.default_rng(self._seed).choice(len(rows), MOST_ROWS, replace=False))
        if view not in self._graphs:
            self._graphs[view] = NeighborPropagation(rows[among], NEIGHBORS)
        return self._graphs[view], among

    def _fit(self, subset: Array, pseudo: Pseudo, report: Report) -> FittedHead:
        both = joined(self._examples, subset, pseudo, *self._groups)
        (head,) = fit_heads(self._trainer, both, [np.arange(both.count)], self._options, self._seed, self._threads, report)
        return head


def confident_rows(probabilities: Array, least: float) -> Pseudo:
    """Rows whose likeliest class is sure enough: of each class the surest, at most an equal share, so that none floods others."""
    classes = probabilities.argmax(axis=1)
    surety = probabilities[np.arange(len(classes)), classes]
    candidates = np.flatnonzero(surety >= least)
    share = -(-len(candidates) // max(1, probabilities.shape[1]))
    best = candidates[np.argsort(-surety[candidates], kind="stable")]
    taken = [best[classes[best] == one][:share] for one in range(probabilities.shape[1])]
    positions = np.sort(np.concatenate([np.zeros(0, np.int64), *taken]))
    return positions, classes[positions]


def groups_of(examples: Examples) -> tuple[Array, Array]:
    """Groups of the labelled rows and of the unlabelled ones, each of which is with its copies."""
    count, free = examples.count, len(examples.unlabelled[0].rows)
    places = np.arange(count + free)
    edges = [np.stack([np.unique(examples.groups, return_index=True)[1][_dense(examples.groups)], places[:count]], axis=1)]
    if len(np.unique(examples.items)) == count:  # else rows are parts of items, which often are alike
        both = zip(examples.views, examples.unlabelled, strict=True)
        edges += [np.stack([equal_rows(np.concatenate([a.rows, b.rows])), places], axis=1) for a, b in both]
    found = components(np.concatenate(edges), count + free)
    return found[:count], found[count:]


def _dense(groups: Array) -> Array:
    return np.asarray(np.unique(groups, return_inverse=True)[1])


def joined(examples: Examples, subset: Array, pseudo: Pseudo, groups: Array, free_groups: Array) -> Examples:
    """The rows of a subset, then the pseudo-labelled ones, each an item of its own; groups as `groups_of` has them."""
    positions, classes = pseudo
    mine = examples.take(subset)
    extra = np.arange(1, len(positions) + 1)
    views = (
        FeatureView(view.tap, view.pooling, np.concatenate([view.rows, free.rows[positions]]))
        for view, free in zip(mine.views, examples.unlabelled, strict=True)
    )
    return replace(
        mine,
        views=tuple(views),
        values=np.concatenate([mine.values, classes.astype(mine.values.dtype)]),
        items=np.concatenate([mine.items, mine.items.max(initial=-1) + extra]),
        groups=np.concatenate([groups[subset], free_groups[positions]]),
        unlabelled=(),
    )


def _equal(a: Pseudo, b: Pseudo) -> bool:
    return np.array_equal(a[0], b[0]) and np.array_equal(a[1], b[1])

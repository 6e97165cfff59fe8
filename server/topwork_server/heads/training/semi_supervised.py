"""Semi-supervised training: unlabeled rows that a head, or a graph of neighbors, is sure of get its label and are trained on.

A head of a subset sees the rows of that subset and the unlabeled ones, nothing else, so that other rows evaluate it honestly.
scikit-learn's SelfTrainingClassifier and LabelSpreading take its own estimators and neither an equal share of each class nor
cosine weights, and search the neighbors again for every subset.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from topwork_server.blocking_calls import Report, part
from topwork_server.errors import InvalidInput
from topwork_server.heads.head_types import UnlabeledUse
from topwork_server.heads.span_decoding import softmax
from topwork_server.heads.training.equal_rows import components, equal_rows
from topwork_server.inference.output_format import normalize
from topwork_server.plugin_api.result_checks import fit_heads
from topwork_server.plugin_api.trainer import Examples, FeatureView, FittedHead, Target, Trainer
from topwork_server.types import Array

if TYPE_CHECKING:
    from scipy.sparse import csr_array

#: The least probability of a head, and the least share of a class in the labels that spread to a row (which is no probability:
#: on clusters that overlap, 0.9 took next to no row, and 0.7 took hundreds and helped).
SURE, SURE_SHARE = 0.9, 0.7
ROUNDS = 3  # of self-training
NEIGHBORS = 20
MOST_ROWS = 50_000  # of a graph; of more unlabeled rows, it takes a sample
BLOCK = 1 << 24  # similarities that are held at once
#: The share of a node's labels that comes from its neighbors: Zhou et al. 2004 have 0.99, and 0.9 leaves labels more weight.
#: After so many steps the distance from the limit is below 0.9^60 = 0.002.
ALPHA, STEPS = 0.9, 60
Pseudo = tuple[Array, Array]  # positions of unlabeled rows (ascending), and the class that each is taken for


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
    """Fit as Trainer.fit does, and count the unlabeled rows that each head was trained on.

    InvalidInput where there are none, and for other targets than classes.
    """
    _check(examples, method)
    plain = fit_heads(trainer, replace(examples, unlabeled=()), subsets, options, seed, threads, part(report, 0, 0.25))
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
        raise InvalidInput(f"{method.value} is for classes, not for {examples.target.value}", remedy="leave `unlabeled` out")
    if not examples.unlabeled or not len(examples.unlabeled[0].rows):
        raise InvalidInput(f"there is no unlabeled item for {method.value}", remedy="leave `unlabeled` out, or write some")


class _SelfTraining:
    def __init__(self, trainer: type[Trainer], examples: Examples, options: Any, seed: int, threads: int) -> None:
        self._trainer, self._examples, self._options = trainer, examples, options
        self._seed, self._threads = seed, threads
        self._graphs: dict[int, NeighborPropagation] = {}
        self._groups = groups_of(examples)

    def self_train(self, subset: Array, head: FittedHead, report: Report) -> tuple[FittedHead, int]:
        """Self-training (Yarowsky 1995; Lee 2013): rows that the head is sure of train the next one.

        Each round chooses among all unlabeled rows, so that a wrong choice can be dropped again.
        """
        before: Pseudo = (np.zeros(0, np.int64), np.zeros(0, np.int64))
        for turn in range(ROUNDS):
            scores = head.scores(self._examples.unlabeled[head.view].rows)
            chosen = confident_rows(softmax(np.asarray(scores, np.float64)), SURE)
            if _equal(before, chosen):
                break
            before = chosen
            head = self._fit(subset, chosen, part(report, turn / ROUNDS, (turn + 1) / ROUNDS))
        return head, len(before[0])

    def propagate(self, subset: Array, head: FittedHead, report: Report) -> tuple[FittedHead, int]:
        """Propagate labels (Zhou et al. 2004) over the view that the plain head has chosen."""
        report(0.0, "spreading labels along neighbors")
        near, among = self._neighbors(head.view)
        rows, values = self._examples.views[head.view].rows[subset], self._examples.values[subset]
        labels = np.zeros((len(subset) + len(among), len(self._examples.names)), np.float32)
        labels[np.arange(len(subset)), values] = 1
        mass = near.spread(rows, labels)[len(subset) :]
        total = mass.sum(axis=1, keepdims=True)
        positions, classes = confident_rows(np.divide(mass, total, out=np.zeros_like(mass), where=total > 0), SURE_SHARE)
        if not len(positions):
            return head, 0
        return self._fit(subset, (among[positions], classes), part(report, 0.5, 1)), len(positions)

    def _neighbors(self, view: int) -> tuple[NeighborPropagation, Array]:
        rows = self._examples.unlabeled[view].rows
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
    """Select rows whose likeliest class is sure enough: the surest of each class, at most an equal share."""
    classes = probabilities.argmax(axis=1)
    surety = probabilities[np.arange(len(classes)), classes]
    candidates = np.flatnonzero(surety >= least)
    share = -(-len(candidates) // max(1, probabilities.shape[1]))
    best = candidates[np.argsort(-surety[candidates], kind="stable")]
    taken = [best[classes[best] == one][:share] for one in range(probabilities.shape[1])]
    positions = np.sort(np.concatenate([np.zeros(0, np.int64), *taken]))
    return positions, classes[positions]


def groups_of(examples: Examples) -> tuple[Array, Array]:
    """Group the labeled rows and the unlabeled ones, each with its copies."""
    count, free = examples.count, len(examples.unlabeled[0].rows)
    places = np.arange(count + free)
    edges = [np.stack([np.unique(examples.groups, return_index=True)[1][_dense(examples.groups)], places[:count]], axis=1)]
    if len(np.unique(examples.items)) == count:  # else rows are parts of items, which often are alike
        both = zip(examples.views, examples.unlabeled, strict=True)
        edges += [np.stack([equal_rows(np.concatenate([a.rows, b.rows])), places], axis=1) for a, b in both]
    found = components(np.concatenate(edges), count + free)
    return found[:count], found[count:]


def _dense(groups: Array) -> Array:
    return np.asarray(np.unique(groups, return_inverse=True)[1])


def joined(examples: Examples, subset: Array, pseudo: Pseudo, groups: Array, free_groups: Array) -> Examples:
    """Join the rows of a subset and the pseudo-labeled ones, each an item of its own; groups are those of `groups_of`."""
    positions, classes = pseudo
    mine = examples.take(subset)
    extra = np.arange(1, len(positions) + 1)
    views = (
        FeatureView(view.tap, view.pooling, np.concatenate([view.rows, free.rows[positions]]))
        for view, free in zip(mine.views, examples.unlabeled, strict=True)
    )
    counted = None if mine.weights is None else np.concatenate([mine.weights, np.ones(len(positions), np.float32)])
    return replace(
        mine,
        views=tuple(views),
        weights=counted,
        values=np.concatenate([mine.values, classes.astype(mine.values.dtype)]),
        items=np.concatenate([mine.items, mine.items.max(initial=-1) + extra]),
        groups=np.concatenate([groups[subset], free_groups[positions]]),
        unlabeled=(),
    )


def _equal(a: Pseudo, b: Pseudo) -> bool:
    return np.array_equal(a[0], b[0]) and np.array_equal(a[1], b[1])


def nearest(queries: Array, rows: Array, k: int, itself: bool = False) -> tuple[Array, Array]:
    """Find the k nearest rows of each query by cosine: similarities (q, k) float32 and positions (q, k) int64, in no order.

    Both have unit length. `itself`: the queries are the rows, and none is its own neighbor. Fewer rows give fewer than k.
    """
    k = max(0, min(k, len(rows) - itself))
    found, positions = np.empty((len(queries), k), np.float32), np.empty((len(queries), k), np.int64)
    step = max(1, BLOCK // max(1, len(rows)))
    for start in range(0, len(queries) if k else 0, step):
        block = queries[start : start + step] @ rows.T
        if itself:
            block[np.arange(len(block)), start + np.arange(len(block))] = -np.inf
        found[start : start + step], positions[start : start + step] = _largest(block, k)
    return found, positions


def _largest(similar: Array, k: int) -> tuple[Array, Array]:
    """Select the k largest of each row, and their columns; (rows, k) both."""
    if not k:
        return similar[:, :0], np.empty((len(similar), 0), np.int64)
    best = np.argpartition(-similar, k - 1, axis=1)[:, :k]
    return np.take_along_axis(similar, best, axis=1), best


class NeighborPropagation:
    """A graph of unlabeled rows, made once; the labeled rows of each subset join it."""

    def __init__(self, rows: Array, k: int) -> None:
        self.rows, self.k = normalize(rows), k
        self._near = nearest(self.rows, self.rows, k, itself=True)

    def spread(self, rows: Array, labels: Array) -> Array:
        """Spread labels (labeled + unlabeled rows, classes) float32: F of F = alpha S F + (1 - alpha) Y (Zhou et al. 2004,
        section 2)."""
        graph, found = self._graph(normalize(rows)), labels
        for _ in range(STEPS):
            found = ALPHA * (graph @ found) + (1 - ALPHA) * labels
        return found

    def _graph(self, mine: Array) -> csr_array:
        """Make S = D^-1/2 W D^-1/2, where W has the cosine of each row and its k nearest, both ways, none below 0."""
        from scipy.sparse import csr_array, diags_array

        count, nodes = len(mine), len(mine) + len(self.rows)
        ours = nearest(mine, np.concatenate([mine, self.rows]), self.k + 1)  # itself among them
        to_mine = nearest(self.rows, mine, self.k)
        similar = np.concatenate([self._near[0], to_mine[0]], axis=1)
        theirs, best = _largest(similar, min(self.k, similar.shape[1]))
        places = np.take_along_axis(np.concatenate([self._near[1] + count, to_mine[1]], axis=1), best, axis=1)
        sources = np.concatenate([_repeated(0, ours[1]), _repeated(count, places)])
        ends, cosines = np.concatenate([ours[1].ravel(), places.ravel()]), np.concatenate([ours[0].ravel(), theirs.ravel()])
        kept = (sources != ends) & (cosines > 0)
        weights = csr_array((cosines[kept], (sources[kept], ends[kept])), (nodes, nodes))
        weights = weights.maximum(weights.T)
        degrees = np.maximum(weights.sum(axis=0, dtype=np.float64), np.finfo(np.float32).tiny)
        scale = diags_array(1 / np.sqrt(degrees))
        return csr_array(scale @ weights @ scale, dtype=np.float32)


def _repeated(first: int, places: Array) -> Array:
    return np.repeat(first + np.arange(len(places)), places.shape[1])

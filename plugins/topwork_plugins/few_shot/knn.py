"""The nearest examples vote, weighted by exp(cosine / T), as Wu et al. (2018, section 3.4) and DINO (Caron et al. 2021) do."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import product
from typing import Any

import numpy as np
from topwork_server import Array, Examples, FittedHead, InvalidInput, Report, Target, Trainer, Trial

from topwork_plugins.few_shot.cosine import MEASURE, best_trial, check_not_empty, check_target, log_likelihood, unit
from topwork_plugins.few_shot.knn_head import BLOCK, KnnHead, Votes, nearest
from topwork_plugins.few_shot.options import KnnOptions

NEIGHBORS = (10, 20, 100, 200)
#: 0.07 is that of Wu et al. and DINO. Cosines of unit rows from their centre are spread more, those of rows that all point
#: one way (after a ReLU, say) less.
TEMPERATURES = (0.02, 0.07, 0.2)
DEFAULT_NEIGHBORS, DEFAULT_TEMPERATURE = 10, 0.07
#: Rows that are judged by the others, at random: enough to tell one k from another.
JUDGES = 2000
#: A head holds its examples, and a graph may not pass 2 GB.
MOST_BYTES = 1 << 30


class KnnTrainer(Trainer):
    options = KnnOptions
    targets = frozenset({Target.CLASSES, Target.LABELS, Target.NUMBERS})

    @classmethod
    def fit(
        cls, examples: Examples, subsets: Sequence[Array], options: KnnOptions, seed: int, threads: int, report: Report
    ) -> list[FittedHead]:
        check_target(examples, cls.targets, "knn")
        heads: list[FittedHead] = []
        for done, subset in enumerate(subsets):
            check_not_empty(subset, "knn")
            report(done / len(subsets), f"neighbours among {len(subset)} rows")
            heads.append(_fit(examples.take(subset), options, seed))
        report(1.0, "neighbours are found")
        return heads


def _fit(examples: Examples, options: KnnOptions, seed: int) -> KnnHead:
    _check_size(examples)
    votes, judges = Votes.from_examples(examples), _judges(examples, seed)
    tried: list[tuple[int, Trial]] = []
    for view, centred in product(range(len(examples.views)), (True, False) if options.centre is None else (options.centre,)):
        tried += [(view, trial) for trial in _trials(examples, votes, view, centred, options, judges)]
    trials = [trial for _, trial in tried]
    if not trials:
        return _head(examples, votes, 0, _default_settings(examples, options))
    chosen = best_trial(trials)
    head = _head(examples, votes, tried[chosen][0], trials[chosen].settings)
    head.trials, head.measure = trials, "R2 of examples that were left out" if examples.target is Target.NUMBERS else MEASURE
    return head


def _check_size(examples: Examples) -> None:
    rows, dim = examples.count, max(view.rows.shape[1] for view in examples.views)
    if rows * dim * 4 > MOST_BYTES:
        raise InvalidInput(
            f"knn keeps its examples, and {rows} rows of {dim} numbers are more than {MOST_BYTES >> 30} GB",
            remedy="learn from fewer (`where`), or train another kind",
        )


def _judges(examples: Examples, seed: int) -> Array:
    """Rows that others can judge: there is another group, and of CLASSES another group with that class."""
    rows = np.random.default_rng(seed).permutation(examples.count)
    if len(np.unique(examples.groups)) < 2:
        return rows[:0]
    if examples.target is Target.CLASSES:
        pairs = np.unique(np.stack([examples.values, examples.groups]), axis=1)
        rows = rows[np.bincount(pairs[0], minlength=len(examples.names))[examples.values[rows]] > 1]
    return np.sort(rows[:JUDGES])


def _trials(examples: Examples, votes: Votes, view: int, centred: bool, options: KnnOptions, judges: Array) -> Iterator[Trial]:
    if not len(judges):
        return
    seen = examples.views[view]
    ks = sorted({min(k, examples.count - 1) for k in (NEIGHBORS if options.k is None else (options.k,))})
    similar, positions = _nearest_of_other_groups(
        unit(seen.rows, _centre(seen.rows, centred)), examples.groups, judges, ks[-1] + 1
    )
    for k, temperature in product(ks, TEMPERATURES if options.temperature is None else (options.temperature,)):
        scores = votes.scores(similar, positions, k, temperature)
        settings = {"k": k, "temperature": temperature, "centre": centred}
        yield Trial(seen.tap, seen.pooling, settings, _score(examples.target, scores, examples.values[judges]))


def _nearest_of_other_groups(rows: Array, groups: Array, judges: Array, count: int) -> tuple[Array, Array]:
    """Cosines and positions of the `count` nearest of each judge among the rows of other groups; -inf where there are no more."""
    found = []
    step = max(1, BLOCK // len(rows))
    for start in range(0, len(judges), step):
        block = judges[start : start + step]
        cosines = rows[block] @ rows.T
        cosines[groups[block][:, None] == groups] = -np.inf
        found.append(nearest(cosines, count))
    similar, positions = (np.concatenate(parts) for parts in zip(*found, strict=True))
    return similar.astype(np.float64), positions


def _score(target: Target, scores: Array, values: Array) -> float:
    if target is not Target.NUMBERS:
        return log_likelihood(target, scores, values)
    spread = float(values.var(dtype=np.float64))
    return 1 - float(((scores - values) ** 2).mean()) / spread if spread else 0.0


def _default_settings(examples: Examples, options: KnnOptions) -> dict[str, Any]:
    return {
        "k": min(options.k or DEFAULT_NEIGHBORS, examples.count),
        "temperature": options.temperature or DEFAULT_TEMPERATURE,
        "centre": options.centre is not False,
    }


def _centre(rows: Array, centred: bool) -> Array:
    return np.asarray(rows.mean(axis=0, dtype=np.float64) if centred else np.zeros(rows.shape[1]))


def _head(examples: Examples, votes: Votes, view: int, settings: Mapping[str, Any]) -> KnnHead:
    rows = examples.views[view].rows
    return KnnHead(view, _centre(rows, bool(settings["centre"])), rows, votes, settings)

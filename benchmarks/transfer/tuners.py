"""Ways to learn from the same labels, judged on the same items: a LoRA adapter beside full fine-tuning and a linear head, and
contrastive tuning beside a linear head at few labels a class.

In process, as fine_tuning.py, on its film reviews.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
from topwork_server.plugin_api.options import parse
from topwork_server.plugin_api.plugin_registry import PluginRegistry
from topwork_server.plugin_api.trainer import Examples, FeatureView, FineTuneDataset, Trainer
from topwork_server.types import Array

from benchmarks.transfer.fine_tuning import TRAIN, USUAL, VALIDATION, Experiment

LINEAR = "linear"
#: All ways that tune, with all labels: kind and options.
ADAPTERS: Mapping[str, tuple[str, Mapping[str, Any]]] = {
    "fine-tune": ("fine-tune", USUAL),
    "fine-tune, LoRA": ("fine-tune", {**USUAL, "adapter": "lora"}),
}
FEW: Mapping[str, tuple[str, Mapping[str, Any]]] = {"contrastive": ("contrastive", {})}
SIZES = (1, 2, 4, 8, 16)  # labels a class
DRAWS = 2000


@dataclass(frozen=True)
class Judged:
    """The test items that a way had right, (items,) bool, of `size` labels a class (0: all). `chosen` is what its head says."""

    way: str
    size: int
    seed: int
    right: Array
    chosen: Mapping[str, Any]


def runs(
    experiment: Experiment,
    plugins: PluginRegistry,
    ways: Mapping[str, tuple[str, Mapping[str, Any]]],
    sizes: Sequence[int],
    seeds: Sequence[int],
    say: Callable[[str], None],
) -> Iterator[Judged]:
    """Judge a linear head and each way, seed by seed, so that a run that is stopped has whole rounds."""
    for seed in seeds:
        for size in sizes:
            for way, (kind, options) in ways.items():
                say(f"seed {seed}, {size or 'all'} labels a class: {way}")
                dataset, tuned = experiment.tune(kind, seed, options, choose=partial(_few, size=size, seed=seed))
                if way == next(iter(ways)):
                    yield Judged(LINEAR, size, seed, _linear(plugins, dataset, experiment.rows(dataset), seed), {})
                right = tuned.test_scores.argmax(1) == dataset.values[dataset.test]
                yield Judged(way, size, seed, right, tuned.head.chosen)


def _few(dataset: FineTuneDataset, size: int, seed: int) -> FineTuneDataset:
    """Keep so many items of each class to learn from, and none to validate on."""
    if not size:
        return dataset
    mixed = np.random.default_rng(seed).permutation(TRAIN + VALIDATION)
    kept = [mixed[dataset.values[mixed] == c][:size] for c in range(len(dataset.names))]
    return replace(dataset, train=np.sort(np.concatenate(kept)), validation=np.zeros(0, np.int64))


def _linear(plugins: PluginRegistry, dataset: FineTuneDataset, rows: Array, seed: int) -> Array:
    """Fit a linear head on frozen rows to all items with a label, those that told others when to stop too."""
    trainer = plugins.trainer(LINEAR).trainer
    assert issubclass(trainer, Trainer), "it learns from rows"
    learned = np.concatenate([dataset.train, dataset.validation])
    view, places = FeatureView(dataset.tap.name, dataset.pooling, rows[learned]), np.arange(len(learned))
    examples = Examples((view,), dataset.target, dataset.names, dataset.values[learned], places, places)
    [head] = trainer.fit(examples, [places], parse(trainer.options, {}, LINEAR), seed, 1, lambda *_: None)
    return np.asarray(head.scores(rows[dataset.test]).argmax(1) == dataset.values[dataset.test])


def summary(found: Sequence[Judged]) -> list[dict[str, Any]]:
    """Summarize by size and way: mean accuracy over seeds with the least and the most, and the difference to the linear head of
    the same seed and items, with a 95% interval of a bootstrap over seeds and, within each, its items."""
    out = []
    for size, way in dict.fromkeys((one.size, one.way) for one in found):
        mine = {one.seed: one for one in found if (one.size, one.way) == (size, way)}
        linear = {one.seed: one.right for one in found if (one.size, one.way) == (size, LINEAR)}
        values = [float(one.right.mean()) for one in mine.values()]
        apart = [one.right.astype(float) - linear[seed] for seed, one in mine.items()]
        low, high = _interval(apart)
        line: dict[str, Any] = {"labels a class": size or "all", "way": way, "seeds": len(mine), "mean": float(np.mean(values))}
        line |= {"least": min(values), "most": max(values), "to linear": float(np.mean(apart)), "low": low, "high": high}
        sizes = {key: value for one in mine.values() for key, value in one.chosen.items() if key.endswith("_bytes")}
        out.append({key: round(float(v), 4) if isinstance(v, float) else v for key, v in line.items()} | sizes)
    return out


def _interval(apart: Sequence[Array]) -> tuple[float, float]:
    rng, means = np.random.default_rng(0), []
    for _ in range(DRAWS):
        drawn = [apart[i] for i in rng.integers(0, len(apart), len(apart))]
        means.append(np.mean([one[rng.integers(0, len(one), len(one))].mean() for one in drawn]))
    low, high = np.quantile(means, [0.025, 0.975])
    return float(low), float(high)

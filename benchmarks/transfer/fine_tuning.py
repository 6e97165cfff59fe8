"""Fine-tuning on a small text task: how many blocks to freeze; Adam's bias correction, re-initialized blocks and more epochs
(Mosbach et al. 2021, Zhang et al. 2021); and how many steps a pretrained trunk saves.

In process, by the plugin's own tuner: what a server does in its job, without the export.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from topwork_server.models.artifacts import MODEL
from topwork_server.models.catalog import Catalog
from topwork_server.plugin_api import sources
from topwork_server.plugin_api.options import parse
from topwork_server.plugin_api.plugin_registry import PluginRegistry
from topwork_server.plugin_api.trainer import FineTuneDataset, FineTuner, FineTuneResult, Target
from topwork_server.runtime.export import open_trunk
from topwork_server.runtime.session import Session
from topwork_server.types import Array, TextItem

from benchmarks.transfer.datasets import Dataset
from benchmarks.transfer.random_baseline import random_encoder

ENCODER, TAP = "all-minilm-l6-v2", "pooled"
TRAIN, VALIDATION, TEST = 200, 100, 400
#: Few epochs, as BERT's authors fine-tuned; all of them are run.
USUAL: Mapping[str, Any] = {"epochs": 6, "patience": 0}
#: Of the 7 blocks: the embeddings and six layers. With all of them frozen, only the output layer learns.
FROZEN = (2, 4, 6, 7)
WAYS: Mapping[str, Mapping[str, Any]] = {
    "as it is": {},
    "no bias correction": {"bias_correction": False},
    "top 2 blocks re-initialized": {"reinitialize": 2},
    "three times the epochs": {"epochs": 18},
}


@dataclass(frozen=True)
class Run:
    """A fine-tuning: accuracy on `TEST` items, and the validation score after each epoch with the steps until then."""

    way: str
    seed: int
    accuracy: float
    steps: tuple[int, ...]
    scores: tuple[float, ...]


class Experiment:
    def __init__(self, plugins: PluginRegistry, catalog: Catalog, data: Dataset, threads: int) -> None:
        self._plugins, self._catalog, self._threads = plugins, catalog, threads
        rated = [(text, one["side"]) for text, one in zip(data.items, data.metadata, strict=True) if one["side"]]
        self._texts, sides = zip(*rated, strict=True)
        self._values = np.array([side == "good" for side in sides], np.int64)

    def fine_tune(self, way: str, seed: int, options: Mapping[str, Any], encoder: str = ENCODER) -> Run:
        dataset, tuned = self.tune("fine-tune", seed, {**USUAL, **options}, encoder)
        return _run(way, seed, dataset, tuned)

    def tune(
        self,
        kind: str,
        seed: int,
        options: Mapping[str, Any],
        encoder: str = ENCODER,
        choose: Callable[[FineTuneDataset], FineTuneDataset] = lambda dataset: dataset,
    ) -> tuple[FineTuneDataset, FineTuneResult]:
        """Tune by a kind of trainer; `choose` may take fewer of the items to learn from."""
        trainer = self._plugins.trainer(kind).trainer
        assert issubclass(trainer, FineTuner), "it learns the trunk"
        spec = self._catalog.spec(encoder)
        with tempfile.TemporaryDirectory() as scratch:
            assets = sources.fetch(self._catalog.source(encoder), self._catalog.home, spec.sha256)
            trunk = open_trunk(spec, assets, Path(scratch))
            tap = next(tap for tap in trunk.taps if tap.name == TAP)
            dataset = choose(self._dataset(seed, spec.encoder.options(), tap))
            chosen = parse(trainer.options, options, kind)
            tuned = trainer.tune(
                trunk, spec.encoder(spec, Path(scratch)), dataset, chosen, seed, self._threads, Path(scratch), lambda *_: None
            )
        return dataset, tuned

    def rows(self, dataset: FineTuneDataset, encoder: str = ENCODER) -> Array:
        """Compute the frozen rows of all items, (items, dim) float32, by the exported graph."""
        entry = self._catalog.entry(encoder)
        folder = entry.folder or self._catalog.export(encoder)
        own, session = entry.spec.encoder(entry.spec, folder), Session(folder / MODEL)
        samples = [sample for item in dataset.items for sample in own.preprocess(item, dataset.options)]
        return np.concatenate([session.run([TAP], own.collate([sample]))[0] for sample in samples])

    def _dataset(self, seed: int, options: Any, tap: Any) -> FineTuneDataset:
        """Other items for each seed: the spread is that of the whole experiment."""
        chosen = np.random.default_rng(seed).permutation(len(self._texts))[: TRAIN + VALIDATION + TEST]
        train, validation, test = np.split(np.arange(len(chosen)), [TRAIN, TRAIN + VALIDATION])
        items = [TextItem(self._texts[i]) for i in chosen]
        counts = np.ones(len(items), np.int64)
        return FineTuneDataset(
            items, options, tap, "row", Target.CLASSES, ("bad", "good"), self._values[chosen], counts, train, validation, test
        )


def _run(way: str, seed: int, dataset: FineTuneDataset, tuned: FineTuneResult) -> Run:
    right = tuned.test_scores.argmax(1) == dataset.values[dataset.test]
    history = [entry for entry in tuned.history if entry.get("step") is not None]
    steps, scores = [int(entry["step"]) for entry in history], [round(float(entry["score"]), 4) for entry in history]
    return Run(way, seed, float(right.mean()), tuple(steps), tuple(scores))


def runs(experiment: Experiment, catalog: Catalog, seeds: Sequence[int], say: Callable[[str], None]) -> Iterator[Run]:
    """List all experiments, seed by seed, so that a run that is stopped has whole rounds."""
    ways: dict[str, tuple[Mapping[str, Any], str]] = {name: (options, ENCODER) for name, options in WAYS.items()}
    ways |= {f"{count} blocks frozen": ({"frozen_blocks": count}, ENCODER) for count in FROZEN}
    ways["from scratch"] = ({}, random_encoder(catalog, ENCODER))
    for seed in seeds:
        for way, (options, encoder) in ways.items():
            say(f"fine-tuning, seed {seed}: {way}")
            yield experiment.fine_tune(way, seed, options, encoder)


def summary(found: Sequence[Run]) -> list[dict[str, Any]]:
    """Summarize by way: mean and spread of the accuracy over the seeds, and the steps to within a point of the best pretrained
    run."""
    out = []
    for way in dict.fromkeys(run.way for run in found):
        mine = [run for run in found if run.way == way]
        values = np.array([run.accuracy for run in mine])
        out.append(
            {
                "way": way,
                "seeds": len(mine),
                "mean": round(float(values.mean()), 4),
                "deviation": round(float(values.std(ddof=1)), 4) if len(values) > 1 else None,
                "least": round(float(values.min()), 4),
                "most": round(float(values.max()), 4),
                "best validation": [max(run.scores, default=0.0) for run in mine],
                "steps to it": [run.steps[int(np.argmax(run.scores))] if run.scores else 0 for run in mine],
            }
        )
    return out

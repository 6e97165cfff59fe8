"""Heads over real sets, with toy encoders and trainers, and jobs that run in this process, where a test holds or fails them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import sets_harness
import toys_trainers
from local_jobs import LocalJobs
from passes import of_encoder, of_set
from topwork.heads import MetricValue
from topwork.report import Report
from topwork_server import Examples, FineTuner, Target, TrainerSpec
from topwork_server.errors import InvalidInput
from topwork_server.feature_sets.feature_set import FeatureSet
from topwork_server.feature_sets.set_types import Column, ColumnType, ItemBatch, SetDefinition
from topwork_server.features import TapRows
from topwork_server.heads.head_manager import HeadManager
from topwork_server.heads.head_store import HeadStore
from topwork_server.heads.head_types import Head, HeadDefinition, definition_of
from topwork_server.heads.pooling import dim_after
from topwork_server.models.head_graph import served_graph
from topwork_server.plugin_api.plugin_registry import Registered, RegisteredTrainer
from topwork_server.plugin_api.trainer import FeatureView, FittedHead
from topwork_server.types import FingerprintedTap, Item, Modality, TextItem

CLASSES = {"vowels": "aeiou", "plosives": "bdgkpt", "others": "fhjlmn"}


def words(count: int, seed: int = 0) -> tuple[list[str], list[str]]:
    """Texts whose class is what most of their letters are, and their classes."""
    rng = np.random.default_rng(seed)
    names = [list(CLASSES)[i % len(CLASSES)] for i in range(count)]
    return ["".join(rng.choice([*CLASSES[name]], 12)) for name in names], names


class Tunes(FineTuner):
    """A kind that asks for raw inputs; it is never run."""

    targets = frozenset({Target.CLASSES})


class Describes(toys_trainers.NearestMean):
    """A kind that asks for descriptions; here it learns as the toy does."""


@dataclass
class Trainers:
    """Plugins of three kinds."""

    specs: list[TrainerSpec] = field(
        default_factory=lambda: [
            toys_trainers.spec("linear"),
            TrainerSpec("tunes", Tunes),
            TrainerSpec("describes", Describes, min_per_class=1, needs_descriptions=True),
        ]
    )

    def encoders(self) -> dict[str, Registered]:
        return {}

    def trainers(self) -> dict[str, RegisteredTrainer]:
        return {spec.kind: RegisteredTrainer(spec, "tests", "tests 1.0") for spec in self.specs}

    def trainer(self, kind: str) -> TrainerSpec:
        if kind not in self.trainers():
            raise InvalidInput(f"there is no trainer {kind!r}", remedy=f"there are {', '.join(self.trainers())}")
        return self.trainers()[kind].spec


def learn(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """A training without judging: the toy learns from all items of the first view."""
    definition = definition_of(arguments["definition"])
    info, pooling = definition.views[0]
    rows, names, values = labeled(definition)
    view = FeatureView(info.tap.name, pooling, rows)
    items = np.arange(len(rows))
    examples = Examples((view,), Target.CLASSES, names, values, items, items)
    [fitted] = toys_trainers.NearestMean.fit(examples, [items], toys_trainers.Shrinking(), 0, 1, lambda fraction, message: None)
    head = made(definition, fitted, names, len(rows))
    graph = served_graph(fitted.graph(), Target.CLASSES, head.temperature)
    HeadStore(Path(arguments["home"]) / "heads").publish(head, graph, report_of(head, len(rows)))
    return {"head": head.name}


def labeled(definition: HeadDefinition) -> tuple[Any, tuple[str, ...], Any]:
    """Of the set's pinned version, through Lance alone, as a job reads it."""
    import lance

    column = f"features_{definition.views[0][0].tap.name}"
    table = lance.dataset(definition.path, version=definition.version).to_table(columns=[column, definition.target])
    table = table.filter(table[definition.target].is_valid())
    names, values = np.unique(table[definition.target].to_pylist(), return_inverse=True)
    return np.array(table[column].to_pylist(), np.float32), tuple(names.tolist()), values


def made(definition: HeadDefinition, fitted: FittedHead, names: Sequence[str], labeled: int) -> Head:
    info, pooling = definition.views[0]
    return Head(
        name=definition.name,
        definition=definition,
        task=definition.task,
        encoder=definition.encoder,
        encoder_options=definition.encoder_options,
        tap=info,
        pooling=pooling,
        dim=dim_after(pooling, info.tap.dim),
        names=tuple(names),
        created=time.time(),
        server_version="1.2.3",
        kind=definition.kind,
        chosen=dict(fitted.chosen),
        temperature=1.5,
        metrics=(MetricValue("accuracy", 0.9, 0.8, 0.95),),
        baseline=(MetricValue("accuracy", 0.3, 0.2, 0.4),),
        estimate=f"5-fold cross-validation over {labeled} items",
        labeled=labeled,
        warnings=("few items",),
        tuned=str(definition.options.get("tuned", "")),
    )


def report_of(head: Head, items: int) -> Report:
    definition = head.definition
    assert definition is not None
    return Report(
        head=head.name,
        task=head.task,
        kind=head.kind,
        set=definition.set,
        version=definition.version,
        target=definition.target,
        encoder=head.encoder,
        tap=head.tap.tap.name,
        pooling=head.pooling,
        fingerprint=head.tap.fingerprint,
        names=head.names,
        estimate=head.estimate,
        items=items,
        labeled=items,
        unlabeled=0,
        metrics=head.metrics,
        baseline=head.baseline,
    )


def trainings() -> LocalJobs:
    """Jobs that train with the toys; a probe finds nothing."""
    return LocalJobs(lambda kind, arguments: learn(arguments) if kind != "probe" else {"rows": []})


@dataclass
class HeadsHarness(sets_harness.SetsHarness):
    """The parts of a server that train and keep heads, without the wire."""

    jobs: Any = None
    heads: Any = None
    trainers: Any = None

    def taps(self, *names: str) -> tuple[FingerprintedTap, ...]:
        manifest = self.catalog.entry("letters").manifest
        assert manifest is not None
        return tuple(info for name in names for info in manifest.taps if info.tap.name == name)

    def make(self, name: str = "birds", taps: Sequence[str] = ("mean",), **more: Any) -> FeatureSet:
        return self.sets.create(SetDefinition(name, self.taps(*taps), "letters", modalities=(Modality.TEXT,), **more))  # type: ignore[arg-type]

    async def fill(self, name: str = "birds", count: int = 30, taps: Sequence[str] = ("mean",), **more: Any) -> FeatureSet:
        """A set of `words`, with their class as `label`, their number as `number` and a `group`."""
        feature_set, (texts, classes) = self.make(name, taps, **more), words(count)
        numbers = list(range(count))
        await self.write(feature_set, texts, taps, label=classes, number=numbers, group=[f"g{i // 2}" for i in numbers])
        return feature_set

    async def write(self, feature_set: FeatureSet, texts: Sequence[str], taps: Sequence[str] = ("mean",), **columns: Any) -> None:
        features = await self.engine.embed(
            sets_harness.EmbedParams(of_encoder("letters"), tuple(taps)), [TextItem(text) for text in texts]
        )
        metadata = tuple(Column(name, _type(values), values) for name, values in columns.items())
        inputs: list[Item | None] = [TextItem(text) for text in texts] if feature_set.definition.keep_inputs else []
        block = ItemBatch([f"i{text}" for text in texts], features.taps, metadata, inputs=inputs)
        await asyncio.wrap_future(feature_set.write(block))

    async def write_vectors(self, name: str, count: int, **columns: Any) -> None:
        """Random rows of the set's first tap."""
        feature_set = self.sets.get(of_set(name))
        info = feature_set.definition.taps[0]
        rows = np.random.default_rng(0).normal(size=(count, info.tap.dim)).astype(np.float32)
        metadata = tuple(Column(name, _type(values), values) for name, values in columns.items())
        block = ItemBatch([f"v{i}" for i in range(count)], (TapRows(info, rows, np.ones(count, np.int64)),), metadata)
        await asyncio.wrap_future(feature_set.write(block))

    def pins(self) -> dict[str, int]:
        """Over all sets: of each pin the version."""
        infos = [info for name in self.sets.names() for info in self.sets.get(of_set(name)).versions()]
        return {pin: info.version for info in infos for pin in info.pins}


def _type(values: Sequence[Any]) -> ColumnType:
    first = next((value for value in values if value is not None), "")
    types = {str: ColumnType.STRING, int: ColumnType.INT, float: ColumnType.FLOAT, list: ColumnType.STRINGS}
    return types[type(first)]


@asynccontextmanager
async def open_heads(home: Path, jobs: Any = None, trainers: Any = None, **settings: Any) -> AsyncIterator[HeadsHarness]:
    async with sets_harness.composed(home, **settings) as parts:
        jobs = jobs or trainings()
        made = HeadsHarness(**vars(parts), jobs=jobs, trainers=trainers or Trainers())
        made.heads = HeadManager(home, parts.sets, jobs, made.trainers, parts.engine, parts.catalog, 1)  # type: ignore[arg-type]
        try:
            yield made
        finally:
            await jobs.close()
            await made.heads.close()

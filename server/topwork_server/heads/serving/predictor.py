"""Predictions of heads for items, vectors or stored items, with one pass of each trunk for all its heads."""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict
from collections.abc import Callable, Hashable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np

from topwork_server.access.passes import HeadPass, encoder_pass, require
from topwork_server.errors import InvalidInput, NotFound, NotReady, TopworkError
from topwork_server.feature_sets.feature_set import FeatureSet
from topwork_server.feature_sets.set_types import Selection
from topwork_server.features import EmbedResult, TapRows
from topwork_server.heads.head_store import HeadStore, StoredHead
from topwork_server.heads.head_types import Head, Task
from topwork_server.heads.pair_features import pair_sides, split_sides
from topwork_server.heads.pooling import TOWERS, combine_rows, dim_after
from topwork_server.heads.pretrained import pretrained_head
from topwork_server.heads.serving.caution import Caution
from topwork_server.heads.serving.head_cache import HeadCache, OpenedHead
from topwork_server.heads.serving.head_decoding import USUAL_BOXES, BoxQuery, RunTypicality, decode_output, output_of_pooled
from topwork_server.heads.serving.head_output import HeadOutput, concat_outputs
from topwork_server.heads.serving.head_rows import (
    FindSet,
    SetsOfHeads,
    TrunkPass,
    check_fingerprint,
    no_other_set,
    passes_of,
    rows_of_passes,
)
from topwork_server.heads.serving.prediction_counts import PredictionCounts
from topwork_server.inference.embed_statistics import EmbedStatistics
from topwork_server.inference.engine import EmbedParams, Engine
from topwork_server.models.catalog import Catalog
from topwork_server.types import Array, Item, Priority, Timings, check_modality

#: Stored items whose rows are in memory at a time: a tap of cells has 90 KB per item.
STORED = 1000
NO_CAUTION = Caution()


@dataclass(frozen=True)
class PredictParams:
    """Settings of a prediction.

    `options` of the encoder: None means those of each head's own training. `features`: return the features too. `scores`:
    return those of classes too. The others are those of EmbedParams. `boxes`: which ones detectors return.
    """

    options: Mapping[str, Any] | None = None
    deadline: float | None = None
    wait: bool = False
    skip_bad_items: bool = False
    features: bool = False
    scores: bool = False
    caution: Caution = NO_CAUTION
    client: Hashable = None
    priority: Priority = Priority.NORMAL
    boxes: BoxQuery = USUAL_BOXES


#: Of a request that sets nothing.
USUAL = PredictParams()


@dataclass(frozen=True)
class PredictionResult:
    """The outputs of the heads, in the order of their names.

    `features`: of each trunk, if requested. Notes and failures are by item; an item may have failed for some heads only.
    `cost`: of the items, in the unit of the trunks, of texts tokens.
    """

    outputs: tuple[HeadOutput, ...]
    features: tuple[EmbedResult, ...] = ()
    notes: Mapping[int, Mapping[str, int]] = field(default_factory=dict)
    failures: Mapping[int, TopworkError] = field(default_factory=dict)
    timings: Timings = field(default_factory=Timings)
    cost: int = 0


class Predictor:
    """Runs heads, and counts what they predict of items and vectors; stored items are mostly those that they learned from.

    It is used on the event loop; blocking work runs in threads, and each head's graph uses `threads` more.
    """

    def __init__(self, engine: Engine, catalog: Catalog, store: HeadStore, threads: int = 1) -> None:
        self._engine, self._catalog, self._store = engine, catalog, store
        self.cache = HeadCache(threads)
        self.counts = PredictionCounts()
        #: By the name of the head: requests with items.
        self.statistics: defaultdict[str, EmbedStatistics] = defaultdict(EmbedStatistics)

    async def predict(self, names: Sequence[HeadPass], ask: PredictParams, items: Sequence[Item]) -> PredictionResult:
        """Predict for items. NotReady where a trunk has changed since training; InvalidInput names a bad item."""
        began = time.monotonic()
        opened = await asyncio.to_thread(self._opened_for, names, items, ask.caution)
        counted = [self.statistics[name] for name in names]
        with ExitStack() as requests:
            for one in counted:
                requests.enter_context(one.request())
            result = await self._predict(opened, ask, items)
        for output in result.outputs:
            self.counts.add(output)
        for one in counted:
            one.add(result, len(items), time.monotonic() - began)
        return result

    async def _predict(self, opened: Sequence[OpenedHead], ask: PredictParams, items: Sequence[Item]) -> PredictionResult:
        features: list[EmbedResult] = []
        passes = _passes(opened, ask)
        for key, asked in passes.items():
            features.append(await (_embed_sides(self._engine, asked, items) if key.towers else self._engine.embed(asked, items)))
        rows = partial(rows_of_passes, dict(zip(passes, features, strict=True)), ask.options)
        found = await asyncio.to_thread(_outputs_of, opened, rows, ask)
        return PredictionResult(
            outputs=tuple(found[one.head.name] for one in opened),
            features=tuple(features) if ask.features else (),
            notes=_notes(features),
            failures=_failures(features, found.values()),
            timings=Timings.sum(one.timings for one in features),
            cost=sum(one.cost for one in features),
        )

    async def predict_vectors(
        self, names: Sequence[HeadPass], rows: Array, fingerprint: str = "", ask: PredictParams = USUAL
    ) -> PredictionResult:
        """Predict for pooled (n, dim) rows of the heads' tap; each row is an item."""
        return await asyncio.to_thread(self._predict_vectors, names, np.asarray(rows), fingerprint, ask)

    async def predict_stored(
        self,
        names: Sequence[HeadPass],
        feature_set: FeatureSet,
        ids: Sequence[str],
        ask: PredictParams = USUAL,
        find: FindSet = no_other_set,
    ) -> PredictionResult:
        """Predict for items of a set, which must have the heads' taps. Of a head on several encoders, what the set has not is
        read from those that it learned from, by `find`. NotFound names an unknown id."""
        opened = await asyncio.to_thread(self._opened, names, ask.caution)
        towers = [name for name, one in zip(names, opened, strict=True) if one.head.pooling in TOWERS]
        others = [one for one in opened if one.head.pooling not in TOWERS]
        sets = SetsOfHeads(feature_set, find)
        found = await asyncio.to_thread(_predict_stored, others, sets, ids, ask) if others else ()
        pairs = await self._predict_stored_pairs(towers, feature_set, ids, ask) if towers else ()
        by_name = {one.head.name: one for one in (*found, *pairs)}
        return PredictionResult(tuple(by_name[name] for name in names), failures=_failures((), (*found, *pairs)))

    async def _predict_stored_pairs(
        self, names: Sequence[HeadPass], feature_set: FeatureSet, ids: Sequence[str], ask: PredictParams
    ) -> Sequence[HeadOutput]:
        """Predict for stored pairs; their texts are encoded now, each separately."""
        parts, ask = [], PredictParams(wait=True, caution=ask.caution, skip_bad_items=ask.skip_bad_items)
        for start in range(0, max(1, len(ids)), STORED):
            try:
                items = await asyncio.to_thread(_kept_inputs, feature_set, ids[start : start + STORED], names[0])
                opened = await asyncio.to_thread(self._opened_for, names, items, ask.caution)
                parts.append((await self._predict(opened, ask, items)).outputs)
            except TopworkError as error:
                raise error if error.item is None else error.at(start + error.item) from None
        return [concat_outputs(of_one) for of_one in zip(*parts, strict=True)]

    def find(self, name: HeadPass) -> StoredHead:
        """Find a trained head, or ENCODER/NAME."""
        require(name, HeadPass)
        return pretrained_head(self._catalog, name) if "/" in name else self._store.find(name)

    def find_predicting(self, name: HeadPass) -> StoredHead:
        """`find` a head that predicts something of items. InvalidInput where it does not."""
        stored = self.find(name)
        if stored.head.task is Task.FILL:
            raise InvalidInput(
                f"the head {name!r} gives words for the gaps of a text, and no prediction of an item",
                remedy=f"ask `Fill({stored.head.encoder})`",
            )
        if stored.head.task is Task.ALIGNMENT:
            raise InvalidInput(
                f"the head {name!r} gives vectors in the space of a text encoder, and no prediction of an item",
                remedy=f"embed items with the encoder {stored.head.tuned}, or search by text in a set of it",
            )
        return stored

    def _opened(self, names: Sequence[HeadPass], caution: Caution) -> list[OpenedHead]:
        if not names:
            raise InvalidInput("no head is named", remedy="name one or more")
        if len(set(names)) != len(names):
            raise InvalidInput("a head is named twice", remedy="name each head once")
        opened = [self.cache.open(lambda name=name: self.find_predicting(name)) for name in names]  # type: ignore[misc]
        caution.check([one.stored for one in opened])
        return opened

    def _opened_for(self, names: Sequence[HeadPass], items: Sequence[Item], caution: Caution) -> list[OpenedHead]:
        """Open heads, and check as far as possible before computing that they read such items."""
        opened = self._opened(names, caution)
        for head in (one.head for one in opened):
            for encoder in head.encoders:
                if not encoder:
                    raise NotReady(
                        f"the head {head.name!r} was trained on ready vectors of no encoder",
                        remedy="predict by vectors, or by ids of a set that holds such vectors",
                    )
                whose, remedy = f"the head {head.name!r}, on {encoder},", "send what its encoder reads"
                remedy = remedy if len(head.encoders) == 1 else "predict by ids of the sets that it learned from"
                check_modality(items, self._catalog.spec(encoder).modalities, whose, remedy)
        return opened

    def _predict_vectors(self, names: Sequence[HeadPass], rows: Array, fingerprint: str, ask: PredictParams) -> PredictionResult:
        opened, skip = self._opened(names, ask.caution), ask.skip_bad_items
        for head in (one.head for one in opened):
            _check_vectors(head, rows, fingerprint)
        ready = np.ascontiguousarray(rows, np.float32)
        for item in np.flatnonzero(~np.isfinite(ready).all(axis=1))[: 0 if skip else 1]:
            raise InvalidInput("the vector has numbers that are not finite", remedy="send finite numbers", item=int(item))
        outputs = [output_of_pooled(one.head, ready, one.predict, skip, _typicality(one, ask.caution)) for one in opened]
        for output in outputs:
            self.counts.add(output)
        return PredictionResult(tuple(_told(output, ask) for output in outputs), failures=_failures((), outputs))


async def _embed_sides(engine: Engine, ask: EmbedParams, items: Sequence[Item]) -> EmbedResult:
    """Encode the two sides of each pair separately, to two rows per item."""
    count = len(items)
    try:
        return pair_sides(await engine.embed(ask, split_sides(items, ask.skip_bad_items)), count)
    except TopworkError as error:
        raise error if error.item is None else error.at(error.item % count) from None


def _kept_inputs(feature_set: FeatureSet, ids: Sequence[str], head: str) -> list[Item]:
    """Read the stored inputs. NotReady where the set keeps none; NotFound names an unknown id."""
    if not feature_set.definition.keep_inputs:
        raise NotReady(
            f"the head {head!r} reads each text of a pair by itself, and {feature_set.definition.name!r} keeps no raw inputs",
            remedy="send the pairs themselves",
        )
    blocks = feature_set.read(Selection(taps=(), columns=(), inputs=True, ids=list(dict.fromkeys(ids)))).batches
    found = {id: item for block in blocks for id, item in zip(block.ids, block.inputs, strict=True)}
    items = []
    for position, id in enumerate(ids):
        if id not in found:
            raise NotFound(
                f"the set {feature_set.definition.name} has no item {id!r}", remedy="send ids that it has", item=position
            )
        item = found[id]
        if item is None:
            raise NotReady(
                f"the set {feature_set.definition.name} does not keep the input of {id!r}", remedy="send the pair", item=position
            )
        items.append(item)
    return items


def _passes(opened: Sequence[OpenedHead], ask: PredictParams) -> dict[TrunkPass, EmbedParams]:
    """List the passes of trunks that the heads share, each with all taps that they read of it."""
    taps: dict[TrunkPass, list[str]] = {}
    for one in opened:
        for key, views in passes_of(one.head, ask.options):
            taps.setdefault(key, []).extend(info.tap.name for info, _ in views)
    settings = (ask.deadline, ask.wait, ask.skip_bad_items, ask.client, ask.priority)
    return {
        key: EmbedParams(encoder_pass(key.encoder), tuple(dict.fromkeys(names)), key.settings, *settings)
        for key, names in taps.items()
    }


def _outputs_of(
    heads: Sequence[OpenedHead], rows: Callable[[Head], Sequence[TapRows]], ask: PredictParams
) -> dict[str, HeadOutput]:
    """Run heads on the rows that each reads, which have its fingerprints."""
    found = {}
    for one in heads:
        head, parts = one.head, rows(one.head)
        joined = combine_rows(head.task, head.parts, parts) if head.parts else parts[0]
        decoded = decode_output(head, joined, one.predict, ask.skip_bad_items, _typicality(one, ask.caution), ask.boxes)
        found[head.name] = _told(decoded, ask)
    return found


def _told(output: HeadOutput, ask: PredictParams) -> HeadOutput:
    return ask.caution.applied(output if ask.scores else replace(output, scores=None))


def _predict_stored(
    heads: Sequence[OpenedHead], sets: SetsOfHeads, ids: Sequence[str], ask: PredictParams
) -> Sequence[HeadOutput]:
    sets.check([one.head for one in heads])
    parts = []
    for start in range(0, max(1, len(ids)), STORED):
        try:
            rows = sets.read([one.head for one in heads], ids[start : start + STORED])
            parts.append(_outputs_of(heads, rows, ask))
        except TopworkError as error:  # it gives the position among all ids
            raise error if error.item is None else error.at(start + error.item) from None
    return [concat_outputs([part[one.head.name] for part in parts]) for one in heads]


def _typicality(opened: OpenedHead, caution: Caution) -> RunTypicality | None:
    return None if caution.unlike is None else opened.typicality


def _check_vectors(head: Head, rows: Array, fingerprint: str) -> None:
    if head.task.every_row:
        raise InvalidInput(
            f"the head {head.name!r} says something of each row, and where it lies: bare vectors do not tell",
            remedy="send items, or ids of a set",
        )
    if fingerprint:
        check_fingerprint(head, head.encoder, head.tap, fingerprint, "the vectors have", "send vectors that its encoder made")
    if rows.ndim != 2 or rows.shape[1] != head.dim:
        parts = ", ".join(f"{dim_after(how, info.tap.dim)} of {info.tap.name} by {how.value!r}" for info, how in head.parts)
        pooled = f"side by side: {parts}" if parts else f"pooled by {head.pooling.value!r}"
        raise InvalidInput(
            f"vectors of shape {list(rows.shape)}", remedy=f"the head {head.name!r} reads (n, {head.dim}), {pooled}"
        )


def _notes(features: Sequence[EmbedResult]) -> dict[int, Mapping[str, int]]:
    notes: dict[int, Mapping[str, int]] = {}
    for one in features:
        for item, found in one.notes.items():
            notes[item] = {**notes.get(item, {}), **found}
    return notes


def _failures(features: Sequence[EmbedResult], found: Any) -> dict[int, TopworkError]:
    """Keep the first failure of each item; those of encoders come before those of heads."""
    failures: dict[int, TopworkError] = {}
    for source in (*features, *found):
        failures = {**source.failures, **failures}
    return dict(sorted(failures.items()))

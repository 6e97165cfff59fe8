"""Predictions of heads for items, vectors or stored items, with one pass of each trunk for all its heads."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from topwork_server.errors import InvalidInput, NotFound, NotReady, TopworkError
from topwork_server.feature_sets.feature_set import FeatureSet
from topwork_server.feature_sets.set_types import Selection
from topwork_server.features import EmbedResult, TapRows
from topwork_server.heads.head_store import HeadStore, StoredHead
from topwork_server.heads.head_types import Head, Task
from topwork_server.heads.pair_features import pair_sides, split_sides
from topwork_server.heads.pooling import TOWERS, combine_rows
from topwork_server.heads.pretrained import pretrained_head
from topwork_server.heads.serving.caution import Caution
from topwork_server.heads.serving.head_cache import HeadCache, OpenedHead
from topwork_server.heads.serving.head_output import (
    USUAL_BOXES,
    BoxQuery,
    HeadOutput,
    RunTypicality,
    concat_outputs,
    decode_output,
    output_of_pooled,
)
from topwork_server.heads.serving.prediction_counts import PredictionCounts
from topwork_server.inference.engine import EmbedParams, Engine
from topwork_server.models.catalog import Catalog
from topwork_server.types import Array, FingerprintedTap, Item, Priority, Timings, check_modality

#: Stored items whose rows are in memory at a time: a tap of cells has 90 KB per item.
STORED = 1000
NO_CAUTION = Caution()


@dataclass(frozen=True)
class PredictParams:
    """Settings of a prediction.

    `options` of the encoder: None means those of each head's own training. `features`: return the features too. The others are
    those of EmbedParams. `boxes`: which ones detectors return.
    """

    options: Mapping[str, Any] | None = None
    deadline: float | None = None
    wait: bool = False
    skip_bad_items: bool = False
    features: bool = False
    caution: Caution = NO_CAUTION
    client: Hashable = None
    priority: Priority = Priority.NORMAL
    boxes: BoxQuery = USUAL_BOXES


@dataclass(frozen=True)
class PredictionResult:
    """The outputs of the heads, in the order of their names.

    `features`: of each trunk, if requested. Notes and failures are by item; an item may have failed for some heads only.
    """

    outputs: tuple[HeadOutput, ...]
    features: tuple[EmbedResult, ...] = ()
    notes: Mapping[int, Mapping[str, int]] = field(default_factory=dict)
    failures: Mapping[int, TopworkError] = field(default_factory=dict)
    timings: Timings = field(default_factory=Timings)


class Predictor:
    """Runs heads, and counts what they predict of items and vectors; stored items are mostly those that they learned from.

    It is used on the event loop; blocking work runs in threads, and each head's graph uses `threads` more.
    """

    def __init__(self, engine: Engine, catalog: Catalog, store: HeadStore, threads: int = 1) -> None:
        self._engine, self._catalog, self._store = engine, catalog, store
        self.cache = HeadCache(threads)
        self.counts = PredictionCounts()

    async def predict(self, names: Sequence[str], ask: PredictParams, items: Sequence[Item]) -> PredictionResult:
        """Predict for items. NotReady where a trunk has changed since training; InvalidInput names a bad item."""
        result = await self._predict(names, ask, items)
        for output in result.outputs:
            self.counts.add(output)
        return result

    async def _predict(self, names: Sequence[str], ask: PredictParams, items: Sequence[Item]) -> PredictionResult:
        opened = await asyncio.to_thread(self._opened_for, names, items, ask.caution)
        found: dict[str, HeadOutput] = {}
        features: list[EmbedResult] = []
        for (encoder, _, towers), heads in _groups(opened, ask.options).items():
            taps = _taps(heads)
            options = heads[0].head.encoder_options if ask.options is None else ask.options
            asked = EmbedParams(encoder, taps, options, ask.deadline, ask.wait, ask.skip_bad_items, ask.client, ask.priority)
            features.append(await (_embed_sides(self._engine, asked, items) if towers else self._engine.embed(asked, items)))
            found |= await asyncio.to_thread(_outputs_of, heads, features[-1].taps, ask.caution, ask.skip_bad_items, ask.boxes)
        return PredictionResult(
            outputs=tuple(found[name] for name in names),
            features=tuple(features) if ask.features else (),
            notes=_notes(features),
            failures=_failures(features, found.values()),
            timings=Timings.sum(one.timings for one in features),
        )

    async def predict_vectors(
        self, names: Sequence[str], rows: Array, fingerprint: str = "", caution: Caution = NO_CAUTION
    ) -> PredictionResult:
        """Predict for pooled (n, dim) rows of the heads' tap; each row is an item."""
        return await asyncio.to_thread(self._predict_vectors, names, np.asarray(rows), fingerprint, caution)

    async def predict_stored(
        self,
        names: Sequence[str],
        feature_set: FeatureSet,
        ids: Sequence[str],
        caution: Caution = NO_CAUTION,
        boxes: BoxQuery = USUAL_BOXES,
    ) -> PredictionResult:
        """Predict for items of a set, which must have the heads' taps. NotFound names an unknown id."""
        opened = await asyncio.to_thread(self._opened, names, caution)
        towers = [one.head.name for one in opened if one.head.pooling in TOWERS]
        others = [one for one in opened if one.head.pooling not in TOWERS]
        found = await asyncio.to_thread(_predict_stored, others, feature_set, ids, caution, boxes) if others else ()
        pairs = await self._predict_stored_pairs(towers, feature_set, ids, caution) if towers else ()
        by_name = {one.head.name: one for one in (*found, *pairs)}
        return PredictionResult(tuple(by_name[name] for name in names))

    async def _predict_stored_pairs(
        self, names: Sequence[str], feature_set: FeatureSet, ids: Sequence[str], caution: Caution
    ) -> Sequence[HeadOutput]:
        """Predict for stored pairs; their texts are encoded now, each separately."""
        parts = []
        for start in range(0, max(1, len(ids)), STORED):
            try:
                items = await asyncio.to_thread(_kept_inputs, feature_set, ids[start : start + STORED], names[0])
                parts.append((await self._predict(names, PredictParams(wait=True, caution=caution), items)).outputs)
            except TopworkError as error:
                raise error if error.item is None else error.at(start + error.item) from None
        return [concat_outputs(of_one) for of_one in zip(*parts, strict=True)]

    def find(self, name: str) -> StoredHead:
        """Find a trained head, or ENCODER/NAME."""
        return pretrained_head(self._catalog, name) if "/" in name else self._store.find(name)

    def _find_predicting(self, name: str) -> StoredHead:
        stored = self.find(name)
        if stored.head.task is Task.FILL:
            raise InvalidInput(
                f"the head {name!r} gives words for the gaps of a text, and no prediction of an item",
                remedy=f"call `fill` (`topwork fill {stored.head.encoder} TEXT`)",
            )
        return stored

    def _opened(self, names: Sequence[str], caution: Caution) -> list[OpenedHead]:
        if not names:
            raise InvalidInput("no head is named", remedy="name one or more")
        if len(set(names)) != len(names):
            raise InvalidInput("a head is named twice", remedy="name each head once")
        opened = [self.cache.open(lambda name=name: self._find_predicting(name)) for name in names]  # type: ignore[misc]
        caution.check([one.stored for one in opened])
        return opened

    def _opened_for(self, names: Sequence[str], items: Sequence[Item], caution: Caution) -> list[OpenedHead]:
        """Open heads, and check as far as possible before computing that they read such items."""
        opened = self._opened(names, caution)
        for head in (one.head for one in opened):
            if not head.encoder:
                raise NotReady(
                    f"the head {head.name!r} was trained on ready vectors of no encoder",
                    remedy="predict by vectors, or by ids of a set that holds such vectors",
                )
            whose = f"the head {head.name!r}, on {head.encoder},"
            reads = self._catalog.spec(head.encoder).modalities
            check_modality(items, reads, whose, "send what its encoder reads")
        return opened

    def _predict_vectors(self, names: Sequence[str], rows: Array, fingerprint: str, caution: Caution) -> PredictionResult:
        opened = self._opened(names, caution)
        for head in (one.head for one in opened):
            _check_vectors(head, rows, fingerprint)
        ready = np.ascontiguousarray(rows, np.float32)
        for item in np.flatnonzero(~np.isfinite(ready).all(axis=1))[:1]:
            raise InvalidInput("the vector has numbers that are not finite", remedy="send finite numbers", item=int(item))
        outputs = [output_of_pooled(one.head, ready, one.predict, _typicality(one, caution)) for one in opened]
        for output in outputs:
            self.counts.add(output)
        return PredictionResult(tuple(map(caution.applied, outputs)))


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


def _groups(opened: Sequence[OpenedHead], options: Mapping[str, Any] | None) -> dict[tuple[str, str, bool], list[OpenedHead]]:
    """Group heads that share one pass of a trunk: the same encoder and options, and the same reading of pairs."""
    groups: dict[tuple[str, str, bool], list[OpenedHead]] = {}
    for one in opened:
        asked = one.head.encoder_options if options is None else options
        towers = one.head.pooling in TOWERS
        groups.setdefault((one.head.encoder, json.dumps(dict(asked), sort_keys=True), towers), []).append(one)
    return groups


def _predict_stored(
    heads: Sequence[OpenedHead], feature_set: FeatureSet, ids: Sequence[str], caution: Caution, boxes: BoxQuery
) -> Sequence[HeadOutput]:
    has = {info.tap.name: info for info in feature_set.definition.taps}
    for head in (one.head for one in heads):
        for info in head.taps:
            tap = info.tap.name
            if tap not in has:
                raise NotReady(
                    f"the head {head.name!r} reads the tap {tap}, which the set {feature_set.definition.name!r} has not",
                    remedy=f"its taps are {', '.join(has)}: name a set that has {tap}, or send items",
                )
            whose = f"the set {feature_set.definition.name!r} has"
            check_fingerprint(head, has[tap].fingerprint, whose, "name the set that it was trained on", info)
    starts = range(0, max(1, len(ids)), STORED)
    parts = [_outputs_of_stored(heads, feature_set, ids, start, caution, boxes) for start in starts]
    return [concat_outputs([part[one.head.name] for part in parts]) for one in heads]


def _outputs_of_stored(
    heads: Sequence[OpenedHead],
    feature_set: FeatureSet,
    ids: Sequence[str],
    start: int,
    caution: Caution,
    boxes: BoxQuery,
) -> dict[str, HeadOutput]:
    """Predict for `STORED` ids from `start` on; an error gives the position among all ids."""
    taps = _taps(heads)
    try:
        rows, _ = feature_set.stored_rows(ids[start : start + STORED], taps)
        return _outputs_of(heads, rows, caution, False, boxes)
    except TopworkError as error:
        raise error if error.item is None else error.at(start + error.item) from None


def _outputs_of(
    heads: Sequence[OpenedHead], taps: Sequence[TapRows], caution: Caution, skip_bad_items: bool, boxes: BoxQuery
) -> dict[str, HeadOutput]:
    by_name = {rows.tap.tap.name: rows for rows in taps}
    found = {}
    for one in heads:
        head = one.head
        remedy = f"train it again, or serve the {head.encoder} that it stands on"
        for info in head.taps:
            check_fingerprint(head, by_name[info.tap.name].tap.fingerprint, f"{head.encoder} now has", remedy, info)
        parts = [by_name[info.tap.name] for info in head.taps]
        rows = combine_rows(head.task, head.parts, parts) if head.parts else parts[0]
        decoded = decode_output(head, rows, one.predict, skip_bad_items, _typicality(one, caution), boxes)
        found[head.name] = caution.applied(decoded)
    return found


def _taps(heads: Sequence[OpenedHead]) -> tuple[str, ...]:
    """Name the taps that some heads read, each once."""
    return tuple(dict.fromkeys(info.tap.name for one in heads for info in one.head.taps))


def _typicality(opened: OpenedHead, caution: Caution) -> RunTypicality | None:
    return None if caution.unlike is None else opened.typicality


def check_fingerprint(head: Head, found: str, whose: str, remedy: str, tap: FingerprintedTap | None = None) -> None:
    """Raise NotReady where the fingerprint that was found is not that of the head's tap, or of one of several."""
    tap = tap or head.tap
    if found != tap.fingerprint:
        raise NotReady(
            f"the head {head.name!r} stands on the tap {tap.tap.name} of {head.encoder or 'no encoder'} with fingerprint"
            f" {tap.fingerprint or 'none'}, and {whose} {found or 'none'}",
            remedy=remedy,
        )


def _check_vectors(head: Head, rows: Array, fingerprint: str) -> None:
    if head.task.every_row:
        raise InvalidInput(
            f"the head {head.name!r} says something of each row, and where it lies: bare vectors do not tell",
            remedy="send items, or ids of a set",
        )
    if fingerprint:
        check_fingerprint(head, fingerprint, "the vectors have", "send vectors that its encoder made")
    if rows.ndim != 2 or rows.shape[1] != head.dim:
        raise InvalidInput(
            f"vectors of shape {list(rows.shape)}",
            remedy=f"the head {head.name!r} reads (n, {head.dim}), pooled by {head.pooling.value!r}",
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

"""Writes without a wire: what a test of ingest says in one line."""

from __future__ import annotations

import asyncio

import numpy as np
from passes import of_encoder, of_set
from topwork_server import Granularity, Tap, TextItem
from topwork_server.feature_sets.set_types import Column, ColumnType
from topwork_server.features import TapRows
from topwork_server.inference.engine import EmbedParams
from topwork_server.ingest.validation import IncomingItems, WriteSettings, incoming_features
from topwork_server.types import FingerprintedTap

LETTERS = WriteSettings(of_set("birds"), "letters")


def texts(*words, ids=None, **columns):
    metadata = tuple(Column(name, ColumnType.INT, values) for name, values in columns.items())
    return IncomingItems(ids or words, [TextItem(word) for word in words], range(len(words)), metadata=metadata)


async def write(harness, *messages, settings=LETTERS):
    """Messages of one stream, all under way at once; their outcomes."""
    writing = await harness.ingest.open(settings)
    places = [writing.next_slot(message.ids) for message in messages]
    tasks = [asyncio.ensure_future(writing.write(*one)) for one in zip(places, messages, strict=True)]
    try:
        return await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()


async def stored(harness, name="birds"):
    """id -> the numbers of its first tap."""
    feature_set = await asyncio.to_thread(harness.sets.get, of_set(name))
    _, keys = feature_set.keys()
    block = feature_set.fetch(keys, taps=[feature_set.definition.taps[0].tap.name])
    return dict(zip(block.ids, block.taps[0].rows.tolist(), strict=True))


async def years(harness, name="birds"):
    feature_set = await asyncio.to_thread(harness.sets.get, of_set(name))
    block = feature_set.fetch(feature_set.keys()[1], columns=["year"])
    return dict(zip(block.ids, block.metadata[0].values, strict=True))


async def rows(harness, *words, encoder="letters", **options):
    features = await harness.engine.embed(EmbedParams(of_encoder(encoder), options=options), [TextItem(word) for word in words])
    del harness.engine.asked[-1]
    return dict(zip(words, features.taps[0].rows.tolist(), strict=True))


def counts(outcome):
    written = outcome.written
    return written.inserted, written.updated, written.unchanged, outcome.encoded


def vectors(numbers, fingerprint="", tap="", granularity=Granularity.ITEM, counts=None, spans=None):
    rows = np.array(numbers, np.float32)
    counts = np.ones(len(rows), np.int64) if counts is None else np.array(counts)
    return TapRows(FingerprintedTap(Tap(tap, rows.shape[1], granularity), fingerprint), rows, counts, spans)


def features(ids, *taps, numerics=None, skip=False):
    return incoming_features(ids, taps, (), numerics, skip_bad_items=skip)


VECTORS = WriteSettings(of_set("vectors"))

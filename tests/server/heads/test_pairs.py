"""Pairs of texts: validation chooses between both texts read together, and each read by itself and compared."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import numpy as np
import pytest
import sets_harness
from heads_harness import open_heads, words
from passes import of_encoder, of_head
from topwork_plugins.linear.plugin import LinearTrainer
from topwork_server import TextItem, TrainerSpec
from topwork_server.errors import InvalidInput, NotReady
from topwork_server.feature_sets.set_types import Column, ColumnType, ItemBatch
from topwork_server.features import TapRows
from topwork_server.heads import pooling
from topwork_server.heads.head_types import Pooling, Task, TrainRequest, definition_of
from topwork_server.heads.pair_features import paired_rows
from topwork_server.heads.serving.predictor import Predictor, PredictParams
from topwork_server.heads.training.training_job import TrainingJob, run_training
from topwork_server.inference.engine import EmbedParams
from topwork_server.types import FingerprintedTap, Granularity, Tap
from toys import FakePlugins

TEXTS, CLASSES = words(120, seed=3)
PAIRS = [TextItem(a, b) for a, b in zip(TEXTS[:60], TEXTS[60:], strict=True)]
SAME = ["same" if i % 2 else "other" for i in range(60)]


class Plugins(FakePlugins):
    def trainer(self, kind):
        return TrainerSpec("linear", LinearTrainer)


def pairs():
    """Of texts that are mostly of the same letters, or of others."""
    of_class = {name: [t for t, c in zip(TEXTS, CLASSES, strict=True) if c == name] for name in set(CLASSES)}
    random, names = np.random.default_rng(0), sorted(of_class)
    made = []
    for same in SAME:
        first = names[random.integers(3)]
        second = first if same == "same" else names[(names.index(first) + random.integers(1, 3)) % 3]
        made.append(TextItem(*(str(random.choice(of_class[name])) for name in (first, second))))
    return made


async def write(w, items, name="pairs", taps=("mean",), **more):
    feature_set = w.make(name, taps, **{"keep_inputs": True} | more)
    features = await w.engine.embed(EmbedParams(of_encoder("letters"), tuple(taps)), [TextItem(item.text) for item in items])
    column = Column("label", ColumnType.STRING, SAME[: len(items)])
    inputs = items if feature_set.definition.keep_inputs else []
    block = ItemBatch([f"p{i:02}" for i in range(len(items))], features.taps, (column,), inputs=inputs)
    await asyncio.wrap_future(feature_set.write(block))
    return feature_set


async def begun(w, **more):
    """The definition of a training that is not run."""
    w.jobs.gate.clear()
    await w.heads.train(replace(TrainRequest("pairs", "label"), **more))
    return definition_of(w.jobs.started[-1][1]["definition"])


def poolings(definition):
    return [how for _, how in definition.views]


async def test_validation_chooses_how_pairs_are_read_and_what_serves_reads_them_so(home):
    async with open_heads(home) as w:
        feature_set, items = await write(w, pairs()), pairs()
        definition = await begun(w)
        assert poolings(definition) == [Pooling.ROW, Pooling.TWO_TOWER, Pooling.COSINE]
        head = await asyncio.to_thread(
            run_training, TrainingJob(home, definition, 1), Plugins(sets_harness.SPECS), lambda fraction, message: None
        )
        assert head.pooling in pooling.TOWERS
        assert head.metrics[0].low > 0.6
        predictor = Predictor(w.engine, w.catalog, w.heads.store)
        found = (await predictor.predict([of_head(head.name)], PredictParams(), items)).outputs[0]
        assert np.mean([head.names[i] == same for i, same in zip(found.probabilities.argmax(1), SAME, strict=True)]) > 0.8
        stored = (await predictor.predict_stored([of_head(head.name)], feature_set, ["p07", "p03", "p07"])).outputs[0]
        np.testing.assert_allclose(stored.probabilities, found.probabilities[[7, 3, 7]], atol=1e-6)


async def test_poolings_that_are_named_are_all_that_is_tried(home):
    async with open_heads(home) as w:
        await write(w, pairs())
        assert poolings(await begun(w, poolings=("row",))) == [Pooling.ROW]
        assert poolings(await begun(w, name="b", poolings=("cosine", "two-tower"))) == [Pooling.COSINE, Pooling.TWO_TOWER]


async def test_rows_of_tokens_can_be_compared_too(home):
    async with open_heads(home) as w:
        await write(w, pairs(), taps=("letters",))
        assert poolings(await begun(w)) == [Pooling.MEAN, Pooling.TWO_TOWER, Pooling.COSINE]


async def test_two_towers_are_not_for_texts_alone_nor_for_sets_without_inputs(home):
    async with open_heads(home) as w:
        await write(w, [TextItem(item.text) for item in pairs()])
        with pytest.raises(InvalidInput, match="no pairs of texts"):
            await w.heads.train(TrainRequest("pairs", "label", poolings=("two-tower",)))
        await write(w, pairs(), "bare", keep_inputs=False)
        with pytest.raises(NotReady, match="keeps no raw inputs"):
            await w.heads.train(TrainRequest("bare", "label", poolings=("cosine",)))
        assert poolings(await begun(w)) == [Pooling.ROW]


def test_what_a_head_reads_of_both_sides():
    tap = FingerprintedTap(Tap("t", 3, Granularity.ITEM), "")
    rows = np.random.default_rng(0).normal(size=(4, 3)).astype(np.float32)
    both = paired_rows(TapRows(tap, rows, np.ones(4, np.int64)), 2)
    got, counts = pooling.pool_rows(Task.CLASSIFICATION, Pooling.TWO_TOWER, both)
    for i, (u, v) in enumerate(zip(rows[:2], rows[2:], strict=True)):
        cosine = u @ v / np.linalg.norm(u) / np.linalg.norm(v)
        np.testing.assert_allclose(got[i], [*u, *v, *abs(u - v), *(u * v), cosine], atol=1e-6)
    assert counts.tolist() == [1, 1]
    lacking = paired_rows(TapRows(tap, rows[:3], np.array([1, 1, 0, 1])), 2)
    assert pooling.usable_items(Task.CLASSIFICATION, Pooling.COSINE, lacking).tolist() == [False, True]

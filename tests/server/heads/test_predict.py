"""Predictions through the real engine, on toy trunks; one pass of a trunk for all of its heads."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
import sample_heads
import sets_harness
from passes import of_encoder, of_head
from topwork_server import TextItem
from topwork_server.errors import InvalidInput, NotFound, NotReady
from topwork_server.feature_sets.set_types import ItemBatch, SetDefinition
from topwork_server.heads.head_store import HeadStore
from topwork_server.heads.head_types import Pooling, Task
from topwork_server.heads.serving import predictor as predict
from topwork_server.heads.serving.predictor import Predictor, PredictParams
from topwork_server.heads.span_decoding import bio_names
from topwork_server.inference.engine import EmbedParams
from topwork_server.types import Modality

TEXTS = [TextItem("a red bird"), TextItem("Blue"), TextItem("whale")]


@dataclass
class PredictorHarness:
    sets: Any
    store: HeadStore
    predictor: Predictor

    @property
    def engine(self):
        return self.sets.engine

    def tap(self, encoder, name):
        return self.sets.catalog.entry(encoder).manifest.tap(name)

    def publish(self, name, encoder="letters", tap="mean", pooling=Pooling.ROW, task=Task.CLASSIFICATION, seed=0, **fields):
        info = self.tap(encoder, tap)
        dim = info.tap.dim * {Pooling.MEAN_STD: 2, Pooling.PAIR: 4}.get(pooling, 1)
        head = sample_heads.head(name, task=task, encoder=encoder, tap=info, pooling=pooling, dim=dim)
        head = replace(head, **fields)
        self.store.publish(head, sample_heads.graph(head, seed), None)
        return head

    async def rows(self, texts=TEXTS, encoder="letters", tap="mean", **options):
        return (await self.engine.embed(EmbedParams(of_encoder(encoder), (tap,), options), texts)).taps[0]


@pytest.fixture
def open_predictor(home):
    """composed() as a context of the test: `async with open_predictor() as w`."""
    from contextlib import asynccontextmanager

    @asynccontextmanager
    async def made():
        async with sets_harness.composed(home) as sets:
            store = HeadStore(home / "heads")
            yield PredictorHarness(sets, store, Predictor(sets.engine, sets.catalog, store))

    return made


def softmax(scores):
    powers = np.exp(scores - scores.max(1, keepdims=True))
    return powers / powers.sum(1, keepdims=True)


def scores(head, rows, seed=0):
    weight, bias = sample_heads.numbers(head, seed)
    return rows @ weight.T + bias


async def test_probabilities_of_items(open_predictor):
    async with open_predictor() as w:
        head = w.publish("birds", temperature=2.0)
        found = await w.predictor.predict([of_head("birds")], PredictParams(), TEXTS)
        expected = softmax(scores(head, (await w.rows()).rows) / 2)
        np.testing.assert_allclose(found.outputs[0].probabilities, expected, rtol=1e-4)
        assert found.outputs[0].head == head
        assert found.features == ()
        assert found.notes == {0: {"spaces": 2}}
        assert found.timings.compute > 0


async def test_several_heads_take_one_pass_of_each_trunk(open_predictor):
    async with open_predictor() as w:
        w.publish("birds")
        w.publish("size", task=Task.REGRESSION, names=("size",))
        w.publish("tags", tap="letters", pooling=Pooling.ROWS, task=Task.TAGGING, names=bio_names(("X",)))
        w.publish("spread", tap="letters", pooling=Pooling.MEAN_STD, task=Task.MULTI_LABEL)
        w.publish("other", encoder="second")
        names = [*map(of_head, ("other", "size", "birds", "tags", "spread"))]
        together = await w.predictor.predict(names, PredictParams(features=True), TEXTS)
        assert len(w.engine.asked) == 2
        assert [one.head.name for one in together.outputs] == names
        assert [[rows.tap.tap.name for rows in one.taps] for one in together.features] == [["mean"], ["mean", "letters"]]
        for name, one in zip(names, together.outputs, strict=True):
            (alone,) = (await w.predictor.predict([of_head(name)], PredictParams(), TEXTS)).outputs
            for field in ("probabilities", "values"):
                if getattr(alone, field) is not None:
                    np.testing.assert_allclose(getattr(one, field), getattr(alone, field), rtol=1e-5)
            assert one.spans is None or [[s.start for s in i] for i in one.spans] == [[s.start for s in i] for i in alone.spans]


async def test_options_are_those_of_the_training_unless_asked(open_predictor):
    async with open_predictor() as w:
        w.publish("upper")
        w.publish("lower", encoder_options={"case": "lower"})
        both = await w.predictor.predict([of_head("upper"), of_head("lower")], PredictParams(), TEXTS)
        assert len(w.engine.asked) == 2
        assert not np.allclose(both.outputs[0].probabilities[1], both.outputs[1].probabilities[1])
        np.testing.assert_allclose(both.outputs[0].probabilities[0], both.outputs[1].probabilities[0], rtol=1e-5)
        same = await w.predictor.predict([of_head("upper"), of_head("lower")], PredictParams(options={"case": "lower"}), TEXTS)
        assert len(w.engine.asked) == 3
        np.testing.assert_array_equal(same.outputs[0].probabilities, same.outputs[1].probabilities)
        with pytest.raises(InvalidInput, match="unknown option 'casing'"):
            await w.predictor.predict([of_head("upper")], PredictParams(options={"casing": 1}), TEXTS)


async def test_a_head_on_another_fingerprint_is_refused(open_predictor):
    async with open_predictor() as w:
        tap = w.tap("letters", "mean")
        w.publish("old", tap="mean")
        stale = sample_heads.head("stale", tap=replace(tap, fingerprint="f" * 64), dim=tap.tap.dim)
        w.store.publish(stale, sample_heads.graph(stale), None)
        with pytest.raises(NotReady) as caught:
            await w.predictor.predict([of_head("stale")], PredictParams(), TEXTS)
        assert "f" * 64 in caught.value.message
        assert tap.fingerprint in caught.value.message
        assert "train it again" in caught.value.remedy


async def test_a_head_of_no_encoder_reads_no_items(open_predictor):
    async with open_predictor() as w:
        w.publish("vectors", encoder="letters")
        head = replace(w.store.get("vectors"), encoder="")
        w.store.publish(head, sample_heads.graph(head), None)
        with pytest.raises(NotReady, match="no encoder"):
            await w.predictor.predict([of_head("vectors")], PredictParams(), TEXTS)
        assert (await w.predictor.predict_vectors([of_head("vectors")], np.ones((2, 8)))).outputs[0].probabilities.shape == (2, 2)


async def test_vectors(open_predictor):
    async with open_predictor() as w:
        head = w.publish("birds")
        rows = (await w.rows()).rows
        expected = (await w.predictor.predict([of_head("birds")], PredictParams(), TEXTS)).outputs[0]
        found = await w.predictor.predict_vectors([of_head("birds")], rows, head.tap.fingerprint)
        np.testing.assert_allclose(found.outputs[0].probabilities, expected.probabilities, rtol=1e-5)
        with pytest.raises(NotReady, match="the vectors have " + "0" * 64):
            await w.predictor.predict_vectors([of_head("birds")], rows, "0" * 64)
        for bad in (rows[:, :3], rows[0]):
            with pytest.raises(InvalidInput, match="vectors of shape"):
                await w.predictor.predict_vectors([of_head("birds")], bad)
        rows[1, 2] = np.nan
        with pytest.raises(InvalidInput, match="not finite") as caught:
            await w.predictor.predict_vectors([of_head("birds")], rows)
        assert caught.value.item == 1


async def test_vectors_tell_nothing_to_a_tagger(open_predictor):
    async with open_predictor() as w:
        w.publish("tags", tap="letters", pooling=Pooling.ROWS, task=Task.TAGGING, names=bio_names(("X",)))
        with pytest.raises(InvalidInput, match="bare vectors"):
            await w.predictor.predict_vectors([of_head("tags")], np.ones((2, 8)))


async def stored(w, taps=("mean", "letters")):
    infos = tuple(w.tap("letters", tap) for tap in taps)
    feature_set = w.sets.sets.create(SetDefinition("texts", infos, "letters", {}, (Modality.TEXT,)))
    rows = (await w.engine.embed(EmbedParams(of_encoder("letters"), taps), TEXTS)).taps
    feature_set.write(ItemBatch(["a", "b", "c"], rows)).result(10)
    return feature_set


async def test_stored_items(open_predictor):
    async with open_predictor() as w:
        w.publish("birds")
        w.publish("tags", tap="letters", pooling=Pooling.ROWS, task=Task.TAGGING, names=bio_names(("X",)))
        feature_set = await stored(w)
        asked = len(w.engine.asked)
        found = await w.predictor.predict_stored([of_head("birds"), of_head("tags")], feature_set, ["c", "a", "c"])
        assert len(w.engine.asked) == asked
        fresh = await w.predictor.predict([of_head("birds"), of_head("tags")], PredictParams(), [TEXTS[2], TEXTS[0], TEXTS[2]])
        np.testing.assert_allclose(found.outputs[0].probabilities, fresh.outputs[0].probabilities, rtol=1e-5)
        places = [[[(s.start, s.end, s.label) for s in item] for item in one.outputs[1].spans] for one in (found, fresh)]
        assert places[0] == places[1]


@pytest.mark.parametrize("at_once", [1, 2, 3])
async def test_stored_items_are_read_a_few_at_a_time(open_predictor, monkeypatch, at_once):
    async with open_predictor() as w:
        w.publish("birds")
        w.publish("tags", tap="letters", pooling=Pooling.ROWS, task=Task.TAGGING, names=bio_names(("X",)))
        feature_set = await stored(w)
        whole = await w.predictor.predict_stored([of_head("birds"), of_head("tags")], feature_set, ["c", "a", "b", "c"])
        monkeypatch.setattr(predict, "STORED", at_once)
        parts = await w.predictor.predict_stored([of_head("birds"), of_head("tags")], feature_set, ["c", "a", "b", "c"])
        np.testing.assert_allclose(parts.outputs[0].probabilities, whole.outputs[0].probabilities, rtol=1e-5)
        assert parts.outputs[1].spans == whole.outputs[1].spans
        with pytest.raises(NotFound, match="no item 'nope'") as caught:
            await w.predictor.predict_stored([of_head("birds")], feature_set, ["a", "b", "c", "nope"])
        assert caught.value.item == 3


async def test_sets_of_other_features_are_refused(open_predictor):
    async with open_predictor() as w:
        w.publish("other", encoder="second")
        w.publish("tags", tap="letters", pooling=Pooling.ROWS, task=Task.TAGGING, names=bio_names(("X",)))
        feature_set = await stored(w, ("mean",))
        with pytest.raises(NotReady, match="the set 'texts' has") as caught:
            await w.predictor.predict_stored([of_head("other")], feature_set, ["a"])
        assert w.tap("second", "mean").fingerprint in caught.value.message
        with pytest.raises(NotReady, match="reads the tap letters"):
            await w.predictor.predict_stored([of_head("tags")], feature_set, ["a"])

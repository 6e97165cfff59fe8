"""Merged files of real trunks, in plain onnxruntime, say what the engine and the served head say."""

from __future__ import annotations

import asyncio

import numpy as np
import onnxruntime
import pytest
import sample_heads
import sets_harness
from passes import of_head
from topwork_server import TextItem
from topwork_server.config import Config
from topwork_server.errors import InvalidInput
from topwork_server.heads import pooling
from topwork_server.heads.export.merge import merge_onnx
from topwork_server.heads.head_store import HeadStore
from topwork_server.heads.head_types import Pooling, Task
from topwork_server.heads.serving.predictor import Predictor, PredictParams
from topwork_server.heads.span_decoding import answer, bio_names
from topwork_server.inference.engine import Engine
from topwork_server.models.artifacts import MODEL
from topwork_server.models.catalog import Catalog
from topwork_server.models.catalog_entry import EncoderState
from topwork_server.plugin_api import example_inputs, options
from topwork_server.plugin_api.plugin_registry import PluginRegistry
from topwork_server.types import Granularity
from toys import FakePlugins

TEXTS = [TextItem("A red bird sings."), TextItem("Blue"), TextItem("whales swim in the cold sea, and sing")]
PAIRS = [TextItem("Who sings?", "A red bird sings."), TextItem("Where?", "In the cold sea.")]


def head(catalog, encoder, tap, how=Pooling.ROW, task=Task.CLASSIFICATION, names=("a", "b", "c")):
    if catalog.entry(encoder).state is not EncoderState.READY:
        catalog.export(encoder)
    info = catalog.entry(encoder).manifest.tap(tap)
    dim = pooling.dim_after(how, info.tap.dim)
    return sample_heads.head(encoder=encoder, tap=info, pooling=how, dim=dim, task=task, names=names, temperature=0.7)


def prepared(catalog, made, items):
    """(feeds, samples), as somebody without a server makes them."""
    entry = catalog.entry(made.encoder)
    encoder = entry.spec.encoder(entry.spec, entry.folder)
    chosen = options.parse(encoder.options, made.encoder_options)
    if made.pooling in pooling.TOWERS:
        return sides(encoder, made, items, chosen), []
    samples = [sample for item in items for sample in encoder.preprocess(item, chosen)]
    feeds = encoder.collate(samples)
    if made.tap.tap.granularity is Granularity.TOKEN and made.pooling is not Pooling.ROWS:
        length = next(iter(feeds.values())).shape[1]
        feeds |= masks(samples, length, made.pooling is Pooling.PAIR)
    return feeds, samples


def sides(encoder, made, items, chosen):
    """Feeds of a trunk that reads both texts of each pair by itself: those of the second text begin with "second_"."""
    feeds = {}
    for prefix, mask, texts in (("", "text_mask", [i.text for i in items]), ("second_", "pair_mask", [i.pair for i in items])):
        samples = [sample for text in texts for sample in encoder.preprocess(TextItem(text), chosen)]
        own = encoder.collate(samples)
        if made.tap.tap.granularity is Granularity.TOKEN:
            feeds[mask] = masks(samples, next(iter(own.values())).shape[1], False)["row_mask"]
        feeds |= {prefix + name: array for name, array in own.items()}
    return feeds


def masks(samples, length, pair):
    wanted = {"text_mask": (0,), "pair_mask": (1,)} if pair else {"row_mask": (0, 1)}
    made = {name: np.zeros((len(samples), length), np.int64) for name in wanted}
    for name, parts in wanted.items():
        for row, sample in zip(made[name], samples, strict=True):
            row[sample.tokens.positions[np.isin(sample.tokens.parts, parts)]] = 1
    return made


def run(data, feeds):
    session = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])
    return session.run(["probabilities"], feeds)[0]


async def both(tmp_path, catalog, home, made, items):
    """What the server says, and the probabilities of the file, with the samples that it read."""
    store = HeadStore(tmp_path / "heads")
    store.publish(made, sample_heads.graph(made), None)
    engine = Engine(catalog, Config(home=home, provider="cpu"))
    try:
        (output,) = (await Predictor(engine, catalog, store).predict([of_head(made.name)], PredictParams(), items)).outputs
    finally:
        await engine.close()
    data, _ = await asyncio.to_thread(merge_onnx, catalog.entry(made.encoder).folder / MODEL, store.graph(made.name), made)
    feeds, samples = prepared(catalog, made, items)
    return output, run(data, feeds), samples


TOYS = [("mean", Pooling.ROW), ("letters", Pooling.MEAN), ("letters", Pooling.MAX), ("letters", Pooling.MEAN_STD)]


@pytest.mark.parametrize(("tap", "how"), TOYS)
async def test_toys(tmp_path, home, tap, how):
    catalog = Catalog(FakePlugins(sets_harness.SPECS), home)
    output, found, _ = await both(tmp_path, catalog, home, head(catalog, "letters", tap, how), TEXTS)
    np.testing.assert_allclose(found, output.probabilities, atol=1e-5)


TOWERS = [("mean", Pooling.TWO_TOWER), ("mean", Pooling.COSINE), ("letters", Pooling.TWO_TOWER), ("letters", Pooling.COSINE)]


@pytest.mark.parametrize(("tap", "how"), TOWERS)
async def test_both_texts_of_a_pair_are_read_each_by_itself(tmp_path, home, tap, how):
    catalog = Catalog(FakePlugins(sets_harness.SPECS), home)
    output, found, _ = await both(tmp_path, catalog, home, head(catalog, "letters", tap, how), PAIRS)
    np.testing.assert_allclose(found, output.probabilities, atol=1e-5)


async def test_what_is_no_pair_is_named_or_skipped(tmp_path, home):
    catalog = Catalog(FakePlugins(sets_harness.SPECS), home)
    made = head(catalog, "letters", "mean", Pooling.TWO_TOWER)
    store = HeadStore(tmp_path / "heads")
    store.publish(made, sample_heads.graph(made), None)
    engine = Engine(catalog, Config(home=home, provider="cpu"))
    predictor, items = Predictor(engine, catalog, store), [PAIRS[0], TextItem("alone"), PAIRS[1]]
    try:
        with pytest.raises(InvalidInput, match="no pair") as caught:
            await predictor.predict([of_head(made.name)], PredictParams(), items)
        found = await predictor.predict([of_head(made.name)], PredictParams(skip_bad_items=True), items)
        whole = await predictor.predict([of_head(made.name)], PredictParams(), PAIRS)
    finally:
        await engine.close()
    assert caught.value.item == 1
    assert list(found.failures) == [1]
    np.testing.assert_allclose(found.outputs[0].probabilities[[0, 2]], whole.outputs[0].probabilities, atol=1e-6)


REAL = [
    ("all-minilm-l6-v2", "pooled", Pooling.TWO_TOWER, PAIRS),
    ("all-minilm-l6-v2", "pooled", Pooling.ROW, TEXTS),
    ("all-minilm-l6-v2", "hidden.3", Pooling.MEAN_STD, TEXTS),
    ("all-minilm-l6-v2", "tokens", Pooling.PAIR, PAIRS),
    ("efficientnet-lite0", "pooled", Pooling.ROW, example_inputs.pictures()[:3]),
    ("efficientnet-lite0", "layer3", Pooling.MAX, example_inputs.pictures()[:2]),
    ("i3d-resnet50-thin", "pooled.mean_std", Pooling.MEAN, example_inputs.clips()[:1]),
    ("glove-6b-50d", "tokens", Pooling.MEAN, TEXTS),
]


@pytest.fixture
def catalog(weights_home):
    return Catalog(PluginRegistry.load(), weights_home)


@pytest.mark.weights
@pytest.mark.parametrize(("encoder", "tap", "how", "items"), REAL, ids=lambda value: value if isinstance(value, str) else "")
async def test_trunks(tmp_path, catalog, weights_home, encoder, tap, how, items):
    made = head(catalog, encoder, tap, how)
    output, found, _ = await both(tmp_path, catalog, weights_home, made, items)
    np.testing.assert_allclose(found, output.probabilities, atol=1e-5)


@pytest.mark.weights
async def test_answers(tmp_path, catalog, weights_home):
    made = head(catalog, "all-minilm-l6-v2", "tokens", Pooling.ROWS, Task.QUESTION_ANSWERING, ())
    output, logits, samples = await both(tmp_path, catalog, weights_home, made, PAIRS)
    for (span,), scores, sample in zip(output.spans, logits, samples, strict=True):
        context = sample.tokens.parts == 1
        start, end, probability = answer(scores[sample.tokens.positions[context]])
        chars = sample.tokens.chars[context]
        assert (span.start, span.end, span.part) == (chars[start, 0], chars[end - 1, 1], 1)
        assert span.probability == pytest.approx(probability, abs=1e-5)


@pytest.mark.weights
async def test_masks(tmp_path, catalog, weights_home):
    made = head(catalog, "efficientnet-lite0", "layer4", Pooling.ROWS, Task.SEGMENTATION)
    output, found, _ = await both(tmp_path, catalog, weights_home, made, example_inputs.pictures()[:2])
    np.testing.assert_allclose(found.max(2).reshape(output.confidences.shape), output.confidences, atol=1e-5)
    assert (found.argmax(2).reshape(output.masks.shape) == output.masks).mean() > 0.99
    assert output.boxes.shape == (2, 4)


@pytest.mark.weights
async def test_tags(tmp_path, catalog, weights_home):
    made = head(catalog, "all-minilm-l6-v2", "hidden.4", Pooling.ROWS, Task.TAGGING, bio_names(("X",)))
    output, found, samples = await both(tmp_path, catalog, weights_home, made, TEXTS)
    assert any(output.spans)
    for spans, probabilities, sample in zip(output.spans, found, samples, strict=True):
        best = probabilities[sample.tokens.positions].argmax(1)
        tagged = {
            int(char) for (start, end), tag in zip(sample.tokens.chars, best, strict=True) if tag for char in range(start, end)
        }
        covered = {char for span in spans for char in range(span.start, span.end)}
        assert tagged <= covered

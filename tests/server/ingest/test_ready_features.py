"""ingest.py on features that are ready: they are the set's, or refused."""

from __future__ import annotations

import numpy as np
import pytest
from ingest_writes import VECTORS, counts, features, stored, texts, vectors, write
from passes import of_encoder, of_set
from sets_harness import composed
from topwork_server import Granularity, TextItem
from topwork_server.errors import InvalidInput, NotReady
from topwork_server.features import Spans
from topwork_server.inference.engine import EmbedParams
from topwork_server.ingest.validation import WriteSettings, incoming_features
from topwork_server.types import Numerics


async def test_vectors_of_no_encoder_make_a_set(home):
    async with composed(home) as harness:
        outcomes = await write(
            harness, features("ab", vectors([[1, 2], [3, 4]])), features("bc", vectors([[5, 6], [7, 8]])), settings=VECTORS
        )
        assert [counts(outcome) for outcome in outcomes] == [(2, 0, 0, 0), (1, 1, 0, 0)]
        assert await stored(harness, "vectors") == {"a": [1, 2], "b": [5, 6], "c": [7, 8]}
        wanted = harness.sets.get(of_set("vectors")).definition
        assert (wanted.encoder, wanted.modalities, wanted.taps[0].fingerprint) == ("", (), "")
        with pytest.raises(InvalidInput, match="ready vectors"):
            await write(harness, texts("owl"), settings=VECTORS)


async def test_several_taps_with_spans(home):
    spans = Spans("seconds", np.array([[0, 1], [1, 2], [0, 1]], np.float32))
    windows = vectors([[1, 2], [3, 4], [5, 6]], "f" * 64, "windows", Granularity.WINDOW, [2, 1], spans)
    whole = vectors([[1.0], [2.0]], "e" * 64, "whole")
    async with composed(home) as harness:
        await write(harness, features("ab", windows, whole), settings=VECTORS)
        await write(harness, features("cd", whole, windows), settings=VECTORS)  # in any order
        found = harness.sets.get(of_set("vectors"))
        block = found.fetch(found.keys()[1], taps=["windows"])
        assert block.taps[0].counts.tolist() == [2, 1, 2, 1]
        assert block.taps[0].spans.values.tolist() == spans.values.tolist() * 2


async def test_of_ready_features_the_later_message_wins_too(home):
    async with composed(home) as harness:
        ids = [f"v{i}" for i in range(5000)]
        await write(harness, features(ids[:1], vectors(np.zeros((1, 64)))), settings=VECTORS)
        messages = [features(ids, vectors(np.ones((5000, 64)))), features(ids[:1], vectors(np.full((1, 64), 2)))]
        await write(harness, *messages, settings=VECTORS)
        assert (await stored(harness, "vectors"))["v0"] == [2] * 64


@pytest.mark.parametrize(
    ("bad", "error", "complaint"),
    [
        (lambda fp: vectors([[1] * 8], tap="mean"), InvalidInput, "without a fingerprint"),
        (lambda fp: vectors([[1] * 8], "0" * 64, "mean"), NotReady, "0" * 64),
        (lambda fp: vectors([[1] * 7], fp, "mean"), InvalidInput, "7 numbers"),
        (lambda fp: vectors([[1] * 8], fp, "meen"), InvalidInput, "meen"),
        (lambda fp: vectors([[1] * 8], fp, "mean", Granularity.TOKEN), InvalidInput, "token"),
    ],
)
async def test_features_that_are_not_the_sets_are_refused(home, bad, error, complaint):
    async with composed(home) as harness:
        await write(harness, texts("owl"))
        fingerprint = harness.sets.get(of_set("birds")).definition.taps[0].fingerprint
        with pytest.raises(error) as caught:
            await write(harness, features("a", bad(fingerprint)), settings=WriteSettings(of_set("birds")))
        assert complaint in caught.value.message
        assert fingerprint in str(caught.value) or "fingerprint" not in caught.value.message  # what is right is said too
        (outcome,) = await write(harness, features("a", vectors([[1] * 8], fingerprint)), settings=WriteSettings(of_set("birds")))
        assert outcome.written.inserted == 1
        assert set(await stored(harness)) == {"owl", "a"}


async def test_features_of_an_encoder_make_its_set(home):
    async with composed(home) as harness:
        embedded = await harness.engine.embed(EmbedParams(of_encoder("letters")), [TextItem("owl"), TextItem("wren")])
        message = features(["owl", "wren"], embedded.taps[0], numerics=embedded.numerics)
        await write(harness, message)
        assert harness.sets.get(of_set("birds")).definition.encoder == "letters"
        assert harness.sets.get(of_set("birds")).describe().numerics == (embedded.numerics,)
        with pytest.raises(NotReady):
            await write(
                harness, features("a", vectors([[1] * 8], "0" * 64, "mean")), settings=WriteSettings(of_set("other"), "letters")
            )
        assert harness.sets.names() == ["birds"]


async def test_rows_that_are_too_far_from_the_reference_are_refused(home):
    async with composed(home) as harness:
        with pytest.raises(NotReady, match=r"0\.99"):
            await write(harness, features("a", vectors([[1.0]]), numerics=Numerics("gpu", "fp8", 0.99, 0.1)), settings=VECTORS)
        await write(harness, features("a", vectors([[1.0]]), numerics=Numerics("gpu", "fp16", 0.9995, 0.1)), settings=VECTORS)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
async def test_numbers_that_are_not_finite(home, bad):
    numbers = [[1, 2], [3, bad], [5, 6]]
    with pytest.raises(InvalidInput, match="not finite") as caught:
        features("abc", vectors(numbers))
    assert caught.value.item == 1
    async with composed(home) as harness:
        (outcome,) = await write(harness, features("abc", vectors(numbers), skip=True), settings=VECTORS)
        assert (outcome.written.inserted, list(outcome.failures)) == (2, [1])
        assert await stored(harness, "vectors") == {"a": [1, 2], "c": [5, 6]}


async def test_a_number_beyond_float16_is_said_of_its_item(home):
    settings = WriteSettings(of_set("vectors"), dtype="float16", skip_bad_items=True)
    async with composed(home) as harness:
        features = vectors([[np.nan, 0.0], [1.0, 2.0], [1e6, 0.0]])
        with pytest.raises(InvalidInput, match="float16") as caught:
            await write(harness, incoming_features(list("abc"), (features,), (), None, skip_bad_items=True), settings=settings)
        assert caught.value.item == 2
        assert harness.sets.names() == []

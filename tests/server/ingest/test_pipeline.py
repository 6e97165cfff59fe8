"""ingest.py on the real store and engine: nothing is encoded twice, and writes keep their order."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import numpy as np
import pytest
from ingest_writes import LETTERS, counts, rows, stored, texts, write, years
from passes import of_set
from sets_harness import composed
from topwork_server import TextItem
from topwork_server.errors import InvalidInput
from topwork_server.ingest.validation import IncomingItems, WriteSettings


async def test_a_set_is_made_of_what_the_encoder_gives(home):
    async with composed(home) as harness:
        (outcome,) = await write(harness, texts("owl", "wren"))
        assert counts(outcome) == (2, 0, 0, 2)
        assert await stored(harness) == await rows(harness, "owl", "wren")
        described = harness.sets.get(of_set("birds")).describe()
        assert described.definition.encoder == "letters"
        assert [info.tap.name for info in described.definition.taps] == ["mean"]
        assert all(len(info.fingerprint) == 64 for info in described.definition.taps)
        assert described.definition.options == {"case": "keep", "repeat": 1}
        assert (described.items, described.version) == (2, outcome.written.version)
        assert [n.provider for n in described.numerics] == ["cpu"]


async def test_what_is_stored_is_not_encoded_again(home):
    async with composed(home, feature_cache=0) as harness:
        await write(harness, texts("owl", "wren", year=[1, 2]))
        (same,) = await write(harness, texts("owl", "wren", year=[1, 2]))
        assert counts(same) == (0, 0, 2, 0)
        (mixed,) = await write(harness, texts("owl", "wren", "kite", year=[1, 7, 3]))
        assert counts(mixed) == (1, 1, 1, 1)
        assert harness.engine.asked == [["owl", "wren"], ["kite"]]
        assert await stored(harness) == await rows(harness, "owl", "wren", "kite")
        assert await years(harness) == {"owl": 1, "wren": 7, "kite": 3}


async def test_other_content_under_an_id_is_encoded(home):
    async with composed(home) as harness:
        await write(harness, texts("owl", ids=["a"]))
        (outcome,) = await write(harness, texts("wren", ids=["a"]))
        assert counts(outcome) == (0, 1, 0, 1)
        assert await stored(harness) == {"a": (await rows(harness, "wren"))["wren"]}


async def test_missing_metadata_is_taken_for_what_it_is(home):
    async with composed(home) as harness:
        await write(harness, texts("owl", "wren", year=[1, None]))
        (outcome,) = await write(harness, texts("owl", "wren"))
        assert counts(outcome) == (0, 1, 1, 0)  # what is not given becomes missing, and wren's was
        assert await years(harness) == {"owl": None, "wren": None}


async def test_rows_with_spans_are_rewritten_as_they_were(home):
    settings = WriteSettings(of_set("birds"), "letters", taps=("letters", "mean"), keep_inputs=True)
    async with composed(home, feature_cache=0) as harness:
        await write(harness, texts("owl", "wren", year=[1, 2]), settings=settings)
        feature_set = harness.sets.get(of_set("birds"))
        before = feature_set.fetch(feature_set.keys()[1], taps=["letters", "mean"], inputs=True)
        await write(harness, texts("wren", "owl", year=[2, 9]), settings=settings)
        keys = feature_set.keys(ids=["owl"])[1]
        after = feature_set.fetch(keys, taps=["letters", "mean"], inputs=True)
        assert harness.engine.encoded == ["owl", "wren"]
        assert after.inputs == [TextItem("owl")]
        assert np.array_equal(after.taps[0].rows, before.taps[0].rows[:3])
        assert np.array_equal(after.taps[0].spans.values, before.taps[0].spans.values[:3])
        assert after.taps[0].spans.values.tolist() == [[0, 1], [1, 2], [2, 3]]
        assert np.array_equal(after.taps[0].spans.parts, before.taps[0].spans.parts[:3])


async def test_content_that_comes_twice_is_encoded_once(home):
    async with composed(home, feature_cache=0) as harness:
        (outcome,) = await write(harness, texts("owl", "wren", "owl", "owl", ids=list("abcd")))
        assert counts(outcome) == (4, 0, 0, 2)
        assert harness.engine.asked == [["owl", "wren"]]
        found = await stored(harness)
        assert found["a"] == found["c"] == found["d"] != found["b"]


async def test_sets_of_one_encoder_share_features_through_the_cache(home):
    async with composed(home) as harness:
        await write(harness, texts("owl", "wren"))
        (outcome,) = await write(harness, texts("wren", "kite"), settings=WriteSettings(of_set("more"), "letters"))
        assert counts(outcome) == (2, 0, 0, 1)
        assert harness.engine.encoded == ["owl", "wren", "kite"]
        assert (await stored(harness, "more"))["wren"] == (await stored(harness))["wren"]
        assert [n.provider for n in harness.sets.get(of_set("more")).describe().numerics] == ["cpu"]


async def test_the_cache_outlives_the_server_and_tells_encoders_taps_and_options_apart(home):
    async with composed(home) as harness:
        await write(harness, texts("owl", "wren"))
    async with composed(home) as harness:
        await write(harness, texts("owl"), settings=WriteSettings(of_set("a"), "letters", options={"repeat": 1}))
        assert harness.engine.encoded == []
        await write(harness, texts("owl"), settings=WriteSettings(of_set("b"), "second"))
        await write(harness, texts("owl"), settings=WriteSettings(of_set("c"), "letters", options={"repeat": 2}))
        await write(harness, texts("owl"), settings=WriteSettings(of_set("d"), "letters", taps=("mean", "letters")))
        assert harness.engine.asked == [["owl"]] * 3
        await write(harness, texts("owl"), settings=WriteSettings(of_set("e"), "letters", taps=("letters",)))
        assert harness.engine.asked == [["owl"]] * 3
        assert await stored(harness, "b") == await rows(harness, "owl", encoder="second")
        assert await stored(harness, "c") == await rows(harness, "owl", repeat=2)


async def test_without_a_cache_sets_do_not_share(home):
    async with composed(home, feature_cache=0) as harness:
        await write(harness, texts("owl"))
        await write(harness, texts("owl"), settings=WriteSettings(of_set("more"), "letters"))
        assert harness.engine.asked == [["owl"], ["owl"]]
        assert not (home / "cache").exists()


async def test_streams_that_bring_the_same_at_once_encode_it_once(home):
    async with composed(home, feature_cache=0) as harness:
        first = asyncio.create_task(write(harness, texts("wait", "owl")))
        await harness.engine.until_asked(1)
        second = asyncio.create_task(
            write(harness, texts("kite", "owl", "wait"), settings=WriteSettings(of_set("more"), "letters"))
        )
        await harness.engine.until_asked(2)
        harness.engine.gate.set()
        outcomes = [*await first, *await second]
        assert [counts(outcome) for outcome in outcomes] == [(2, 0, 0, 2), (3, 0, 0, 1)]
        assert harness.engine.asked == [["wait", "owl"], ["kite"]]


@pytest.mark.parametrize("end", ["cancelled", "failed"])
async def test_a_write_that_waits_for_one_that_gives_up_encodes_it_itself(home, end):
    async with composed(home, feature_cache=0) as harness:
        words = ("wait", "owl") if end == "cancelled" else ("wait", "owl", "")  # an empty text is refused
        first = asyncio.create_task(write(harness, texts(*words, ids=list("abc")[: len(words)])))
        await harness.engine.until_asked(1)
        second = asyncio.create_task(write(harness, texts("owl", "kite"), settings=WriteSettings(of_set("more"), "letters")))
        await harness.engine.until_asked(2)  # for kite; it waits for owl
        if end == "cancelled":
            first.cancel()
        else:
            harness.engine.gate.set()
        with pytest.raises((asyncio.CancelledError, InvalidInput)):
            await first
        (outcome,) = await second
        assert counts(outcome) == (2, 0, 0, 2)
        assert await stored(harness, "more") == await rows(harness, "owl", "kite")
        assert harness.engine.asked[1:] == [["kite"], ["owl"]]


async def test_a_later_message_wins_though_an_earlier_one_is_slow(home):
    async with composed(home) as harness:
        await write(harness, texts("owl", ids=["a"]))
        messages = [texts("wait", ids=["b"]), texts("kite", ids=["a"]), texts("owl", ids=["a"])]
        writing = asyncio.create_task(write(harness, *messages))
        await harness.engine.until_asked(3)  # owl, wait, kite: the third message waits to see what the second leaves behind
        harness.engine.gate.set()
        outcomes = await writing
        assert [counts(outcome) for outcome in outcomes] == [(1, 0, 0, 1), (0, 1, 0, 1), (0, 1, 0, 0)]
        assert (await stored(harness))["a"] == (await rows(harness, "owl"))["owl"]
        versions = [outcome.written.version for outcome in outcomes]
        assert versions == sorted(versions)


async def test_messages_are_encoded_while_others_wait(home):
    async with composed(home) as harness:
        writing = asyncio.create_task(write(harness, texts("wait"), *[texts(f"owl{i}") for i in range(20)]))
        await harness.engine.until_asked(21)
        assert "birds" not in harness.sets.names()  # nothing is written before the first
        harness.engine.gate.set()
        assert [outcome.written.inserted for outcome in await writing] == [1] * 21


async def test_a_failed_message_stops_those_behind_it(home):
    async with composed(home) as harness:
        await write(harness, texts("owl"))
        with pytest.raises(InvalidInput, match="empty") as caught:
            await write(harness, texts("wren"), texts("kite", "", ids=["b", "c"]), texts("crow"))
        assert caught.value.item == 1
        assert set(await stored(harness)) <= {"owl", "wren"}


async def test_nothing_behind_a_failed_message_is_written(home, monkeypatch):
    async with composed(home) as harness:
        kept = _watched_cache(harness, monkeypatch)
        writing = asyncio.create_task(write(harness, texts("wait", "", ids=["a", "b"]), texts("kite")))
        await kept.wait()  # kite is encoded, and its turn has not come
        harness.engine.gate.set()
        with pytest.raises(InvalidInput, match="empty"):
            await writing
        assert harness.sets.names() == []


async def test_bad_items_are_skipped_where_that_was_asked(home):
    settings = replace(LETTERS, skip_bad_items=True)
    async with composed(home) as harness:
        message = texts("owl", "", "wren", "", "owl", ids=list("abcde"), year=[1, 2, 3, 4, 5])
        (outcome,) = await write(harness, message, settings=settings)
        assert counts(outcome) == (3, 0, 0, 2)
        assert {i: type(error) for i, error in outcome.failures.items()} == {1: InvalidInput, 3: InvalidInput}
        assert await years(harness) == {"a": 1, "c": 3, "e": 5}
        (none,) = await write(harness, texts("", ids=["x"]), settings=settings)
        assert (none.written.version, list(none.failures)) == (outcome.written.version, [0])


async def test_failures_of_the_wire_keep_their_positions(home):
    settings = replace(LETTERS, skip_bad_items=True)
    async with composed(home) as harness:
        broken = InvalidInput("it has no content")
        message = IncomingItems(list("abcd"), [TextItem("owl"), TextItem(""), TextItem("kite")], [1, 2, 3], {0: broken})
        (outcome,) = await write(harness, message, settings=settings)
        assert set(outcome.failures) == {0, 2}
        assert set(await stored(harness)) == {"b", "d"}


async def test_a_message_of_bad_items_alone_makes_no_set(home):
    async with composed(home) as harness:
        (outcome,) = await write(harness, texts("", ids=["x"]), settings=replace(LETTERS, skip_bad_items=True))
        assert (outcome.written.version, list(outcome.failures), harness.sets.names()) == (0, [0], [])


async def test_an_encoder_that_fails_in_the_middle_loses_nothing_that_was_acknowledged(home):
    async with composed(home) as harness:
        writing = await harness.ingest.open(LETTERS)
        good = await writing.write(writing.next_slot(["owl"]), texts("owl"))
        assert good.written.inserted == 1
        with pytest.raises(RuntimeError):
            await writing.write(writing.next_slot(["crash"]), texts("crash"))
        assert set(await stored(harness)) == {"owl"}
        await write(harness, texts("owl", "wren"))
        assert harness.engine.encoded == ["owl", "crash", "wren"]


async def test_interrupted_and_written_again_encodes_nothing_twice(home):
    words = [f"bird{i:03}" for i in range(40)]
    messages = [texts(*words[i : i + 4]) for i in range(0, 40, 4)]
    async with composed(home, feature_cache=0) as harness:
        writing = await harness.ingest.open(LETTERS)
        for message in messages[:6]:
            await writing.write(writing.next_slot(message.ids), message)
        # ... and here the writer is gone.
        outcomes = await write(harness, *messages)
        assert sum(outcome.written.unchanged for outcome in outcomes) == 24
        assert sorted(harness.engine.encoded) == words
        assert len(await stored(harness)) == 40


async def test_cancelled_between_encoding_and_writing_it_is_in_the_cache(home, monkeypatch):
    async with composed(home) as harness:
        kept = _watched_cache(harness, monkeypatch)
        writing = asyncio.create_task(write(harness, texts("wait"), texts("owl")))
        await kept.wait()
        writing.cancel()
        with pytest.raises(asyncio.CancelledError):
            await writing
        harness.engine.gate.set()
        await write(harness, texts("wait", "owl"))
        assert harness.engine.encoded == ["wait", "owl", "wait"]


def _watched_cache(harness, monkeypatch):
    """An event that is set when features were put into the cache."""
    kept, loop, put = asyncio.Event(), asyncio.get_running_loop(), harness.ingest.cache.put

    def putting(entries):
        put(entries)
        loop.call_soon_threadsafe(kept.set)

    monkeypatch.setattr(harness.ingest.cache, "put", putting)
    return kept


async def test_many_small_writers(home):
    async with composed(home) as harness:
        outcomes = await asyncio.gather(
            *[write(harness, texts(f"a{i}"), texts("owl", f"b{i}"), texts(f"c{i}")) for i in range(40)]
        )
        assert sum(o.written.inserted for stream in outcomes for o in stream) == 121
        assert len(await stored(harness)) == 121
        assert sorted(set(harness.engine.encoded)) == sorted(harness.engine.encoded)
        assert harness.sets.get(of_set("birds")).version < 121  # they share commits

"""ingest.py on the real store and engine: nothing is encoded twice, writes keep their order, refusals leave no trace."""

from __future__ import annotations

import asyncio
import errno
from dataclasses import replace

import numpy as np
import pytest
from sets_world import composed, export, toy
from topwork_server import Granularity, Tap, Text
from topwork_server.engine import Ask
from topwork_server.errors import DiskFull, InvalidInput, NotFound, NotReady
from topwork_server.sets import lance_io
from topwork_server.sets.agreement import Settings
from topwork_server.sets.incoming import Incoming, check_count, check_ids, ready
from topwork_server.sets.model import Column, ColumnType
from topwork_server.types import Numerics, Spans, TapInfo, TapRows

LETTERS = Settings("birds", "letters")


def texts(*words, ids=None, **columns):
    metadata = tuple(Column(name, ColumnType.INT, values) for name, values in columns.items())
    return Incoming(ids or words, [Text(word) for word in words], range(len(words)), metadata=metadata)


async def write(world, *messages, settings=LETTERS):
    """Messages of one stream, all under way at once; their outcomes."""
    writing = await world.ingest.open(settings)
    places = [writing.place(message.ids) for message in messages]
    tasks = [asyncio.ensure_future(writing.write(*one)) for one in zip(places, messages, strict=True)]
    try:
        return await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()


async def stored(world, name="birds", **columns):
    """id -> the numbers of its first tap."""
    feature_set = await asyncio.to_thread(world.sets.get, name)
    _, keys = feature_set.keys()
    block = feature_set.fetch(keys, taps=[feature_set.wanted.taps[0].tap.name])
    return dict(zip(block.ids, block.taps[0].rows.tolist(), strict=True))


async def years(world, name="birds"):
    feature_set = await asyncio.to_thread(world.sets.get, name)
    block = feature_set.fetch(feature_set.keys()[1], columns=["year"])
    return dict(zip(block.ids, block.metadata[0].values, strict=True))


async def rows(world, *words, encoder="letters", **options):
    features = await world.engine.embed(Ask(encoder, options=options), [Text(word) for word in words])
    del world.engine.asked[-1]
    return dict(zip(words, features.taps[0].rows.tolist(), strict=True))


def counts(outcome):
    written = outcome.written
    return written.inserted, written.updated, written.unchanged, outcome.encoded


async def test_a_set_is_made_of_what_the_encoder_gives(home):
    async with composed(home) as world:
        (outcome,) = await write(world, texts("owl", "wren"))
        assert counts(outcome) == (2, 0, 0, 2)
        assert await stored(world) == await rows(world, "owl", "wren")
        described = world.sets.get("birds").described()
        assert described.wanted.encoder == "letters"
        assert [info.tap.name for info in described.wanted.taps] == ["mean"]
        assert all(len(info.fingerprint) == 64 for info in described.wanted.taps)
        assert described.wanted.options == {"case": "keep", "repeat": 1}
        assert (described.items, described.version) == (2, outcome.written.version)
        assert [n.provider for n in described.numerics] == ["cpu"]


async def test_what_is_stored_is_not_encoded_again(home):
    async with composed(home, feature_cache=0) as world:
        await write(world, texts("owl", "wren", year=[1, 2]))
        (same,) = await write(world, texts("owl", "wren", year=[1, 2]))
        assert counts(same) == (0, 0, 2, 0)
        (mixed,) = await write(world, texts("owl", "wren", "kite", year=[1, 7, 3]))
        assert counts(mixed) == (1, 1, 1, 1)
        assert world.engine.asked == [["owl", "wren"], ["kite"]]
        assert await stored(world) == await rows(world, "owl", "wren", "kite")
        assert await years(world) == {"owl": 1, "wren": 7, "kite": 3}


async def test_other_content_under_an_id_is_encoded(home):
    async with composed(home) as world:
        await write(world, texts("owl", ids=["a"]))
        (outcome,) = await write(world, texts("wren", ids=["a"]))
        assert counts(outcome) == (0, 1, 0, 1)
        assert await stored(world) == {"a": (await rows(world, "wren"))["wren"]}


async def test_missing_metadata_is_taken_for_what_it_is(home):
    async with composed(home) as world:
        await write(world, texts("owl", "wren", year=[1, None]))
        (outcome,) = await write(world, texts("owl", "wren"))
        assert counts(outcome) == (0, 1, 1, 0)  # what is not given becomes missing, and wren's was
        assert await years(world) == {"owl": None, "wren": None}


async def test_rows_with_spans_are_rewritten_as_they_were(home):
    settings = Settings("birds", "letters", taps=("letters", "mean"), keep_inputs=True)
    async with composed(home, feature_cache=0) as world:
        await write(world, texts("owl", "wren", year=[1, 2]), settings=settings)
        feature_set = world.sets.get("birds")
        before = feature_set.fetch(feature_set.keys()[1], taps=["letters", "mean"], inputs=True)
        await write(world, texts("wren", "owl", year=[2, 9]), settings=settings)
        keys = feature_set.keys(ids=["owl"])[1]
        after = feature_set.fetch(keys, taps=["letters", "mean"], inputs=True)
        assert world.engine.encoded == ["owl", "wren"]
        assert after.inputs == [Text("owl")]
        assert np.array_equal(after.taps[0].rows, before.taps[0].rows[:3])
        assert np.array_equal(after.taps[0].spans.values, before.taps[0].spans.values[:3])
        assert after.taps[0].spans.values.tolist() == [[0, 1], [1, 2], [2, 3]]
        assert np.array_equal(after.taps[0].spans.parts, before.taps[0].spans.parts[:3])


async def test_content_that_comes_twice_is_encoded_once(home):
    async with composed(home, feature_cache=0) as world:
        (outcome,) = await write(world, texts("owl", "wren", "owl", "owl", ids=list("abcd")))
        assert counts(outcome) == (4, 0, 0, 2)
        assert world.engine.asked == [["owl", "wren"]]
        found = await stored(world)
        assert found["a"] == found["c"] == found["d"] != found["b"]


async def test_sets_of_one_encoder_share_features_through_the_cache(home):
    async with composed(home) as world:
        await write(world, texts("owl", "wren"))
        (outcome,) = await write(world, texts("wren", "kite"), settings=Settings("more", "letters"))
        assert counts(outcome) == (2, 0, 0, 1)
        assert world.engine.encoded == ["owl", "wren", "kite"]
        assert (await stored(world, "more"))["wren"] == (await stored(world))["wren"]
        assert [n.provider for n in world.sets.get("more").described().numerics] == ["cpu"]


async def test_the_cache_outlives_the_server_and_tells_encoders_taps_and_options_apart(home):
    async with composed(home) as world:
        await write(world, texts("owl", "wren"))
    async with composed(home) as world:
        await write(world, texts("owl"), settings=Settings("a", "letters", options={"repeat": 1}))
        assert world.engine.encoded == []
        await write(world, texts("owl"), settings=Settings("b", "second"))
        await write(world, texts("owl"), settings=Settings("c", "letters", options={"repeat": 2}))
        await write(world, texts("owl"), settings=Settings("d", "letters", taps=("mean", "letters")))
        assert world.engine.asked == [["owl"]] * 3
        await write(world, texts("owl"), settings=Settings("e", "letters", taps=("letters",)))
        assert world.engine.asked == [["owl"]] * 3
        assert await stored(world, "b") == await rows(world, "owl", encoder="second")
        assert await stored(world, "c") == await rows(world, "owl", repeat=2)


async def test_without_a_cache_sets_do_not_share(home):
    async with composed(home, feature_cache=0) as world:
        await write(world, texts("owl"))
        await write(world, texts("owl"), settings=Settings("more", "letters"))
        assert world.engine.asked == [["owl"], ["owl"]]
        assert not (home / "cache").exists()


async def test_streams_that_bring_the_same_at_once_encode_it_once(home):
    async with composed(home, feature_cache=0) as world:
        first = asyncio.create_task(write(world, texts("wait", "owl")))
        await world.engine.until_asked(1)
        second = asyncio.create_task(write(world, texts("kite", "owl", "wait"), settings=Settings("more", "letters")))
        await world.engine.until_asked(2)
        world.engine.gate.set()
        outcomes = [*await first, *await second]
        assert [counts(outcome) for outcome in outcomes] == [(2, 0, 0, 2), (3, 0, 0, 1)]
        assert world.engine.asked == [["wait", "owl"], ["kite"]]


@pytest.mark.parametrize("end", ["cancelled", "failed"])
async def test_who_waits_for_one_that_gives_up_encodes_it_himself(home, end):
    async with composed(home, feature_cache=0) as world:
        words = ("wait", "owl") if end == "cancelled" else ("wait", "owl", "")  # an empty text is refused
        first = asyncio.create_task(write(world, texts(*words, ids=list("abc")[: len(words)])))
        await world.engine.until_asked(1)
        second = asyncio.create_task(write(world, texts("owl", "kite"), settings=Settings("more", "letters")))
        await world.engine.until_asked(2)  # for kite; it waits for owl
        if end == "cancelled":
            first.cancel()
        else:
            world.engine.gate.set()
        with pytest.raises((asyncio.CancelledError, InvalidInput)):
            await first
        (outcome,) = await second
        assert counts(outcome) == (2, 0, 0, 2)
        assert await stored(world, "more") == await rows(world, "owl", "kite")
        assert world.engine.asked[1:] == [["kite"], ["owl"]]


async def test_a_later_message_wins_though_an_earlier_one_is_slow(home):
    async with composed(home) as world:
        await write(world, texts("owl", ids=["a"]))
        messages = [texts("wait", ids=["b"]), texts("kite", ids=["a"]), texts("owl", ids=["a"])]
        writing = asyncio.create_task(write(world, *messages))
        await world.engine.until_asked(3)  # owl, wait, kite: the third message waits to see what the second leaves behind
        world.engine.gate.set()
        outcomes = await writing
        assert [counts(outcome) for outcome in outcomes] == [(1, 0, 0, 1), (0, 1, 0, 1), (0, 1, 0, 0)]
        assert (await stored(world))["a"] == (await rows(world, "owl"))["owl"]
        versions = [outcome.written.version for outcome in outcomes]
        assert versions == sorted(versions)


async def test_messages_are_encoded_while_others_wait(home):
    async with composed(home) as world:
        writing = asyncio.create_task(write(world, texts("wait"), *[texts(f"owl{i}") for i in range(20)]))
        await world.engine.until_asked(21)
        assert "birds" not in world.sets.names()  # nothing is written before the first
        world.engine.gate.set()
        assert [outcome.written.inserted for outcome in await writing] == [1] * 21


async def test_a_failed_message_stops_those_behind_it(home):
    async with composed(home) as world:
        await write(world, texts("owl"))
        with pytest.raises(InvalidInput, match="empty") as caught:
            await write(world, texts("wren"), texts("kite", "", ids=["b", "c"]), texts("crow"))
        assert caught.value.item == 1
        assert set(await stored(world)) <= {"owl", "wren"}


async def test_nothing_behind_a_failed_message_is_written(home, monkeypatch):
    async with composed(home) as world:
        kept = _watched_cache(world, monkeypatch)
        writing = asyncio.create_task(write(world, texts("wait", "", ids=["a", "b"]), texts("kite")))
        await kept.wait()  # kite is encoded, and its turn has not come
        world.engine.gate.set()
        with pytest.raises(InvalidInput, match="empty"):
            await writing
        assert world.sets.names() == []


async def test_bad_items_are_skipped_where_that_was_asked(home):
    settings = replace(LETTERS, skip_bad_items=True)
    async with composed(home) as world:
        message = texts("owl", "", "wren", "", "owl", ids=list("abcde"), year=[1, 2, 3, 4, 5])
        (outcome,) = await write(world, message, settings=settings)
        assert counts(outcome) == (3, 0, 0, 2)
        assert {i: type(error) for i, error in outcome.failures.items()} == {1: InvalidInput, 3: InvalidInput}
        assert await years(world) == {"a": 1, "c": 3, "e": 5}
        (none,) = await write(world, texts("", ids=["x"]), settings=settings)
        assert (none.written.version, list(none.failures)) == (outcome.written.version, [0])


async def test_failures_of_the_wire_keep_their_positions(home):
    settings = replace(LETTERS, skip_bad_items=True)
    async with composed(home) as world:
        broken = InvalidInput("it has no content")
        message = Incoming(list("abcd"), [Text("owl"), Text(""), Text("kite")], [1, 2, 3], {0: broken})
        (outcome,) = await write(world, message, settings=settings)
        assert set(outcome.failures) == {0, 2}
        assert set(await stored(world)) == {"b", "d"}


async def test_a_message_of_bad_items_alone_makes_no_set(home):
    async with composed(home) as world:
        (outcome,) = await write(world, texts("", ids=["x"]), settings=replace(LETTERS, skip_bad_items=True))
        assert (outcome.written.version, list(outcome.failures), world.sets.names()) == (0, [0], [])


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        (Settings("birds", "second"), "has encoder letters, not second"),
        (Settings("birds", taps=("letters",)), "has taps mean, not letters"),
        (Settings("birds", options={"case": "lower"}), "has options case='keep', repeat=1, not case='lower', repeat=1"),
        (Settings("birds", dtype="float16"), "has dtype float32, not float16"),
        (Settings("birds", keep_inputs=True), "has keep_inputs False, not True"),
    ],
)
async def test_settings_that_disagree_with_the_set_are_refused(home, settings, complaint):
    async with composed(home) as world:
        await write(world, texts("owl"))
        with pytest.raises(NotReady, match="birds") as caught:
            await write(world, texts("wren"), settings=settings)
        assert complaint in caught.value.message
        assert set(await stored(world)) == {"owl"}


@pytest.mark.parametrize(
    "settings",
    [
        Settings("birds"),
        Settings("birds", "letters", ("mean",), {"repeat": 1}, "float32"),
        Settings("birds", options={"case": "keep"}),
    ],
)
async def test_settings_that_agree_are_taken(home, settings):
    async with composed(home) as world:
        await write(world, texts("owl"))
        (outcome,) = await write(world, texts("wren"), settings=settings)
        assert outcome.written.inserted == 1


@pytest.mark.parametrize(
    ("settings", "error", "complaint"),
    [
        (Settings("birds"), NotFound, "there is no set 'birds'"),
        (Settings("birds", "leters"), NotFound, "'leters'"),
        (Settings("birds", "letters", taps=("means",)), NotFound, "no tap 'means'"),
        (Settings("birds", "letters", options={"casing": 1}), InvalidInput, "'casing'"),
        (Settings("No Name", "letters"), InvalidInput, "'No Name'"),
        (Settings("birds", "letters", dtype="float64"), InvalidInput, "float64"),
    ],
)
async def test_what_no_set_can_be_made_with_is_refused(home, settings, error, complaint):
    async with composed(home) as world:
        with pytest.raises(error) as caught:
            await write(world, texts("owl"), settings=settings)
        assert complaint in str(caught.value)
        assert world.sets.names() == []


async def test_an_encoder_that_changed_is_refused_with_both_fingerprints(home):
    async with composed(home) as world:
        await write(world, texts("owl"))
        mine = world.sets.get("birds").wanted.taps[0].fingerprint
    changed = toy(seed=7)
    (home / "artifacts").unlink()
    export(home, [changed])
    async with composed(home, [changed]) as world:
        with pytest.raises(NotReady) as caught:
            await write(world, texts("wren"))
        theirs = (await world.engine.embed(Ask("letters"), [Text("a")])).taps[0].tap.fingerprint
        assert mine != theirs
        assert mine in caught.value.message
        assert theirs in caught.value.message
        assert set(await stored(world)) == {"owl"}
        await write(world, texts("owl"))  # what is stored needs no encoder


async def test_an_encoder_that_fails_in_the_middle_loses_nothing_that_was_acknowledged(home):
    async with composed(home) as world:
        writing = await world.ingest.open(LETTERS)
        good = await writing.write(writing.place(["owl"]), texts("owl"))
        assert good.written.inserted == 1
        with pytest.raises(RuntimeError):
            await writing.write(writing.place(["crash"]), texts("crash"))
        assert set(await stored(world)) == {"owl"}
        await write(world, texts("owl", "wren"))
        assert world.engine.encoded == ["owl", "crash", "wren"]


async def test_interrupted_and_written_again_encodes_nothing_twice(home):
    words = [f"bird{i:03}" for i in range(40)]
    messages = [texts(*words[i : i + 4]) for i in range(0, 40, 4)]
    async with composed(home, feature_cache=0) as world:
        writing = await world.ingest.open(LETTERS)
        for message in messages[:6]:
            await writing.write(writing.place(message.ids), message)
        # ... and here the writer is gone.
        outcomes = await write(world, *messages)
        assert sum(outcome.written.unchanged for outcome in outcomes) == 24
        assert sorted(world.engine.encoded) == words
        assert len(await stored(world)) == 40


async def test_cancelled_between_encoding_and_writing_it_is_in_the_cache(home, monkeypatch):
    async with composed(home) as world:
        kept = _watched_cache(world, monkeypatch)
        writing = asyncio.create_task(write(world, texts("wait"), texts("owl")))
        await kept.wait()
        writing.cancel()
        with pytest.raises(asyncio.CancelledError):
            await writing
        world.engine.gate.set()
        await write(world, texts("wait", "owl"))
        assert world.engine.encoded == ["wait", "owl", "wait"]


def _watched_cache(world, monkeypatch):
    """An event that is set when features were put into the cache."""
    kept, loop, put = asyncio.Event(), asyncio.get_running_loop(), world.ingest.cache.put

    def putting(entries):
        put(entries)
        loop.call_soon_threadsafe(kept.set)

    monkeypatch.setattr(world.ingest.cache, "put", putting)
    return kept


async def test_many_small_writers(home):
    async with composed(home) as world:
        outcomes = await asyncio.gather(*[write(world, texts(f"a{i}"), texts("owl", f"b{i}"), texts(f"c{i}")) for i in range(40)])
        assert sum(o.written.inserted for stream in outcomes for o in stream) == 121
        assert len(await stored(world)) == 121
        assert sorted(set(world.engine.encoded)) == sorted(world.engine.encoded)
        assert world.sets.get("birds").version < 121  # they share commits


async def test_another_writer_made_the_set_otherwise(home):
    async with composed(home) as world:
        mine = await world.ingest.open(LETTERS)
        theirs = await world.ingest.open(replace(LETTERS, dtype="float16"))
        await theirs.write(theirs.place(["owl"]), texts("owl"))
        with pytest.raises(NotReady, match="has dtype float16, not float32"):
            await mine.write(mine.place(["wren"]), texts("wren"))
        assert set(await stored(world)) == {"owl"}


async def test_wrong_metadata_is_refused_and_leaves_no_empty_set(home):
    async with composed(home) as world:
        with pytest.raises(InvalidInput, match="key"):
            await write(world, texts("owl", key=[1]))
        assert world.sets.names() == []
        await write(world, texts("owl", year=[1]))
        wrong = replace(texts("wren", "kite"), metadata=(Column("year", ColumnType.STRING, ["x", "y"]),))
        with pytest.raises(InvalidInput, match="'year' holds int"):
            await write(world, wrong)
        assert await years(world) == {"owl": 1}


async def test_a_number_beyond_float16_is_said_of_its_item(home):
    settings = Settings("vectors", dtype="float16", skip_bad_items=True)
    async with composed(home) as world:
        features = vectors([[np.nan, 0.0], [1.0, 2.0], [1e6, 0.0]])
        with pytest.raises(InvalidInput, match="float16") as caught:
            await write(world, ready(list("abc"), (features,), (), None, skip_bad_items=True), settings=settings)
        assert caught.value.item == 2
        assert world.sets.names() == []


async def test_a_full_disk_is_said_and_the_next_write_goes_on(home, monkeypatch):
    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    async with composed(home) as world:
        await write(world, texts("owl"))
        with monkeypatch.context() as patch:
            patch.setattr(lance_io, "write_rows", full)
            with pytest.raises(DiskFull, match="no space left"):
                await write(world, texts("wren"))
        assert set(await stored(world)) == {"owl"}
        (outcome,) = await write(world, texts("wren"))
        assert counts(outcome) == (1, 0, 0, 0)  # it was in the cache


# Ready features


def vectors(numbers, fingerprint="", tap="", granularity=Granularity.ITEM, counts=None, spans=None):
    rows = np.array(numbers, np.float32)
    counts = np.ones(len(rows), np.int64) if counts is None else np.array(counts)
    return TapRows(TapInfo(Tap(tap, rows.shape[1], granularity), fingerprint), rows, counts, spans)


def features(ids, *taps, numerics=None, skip=False):
    return ready(ids, taps, (), numerics, skip_bad_items=skip)


VECTORS = Settings("vectors")


async def test_vectors_of_no_encoder_make_a_set(home):
    async with composed(home) as world:
        outcomes = await write(
            world, features("ab", vectors([[1, 2], [3, 4]])), features("bc", vectors([[5, 6], [7, 8]])), settings=VECTORS
        )
        assert [counts(outcome) for outcome in outcomes] == [(2, 0, 0, 0), (1, 1, 0, 0)]
        assert await stored(world, "vectors") == {"a": [1, 2], "b": [5, 6], "c": [7, 8]}
        wanted = world.sets.get("vectors").wanted
        assert (wanted.encoder, wanted.modality, wanted.taps[0].fingerprint) == ("", None, "")
        with pytest.raises(InvalidInput, match="ready vectors"):
            await write(world, texts("owl"), settings=VECTORS)


async def test_several_taps_with_spans(home):
    spans = Spans("seconds", np.array([[0, 1], [1, 2], [0, 1]], np.float32))
    windows = vectors([[1, 2], [3, 4], [5, 6]], "f" * 64, "windows", Granularity.WINDOW, [2, 1], spans)
    whole = vectors([[1.0], [2.0]], "e" * 64, "whole")
    async with composed(home) as world:
        await write(world, features("ab", windows, whole), settings=VECTORS)
        await write(world, features("cd", whole, windows), settings=VECTORS)  # in any order
        found = world.sets.get("vectors")
        block = found.fetch(found.keys()[1], taps=["windows"])
        assert block.taps[0].counts.tolist() == [2, 1, 2, 1]
        assert block.taps[0].spans.values.tolist() == spans.values.tolist() * 2


async def test_of_ready_features_the_later_message_wins_too(home):
    async with composed(home) as world:
        ids = [f"v{i}" for i in range(5000)]
        await write(world, features(ids[:1], vectors(np.zeros((1, 64)))), settings=VECTORS)
        messages = [features(ids, vectors(np.ones((5000, 64)))), features(ids[:1], vectors(np.full((1, 64), 2)))]
        await write(world, *messages, settings=VECTORS)
        assert (await stored(world, "vectors"))["v0"] == [2] * 64


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
    async with composed(home) as world:
        await write(world, texts("owl"))
        fingerprint = world.sets.get("birds").wanted.taps[0].fingerprint
        with pytest.raises(error) as caught:
            await write(world, features("a", bad(fingerprint)), settings=Settings("birds"))
        assert complaint in caught.value.message
        assert error is InvalidInput or fingerprint in caught.value.message
        assert fingerprint in str(caught.value) or "numbers" in complaint or "meen" in complaint or "token" in complaint
        (outcome,) = await write(world, features("a", vectors([[1] * 8], fingerprint)), settings=Settings("birds"))
        assert outcome.written.inserted == 1
        assert set(await stored(world)) == {"owl", "a"}


async def test_features_of_an_encoder_make_its_set(home):
    async with composed(home) as world:
        embedded = await world.engine.embed(Ask("letters"), [Text("owl"), Text("wren")])
        message = features(["owl", "wren"], embedded.taps[0], numerics=embedded.numerics)
        await write(world, message)
        assert world.sets.get("birds").wanted.encoder == "letters"
        assert world.sets.get("birds").described().numerics == (embedded.numerics,)
        with pytest.raises(NotReady):
            await write(world, features("a", vectors([[1] * 8], "0" * 64, "mean")), settings=Settings("other", "letters"))
        assert world.sets.names() == ["birds"]


async def test_rows_that_are_too_far_from_the_reference_are_refused(home):
    async with composed(home) as world:
        with pytest.raises(NotReady, match=r"0\.99"):
            await write(world, features("a", vectors([[1.0]]), numerics=Numerics("gpu", "fp8", 0.99, 0.1)), settings=VECTORS)
        await write(world, features("a", vectors([[1.0]]), numerics=Numerics("gpu", "fp16", 0.9995, 0.1)), settings=VECTORS)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
async def test_numbers_that_are_not_finite(home, bad):
    numbers = [[1, 2], [3, bad], [5, 6]]
    with pytest.raises(InvalidInput, match="not finite") as caught:
        features("abc", vectors(numbers))
    assert caught.value.item == 1
    async with composed(home) as world:
        (outcome,) = await write(world, features("abc", vectors(numbers), skip=True), settings=VECTORS)
        assert (outcome.written.inserted, list(outcome.failures)) == (2, [1])
        assert await stored(world, "vectors") == {"a": [1, 2], "c": [5, 6]}


@pytest.mark.parametrize(
    ("ids", "complaint", "item"),
    [
        ([], "no ids", None),
        (["a", ""], "empty", 1),
        (["a", "b", "a"], "'a' is there twice", 2),
        (["a", "x" * 600], "600 bytes", 1),
        (["é" * 300], "600 bytes", 0),
    ],
)
def test_ids(ids, complaint, item):
    with pytest.raises(InvalidInput, match=complaint) as caught:
        check_ids(ids)
    assert caught.value.item == item


def test_as_many_ids_as_items():
    check_ids(["x" * 512, "é" * 256])
    check_count(["a"], 1, "items")
    with pytest.raises(InvalidInput, match="1 ids came with 2 items"):
        check_count(["a"], 2, "items")

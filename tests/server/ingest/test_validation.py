"""ingest.py: what disagrees with the set is refused, both are named, and the set is as it was."""

from __future__ import annotations

import errno
from dataclasses import replace

import pytest
from ingest_writes import LETTERS, counts, stored, texts, write, years
from passes import of_encoder, of_set
from sets_harness import composed, export
from topwork_server import TextItem
from topwork_server.errors import DiskFull, InvalidInput, NotFound, NotReady
from topwork_server.feature_sets import lance_io
from topwork_server.feature_sets.set_types import Column, ColumnType
from topwork_server.inference.engine import EmbedParams
from topwork_server.ingest.validation import WriteSettings, check_count, check_message_ids
from toys import letters_spec


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        (WriteSettings(of_set("birds"), "second"), "has encoder letters, not second"),
        (WriteSettings(of_set("birds"), taps=("letters",)), "has taps mean, not letters"),
        (
            WriteSettings(of_set("birds"), options={"case": "lower"}),
            "has options case='keep', repeat=1, not case='lower', repeat=1",
        ),
        (WriteSettings(of_set("birds"), dtype="float16"), "has dtype float32, not float16"),
        (WriteSettings(of_set("birds"), keep_inputs=True), "has keep_inputs False, not True"),
    ],
)
async def test_settings_that_disagree_with_the_set_are_refused(home, settings, complaint):
    async with composed(home) as harness:
        await write(harness, texts("owl"))
        with pytest.raises(NotReady, match="birds") as caught:
            await write(harness, texts("wren"), settings=settings)
        assert complaint in caught.value.message
        assert set(await stored(harness)) == {"owl"}


@pytest.mark.parametrize(
    "settings",
    [
        WriteSettings(of_set("birds")),
        WriteSettings(of_set("birds"), "letters", ("mean",), {"repeat": 1}, "float32"),
        WriteSettings(of_set("birds"), options={"case": "keep"}),
    ],
)
async def test_settings_that_agree_are_taken(home, settings):
    async with composed(home) as harness:
        await write(harness, texts("owl"))
        (outcome,) = await write(harness, texts("wren"), settings=settings)
        assert outcome.written.inserted == 1


@pytest.mark.parametrize(
    ("settings", "error", "complaint"),
    [
        (WriteSettings(of_set("birds")), NotFound, "there is no set 'birds'"),
        (WriteSettings(of_set("birds"), "leters"), NotFound, "'leters'"),
        (WriteSettings(of_set("birds"), "letters", taps=("means",)), NotFound, "no tap 'means'"),
        (WriteSettings(of_set("birds"), "letters", options={"casing": 1}), InvalidInput, "'casing'"),
        (WriteSettings(of_set("No Name"), "letters"), InvalidInput, "'No Name'"),
        (WriteSettings(of_set("birds"), "letters", dtype="float64"), InvalidInput, "float64"),
    ],
)
async def test_what_no_set_can_be_made_with_is_refused(home, settings, error, complaint):
    async with composed(home) as harness:
        with pytest.raises(error) as caught:
            await write(harness, texts("owl"), settings=settings)
        assert complaint in str(caught.value)
        assert harness.sets.names() == []


async def test_an_encoder_that_changed_is_refused_with_both_fingerprints(home):
    async with composed(home) as harness:
        await write(harness, texts("owl"))
        mine = harness.sets.get(of_set("birds")).definition.taps[0].fingerprint
    changed = letters_spec(seed=7)
    (home / "artifacts").unlink()
    export(home, [changed])
    async with composed(home, [changed]) as harness:
        with pytest.raises(NotReady) as caught:
            await write(harness, texts("wren"))
        theirs = (await harness.engine.embed(EmbedParams(of_encoder("letters")), [TextItem("a")])).taps[0].tap.fingerprint
        assert mine != theirs
        assert mine in caught.value.message
        assert theirs in caught.value.message
        assert set(await stored(harness)) == {"owl"}
        await write(harness, texts("owl"))  # what is stored needs no encoder


async def test_another_writer_made_the_set_otherwise(home):
    async with composed(home) as harness:
        mine = await harness.ingest.open(LETTERS)
        theirs = await harness.ingest.open(replace(LETTERS, dtype="float16"))
        await theirs.write(theirs.next_slot(["owl"]), texts("owl"))
        with pytest.raises(NotReady, match="has dtype float16, not float32"):
            await mine.write(mine.next_slot(["wren"]), texts("wren"))
        assert set(await stored(harness)) == {"owl"}


async def test_wrong_metadata_is_refused_and_leaves_no_empty_set(home):
    async with composed(home) as harness:
        with pytest.raises(InvalidInput, match="key"):
            await write(harness, texts("owl", key=[1]))
        assert harness.sets.names() == []
        await write(harness, texts("owl", year=[1]))
        wrong = replace(texts("wren", "kite"), metadata=(Column("year", ColumnType.STRING, ["x", "y"]),))
        with pytest.raises(InvalidInput, match="'year' holds int"):
            await write(harness, wrong)
        assert await years(harness) == {"owl": 1}


async def test_a_full_disk_is_said_and_the_next_write_goes_on(home, monkeypatch):
    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    async with composed(home) as harness:
        await write(harness, texts("owl"))
        with monkeypatch.context() as patch:
            patch.setattr(lance_io, "write_rows", full)
            with pytest.raises(DiskFull, match="no space left"):
                await write(harness, texts("wren"))
        assert set(await stored(harness)) == {"owl"}
        (outcome,) = await write(harness, texts("wren"))
        assert counts(outcome) == (1, 0, 0, 0)  # it was in the cache


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
        check_message_ids(ids)
    assert caught.value.item == item


def test_as_many_ids_as_items():
    check_message_ids(["x" * 512, "é" * 256])
    check_count(["a"], 1, "items")
    with pytest.raises(InvalidInput, match="1 ids came with 2 items"):
        check_count(["a"], 2, "items")

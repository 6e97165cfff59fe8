"""What is written to a feature set is what is read from it, and what cannot be stored is refused by name."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import lance
import numpy as np
import pytest
from passes import of_set
from sample_batches import CELLS, DIM, POOLED, TOKENS, WINDOWS, block, everything, names, rows, wanted
from topwork_server.errors import InvalidInput, NotReady
from topwork_server.feature_sets.feature_set import FeatureSet
from topwork_server.feature_sets.set_registry import FeatureSets
from topwork_server.feature_sets.set_types import KEY_BITS, Column, ColumnType, ItemBatch, Selection, WriteResult
from topwork_server.features import Spans
from topwork_server.types import AudioItem, FingerprintedTap, ImageItem, Numerics, TextItem, VideoItem


def test_upserts_and_deletes_by_id(birds: FeatureSet) -> None:
    first = block(["a", "b", "c"], 1, year=[1, 2, 3])
    assert birds.write(first).result() == WriteResult(birds.version, 3, 0)
    second = block(["b", "d"], 2, year=[20, 40])
    assert birds.write(second).result() == WriteResult(birds.version, 1, 1)
    assert birds.delete(["a", "nobody"]).result() == (1, birds.version)
    found = everything(birds)
    assert {id: item["year"] for id, item in found.items()} == {"b": 20, "c": 3, "d": 40}
    np.testing.assert_array_equal(found["b"]["rows"], second.taps[0].rows[:1])
    np.testing.assert_array_equal(found["c"]["rows"], first.taps[0].rows[2:])
    assert birds.describe().items == 3


def test_deletes_by_filter_what_was_written_before_it(birds: FeatureSet) -> None:
    birds.write(block(["a", "b", "c"], year=[1, 2, 3]))
    deleted = birds.delete(None, "year >= 2")
    birds.write(block(["d"], year=[4]))
    assert deleted.result()[0] == 2
    assert birds.delete(None, "year = 77").result()[0] == 0
    assert sorted(everything(birds)) == ["a", "d"]


def test_a_deletion_says_what_to_delete(birds: FeatureSet) -> None:
    with pytest.raises(InvalidInput, match="neither"):
        birds.delete(None)
    with pytest.raises(InvalidInput, match="by one of them"):
        birds.delete(["a"], "true")


@pytest.mark.parametrize("info", [TOKENS, WINDOWS, CELLS], ids=lambda info: info.tap.granularity.value)
@pytest.mark.parametrize("spans", [True, False])
def test_items_of_many_rows_keep_their_rows_and_spans(sets: FeatureSets, info: FingerprintedTap, spans: bool) -> None:
    many = sets.create(wanted("many", info, POOLED))
    counts = [3, 0, 2, 5]
    sent = rows(info, counts, spans=spans)
    many.write(ItemBatch(["w", "x", "y", "z"], (rows(POOLED, [1] * 4), sent))).result()
    (got,) = many.read(Selection(taps=[info.tap.name])).batches
    assert [t.tap for t in got.taps] == [info]
    np.testing.assert_array_equal(got.taps[0].counts, counts)
    np.testing.assert_array_equal(got.taps[0].rows, sent.rows)
    if not spans or sent.spans is None:
        assert got.taps[0].spans is None
        return
    assert got.taps[0].spans is not None
    assert got.taps[0].spans.kind == sent.spans.kind
    np.testing.assert_array_equal(got.taps[0].spans.values, sent.spans.values)
    np.testing.assert_array_equal(got.taps[0].spans.parts, sent.spans.parts)


def test_items_with_and_without_spans_share_a_block(sets: FeatureSets) -> None:
    many = sets.create(wanted("many", TOKENS))
    told = rows(TOKENS, [2])
    many.write(ItemBatch(["told"], (told,))).result()
    many.write(ItemBatch(["untold"], (rows(TOKENS, [3], spans=False),))).result()
    (got,) = many.read(Selection()).batches
    spans, sent = got.taps[0].spans, told.spans
    assert spans is not None
    assert sent is not None
    np.testing.assert_array_equal(spans.values, np.concatenate([sent.values, np.zeros((3, 2))]))
    np.testing.assert_array_equal(spans.parts, [*np.asarray(sent.parts), 0, 0, 0])


def test_half_precision_is_stored_as_such_and_overflow_is_refused(sets: FeatureSets) -> None:
    half = sets.create(wanted("half", dtype="float16"))
    sent = block(["a"])
    half.write(sent).result()
    got = everything(half)["a"]["rows"]
    assert got.dtype == np.float32
    np.testing.assert_array_equal(got, sent.taps[0].rows.astype(np.float16).astype(np.float32))
    assert str(lance.dataset(str(half.path)).schema.field("features_pooled").type) == "fixed_size_list<item: halffloat>[4]"
    large = replace(sent.taps[0], rows=np.full((1, DIM), 7e4, np.float32))
    with pytest.raises(InvalidInput, match=r"'a'.*float16"):
        half.write(ItemBatch(["a"], (large,)))


def test_raw_inputs_come_back(sets: FeatureSets, tmp_path: Path) -> None:
    film = tmp_path / "film.mp4"
    film.write_bytes(b"a film")
    kept = sets.create(wanted("kept", keep_inputs=True))
    array = np.arange(12, dtype=np.uint8).reshape(2, 2, 3)
    items = [
        TextItem("a", "b"),
        TextItem(""),
        ImageItem(b"\x00png"),
        VideoItem(b"mp4"),
        VideoItem(film),
        AudioItem(b"wav"),
        array,
        None,
    ]
    sent = replace(block(names(0, len(items))), inputs=items)
    kept.write(sent).result()
    (got,) = kept.read(Selection(inputs=True)).batches
    assert list(got.inputs[:6]) == [*items[:4], VideoItem(b"a film"), AudioItem(b"wav")]
    np.testing.assert_array_equal(got.inputs[6], array)
    assert got.inputs[7] is None
    with pytest.raises(InvalidInput, match=r"nowhere.mp4"):
        kept.write(replace(block(["x"]), inputs=[VideoItem(tmp_path / "nowhere.mp4")]))
    with pytest.raises(InvalidInput, match="objects"):
        kept.write(replace(block(["x"]), inputs=[np.array([object()])]))


def test_inputs_that_are_not_kept_are_not_asked_for(birds: FeatureSet) -> None:
    birds.write(replace(block(["a"]), inputs=[TextItem("a")])).result()
    with pytest.raises(InvalidInput, match="keeps no inputs"):
        birds.read(Selection(inputs=True))


def test_keys_are_never_used_again(birds: FeatureSet) -> None:
    seen: list[int] = []
    for _ in range(3):
        before = birds.version
        birds.write(block(["a", "b"])).result()
        _, keys = birds.keys()
        assert (keys >> KEY_BITS == before).all()
        birds.delete(["a", "b"]).result()
        seen += keys.tolist()
    assert len(set(seen)) == 6
    assert len(birds.keys()[1]) == 0


def test_fetches_by_key_in_their_order_without_those_that_are_gone(birds: FeatureSet) -> None:
    sent = block(["a", "b", "c"], label=["x", "y", "z"])
    birds.write(sent).result()
    _, (a, b, c) = birds.keys()
    birds.delete(["b"]).result()
    got = birds.fetch(np.array([c, b, a, c]), taps=None, columns=["label"])
    assert list(got.ids) == ["c", "a", "c"]
    assert got.keys is not None
    assert got.keys.tolist() == [c, a, c]
    assert got.metadata[0].values == ["z", "x", "z"]
    np.testing.assert_array_equal(got.taps[0].rows, sent.taps[0].rows[[2, 0, 2]])
    assert list(birds.fetch(np.array([c, a])).ids) == ["c", "a"]
    assert list(birds.fetch(np.array([b, 5]), taps=None, columns=None).ids) == []
    assert birds.ids_of(np.array([a, b, c])) == ["a", None, "c"]


def test_tells_what_is_known(birds: FeatureSet) -> None:
    birds.write(block(["a", "b"], contents=["f" * 64, ""], year=[1, None])).result()
    known = birds.stored_items(["b", "nobody", "a"])
    assert {id: (one.content_hash, one.metadata) for id, one in known.items()} == {
        "a": ("f" * 64, {"year": 1}),
        "b": ("", {"year": None}),
    }
    assert known["a"].key == birds.keys(ids=["a"])[1][0]
    assert birds.stored_items(["nobody"]) == {}


def test_reads_what_was_asked(birds: FeatureSet) -> None:
    birds.write(block(names(0, 50), year=list(range(50)), label=["x"] * 50)).result()
    middle = birds.version
    birds.write(block(names(50, 60), year=list(range(50, 60)))).result()
    assert set(everything(birds, since=middle)) == set(names(50, 60))
    assert set(everything(birds, where="year < 5 or year >= 58")) == {*names(0, 5), *names(58, 60)}
    assert set(everything(birds, ids=["item-00007", "nobody", "item-00055"])) == {"item-00007", "item-00055"}
    assert set(everything(birds, ids=names(0, 20), where="year > 17", since=0)) == set(names(18, 20))
    assert list(everything(birds, offset=10, limit=5)) == names(10, 15)
    assert list(everything(birds, ids=names(0, 20), offset=18)) == names(18, 20)
    reading = birds.read(Selection(where="year < 20", offset=5, limit=3))
    assert (reading.total, reading.version) == (20, birds.version)
    (got,) = birds.read(Selection(taps=(), columns=("year",))).batches
    assert (got.taps, [column.name for column in got.metadata]) == ((), ["year"])
    assert everything(birds, version=middle).keys() == set(names(0, 50))


def test_blocks_are_about_as_large_as_asked(birds: FeatureSet) -> None:
    for start in range(0, 3000, 1000):
        birds.write(block(names(start, start + 1000))).result()
    for ids in (None, names(0, 3000)):
        parts = list(birds.read(Selection(batch_bytes=8000, columns=(), ids=ids)).batches)
        sizes = [len(part.ids) * (DIM * 4 + 8 + 14) for part in parts]
        assert sum(len(part.ids) for part in parts) == 3000
        assert max(sizes) <= 16_000
        assert np.median(sizes) >= 4_000


def test_an_empty_set_reads_as_nothing(birds: FeatureSet) -> None:
    reading = birds.read(Selection())
    assert (reading.total, list(reading.batches)) == (0, [])
    assert birds.write(ItemBatch([], (rows(POOLED, []),))).result() == WriteResult(birds.version, 0, 0)


def test_the_folder_opens_with_plain_lance(birds: FeatureSet) -> None:
    birds.write(block(["a"], year=[1999])).result()
    table = lance.dataset(str(birds.path)).to_table(columns=["id", "year", "features_pooled"])
    assert table.num_rows == 1
    assert table["id"].to_pylist() == ["a"]
    assert len(table["features_pooled"][0].as_py()) == DIM


REFUSED = {
    "an empty id": (lambda: block(["a", ""]), "empty id"),
    "an id twice": (lambda: block(["a", "b", "a"]), "'a' stands more than once"),
    "a long id": (lambda: block(["é" * 300]), "600 bytes"),
    "NUL in an id": (lambda: block(["a\0b"]), "NUL"),
    "half a surrogate": (lambda: block(["\ud800"]), "UTF-8"),
    "a number for an id": (lambda: block([1]), "ids are texts"),  # type: ignore[list-item]
    "NaN": (
        lambda: ItemBatch(["a"], (replace(rows(POOLED, [1]), rows=np.array([[1, np.nan, 0, 0]], np.float32)),)),
        "'a'.*number 1",
    ),
    "infinity": (lambda: ItemBatch(["a"], (replace(rows(POOLED, [1]), rows=np.full((1, DIM), -np.inf, np.float32)),)), "-inf"),
    "too large a double": (lambda: ItemBatch(["a"], (replace(rows(POOLED, [1]), rows=np.full((1, DIM), 1e200)),)), r"1e\+200"),
    "whole numbers": (lambda: ItemBatch(["a"], (replace(rows(POOLED, [1]), rows=np.ones((1, DIM), np.int32)),)), "int32"),
    "another dim": (lambda: ItemBatch(["a"], (replace(rows(POOLED, [1]), rows=np.ones((1, 3), np.float32)),)), r"\(1, 3\)"),
    "two rows an item": (lambda: ItemBatch(["a", "b"], (replace(rows(POOLED, [2, 0])),)), "item 0: 2 rows"),
    "counts that do not add up": (lambda: ItemBatch(["a"], (replace(rows(POOLED, [1]), counts=np.array([2])),)), "counts"),
    "too few counts": (lambda: ItemBatch(["a", "b"], (rows(POOLED, [1]),)), "counts"),
    "no rows": (lambda: ItemBatch(["a"]), "takes pooled"),
    "another tap": (lambda: ItemBatch(["a"], (rows(TOKENS, [1]),)), "takes pooled"),
    "spans of an item": (
        lambda: ItemBatch(["a"], (replace(rows(POOLED, [1]), spans=Spans("chars", np.zeros((1, 2), np.float32))),)),
        "spans",
    ),
    "a short column": (lambda: replace(block(["a", "b"]), metadata=(Column("year", ColumnType.INT, [1]),)), "'year': 1 values"),
    "short contents": (lambda: replace(block(["a", "b"]), content_hashes=["x"]), "1 contents"),
    "our own column": (lambda: block(["a"], key=[1]), "'key'"),
    "our own prefix": (lambda: block(["a"], features_x=[1]), "'features_x'"),
    "an underscore": (lambda: block(["a"], _x=[1]), "'_x'"),
    "a name with a space": (lambda: block(["a"], **{"a b": [1]}), "'a b'"),
    "one column twice": (lambda: block(["a"], year=[1], Year=[2]), "'year' and 'Year'"),
    "a text among numbers": (lambda: block(["a", "b"], year=[1, "x"]), "'year' holds int.*'x'"),
    "a number too large": (lambda: block(["a"], year=[2**63]), "'year'"),
    "a truth among numbers": (lambda: block(["a", "b"], year=[1, True]), "'year' holds int"),
    "a number in a list of texts": (lambda: block(["a"], tags=[["x", 1]]), "'tags'"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_refuses_by_name_and_leaves_the_set_as_it_is(birds: FeatureSet, what: str) -> None:
    make, message = REFUSED[what]
    before = birds.version
    with pytest.raises(InvalidInput, match=message):
        birds.write(make())
    assert birds.version == before
    assert birds.write(block(["good"])).result().inserted == 1


def test_refuses_other_fingerprints_and_poor_numerics(birds: FeatureSet) -> None:
    other = replace(POOLED, fingerprint="e" * 64)
    with pytest.raises(NotReady, match=r"e{64}.*a{64}"):
        birds.write(ItemBatch(["a"], (rows(other, [1]),)))
    with pytest.raises(NotReady, match=r"bf16.*0\.993"):
        birds.write(block(["a"]), Numerics("openvino", "bf16", 0.993, 0.1))
    with pytest.raises(NotReady, match="nan"):
        birds.write(block(["a"]), Numerics("openvino", "bf16", float("nan"), 0.1))


def test_rows_of_an_int8_graph_are_taken_of_any_parity(birds: FeatureSet) -> None:
    """Their fingerprint is the int8 graph's own."""
    birds.write(block(["a"]), Numerics("cpu", "int8", 0.993, 0.1)).result()


def test_notes_what_computed_the_rows(sets: FeatureSets, birds: FeatureSet) -> None:
    cpu, amx = Numerics("CPU", "fp32", 1.0, 0.0), Numerics("OpenVINO", "bf16", 0.9999, 0.01)
    for numerics in (cpu, amx, cpu, replace(cpu, parity=0.9995)):
        birds.write(block(["a"]), numerics).result()
    assert birds.describe().numerics == (cpu, amx)
    sets.close()
    assert FeatureSets(sets.folder).get(of_set("birds")).describe().numerics == (cpu, amx)

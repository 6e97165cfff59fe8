"""The Indexes service over real gRPC: real sets, toy encoders, the search executor; jobs run in this process."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
import sets_harness
from fake_engine import refusal
from google.protobuf.struct_pb2 import Struct
from grpc import StatusCode as Code
from indexes_harness import Kinds, builds
from local_jobs import LocalJobs
from passes import of_encoder, of_set
from topwork.v1 import indexes_pb2 as pb
from topwork.v1 import indexes_pb2_grpc, types_pb2
from topwork.v1.encoders_pb2 import Items
from topwork.v1.sets_pb2 import Strings
from topwork_server.access.gate import Gate
from topwork_server.app import OPTIONS
from topwork_server.feature_sets.set_types import Column, ColumnType, ItemBatch, SetDefinition
from topwork_server.features import Spans, TapRows
from topwork_server.indexes.executor import SearchExecutor
from topwork_server.indexes.index_manager import IndexManager
from topwork_server.indexes.index_types import MOST_HITS
from topwork_server.inference.engine import EmbedParams
from topwork_server.inference.output_format import normalize
from topwork_server.services.convert import item_messages
from topwork_server.services.indexes import IndexesService
from topwork_server.services.interceptor import RequestInterceptor
from topwork_server.services.request_tracker import RequestTracker
from topwork_server.types import FingerprintedTap, Modality, TextItem

WORDS = ["a red bird", "a blue whale", "two birds", "the sea", "whales and birds", "nothing at all", "a bird", "a whale"]


@dataclass
class ServedIndexes:
    sets: Any
    engine: Any
    indexes: IndexManager
    jobs: LocalJobs
    stub: Any
    taps: dict[str, FingerprintedTap]
    requests: RequestTracker

    async def embed(self, *words: str, tap: str = "mean", encoder: str = "letters", **options: Any) -> TapRows:
        features = await self.engine.embed(EmbedParams(of_encoder(encoder), (tap,), options), [TextItem(word) for word in words])
        return features.taps[0]

    async def write(self, *words: str, tap: str = "mean", set: str = "birds", **columns: list[Any]) -> None:
        feature_set = self.sets.get(of_set(set))
        rows = await self.embed(*words, tap=tap, **feature_set.definition.options)
        metadata = tuple(Column(n, ColumnType.INT if isinstance(v[0], int) else ColumnType.STRING, v) for n, v in columns.items())
        feature_set.write(ItemBatch(list(words), (rows,), metadata)).result()

    async def search(self, **fields: Any) -> pb.SearchResponse:
        return await self.stub.Search(pb.SearchRequest(**{"set": "birds", **fields}))

    async def index(self, **fields: Any) -> pb.Index:
        made = await self.stub.CreateIndex(pb.CreateIndexRequest(**{"set": "birds", **fields}))
        await self.indexes.wait_for_build(of_set(made.set), made.name)
        return await self.stub.GetIndex(pb.GetIndexRequest(set=made.set, name=made.name))


@asynccontextmanager
async def served(home: Path, **settings: Any) -> AsyncIterator[ServedIndexes]:
    async with sets_harness.composed(home, **settings) as parts:
        kinds = Kinds()
        jobs, requests = builds(kinds), RequestTracker(Gate(home))
        indexes = IndexManager(home / "indexes", parts.sets, jobs, kinds, 1, lambda: False)  # type: ignore[arg-type]
        executor = SearchExecutor(2, lambda: False)
        server = grpc.aio.server(interceptors=[RequestInterceptor(requests)], options=OPTIONS)
        service = IndexesService(indexes, executor, jobs, kinds, parts.engine, parts.catalog, parts.config)  # type: ignore[arg-type]
        indexes_pb2_grpc.add_IndexesServicer_to_server(service, server)  # type: ignore[no-untyped-call]
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        try:
            async with grpc.aio.insecure_channel(f"127.0.0.1:{port}", [("grpc.max_receive_message_length", -1)]) as channel:
                stub = indexes_pb2_grpc.IndexesStub(channel)  # type: ignore[no-untyped-call]
                manifest = parts.catalog.entry("letters").manifest
                taps = {info.tap.name: info for info in manifest.taps}
                yield ServedIndexes(parts.sets, parts.engine, indexes, jobs, stub, taps, requests)
        finally:
            await requests.cut()
            await server.stop(None)
            await executor.close()
            await indexes.close()


def items(*words: str) -> Items:
    return Items(items=[types_pb2.Item(text=word) for word in words])


def tensor(rows: Any, dtype: int = types_pb2.DTYPE_FLOAT32) -> types_pb2.Tensor:
    rows = np.ascontiguousarray(rows)
    return types_pb2.Tensor(dtype=dtype, shape=rows.shape, data=rows.tobytes())


async def birds(w: ServedIndexes, *taps: str, **more: Any) -> None:
    w.sets.create(
        SetDefinition(
            "birds", tuple(w.taps[tap] for tap in taps or ("mean",)), "letters", **{"modalities": (Modality.TEXT,), **more}
        )
    )


async def filled(w: ServedIndexes) -> np.ndarray:
    """WORDS with a year each, under an index; their unit rows."""
    await birds(w)
    await w.write(*WORDS, year=list(range(2000, 2008)))
    assert (await w.index()).state == pb.INDEX_STATE_READY
    return normalize((await w.embed(*WORDS)).rows)


def scores_of(found: pb.SearchResponse) -> np.ndarray:
    return item_messages.array(found.scores)


def best(rows: np.ndarray, query: np.ndarray, k: int) -> list[str]:
    return [WORDS[i] for i in np.argsort(-(rows @ query), kind="stable")[:k]]


async def test_items_vectors_and_stored_ids_find_the_same(home):
    async with served(home) as w:
        rows = await filled(w)
        by_items = await w.search(items=items("a bird", "the sea"), k=3)
        assert list(by_items.counts) == [3, 3]
        assert list(by_items.ids) == best(rows, rows[6], 3) + best(rows, rows[3], 3)
        assert scores_of(by_items)[0] == pytest.approx(1)
        np.testing.assert_allclose(scores_of(by_items)[:3], np.sort(rows @ rows[6])[::-1][:3], rtol=1e-5)
        assert by_items.metric == pb.METRIC_COSINE
        assert by_items.version == w.sets.get(of_set("birds")).version
        assert by_items.timings.compute > 0
        assert by_items.timings.total >= by_items.search_seconds > 0
        by_vectors = await w.search(vectors=tensor(7 * rows[[6, 3]]), k=3, fingerprint=w.taps["mean"].fingerprint)
        assert list(by_vectors.ids) == list(by_items.ids)
        halves = await w.search(vectors=tensor(rows[[6, 3]].astype(np.float16), types_pb2.DTYPE_FLOAT16), k=1)
        assert list(halves.ids) == ["a bird", "the sea"]
        by_ids = await w.search(stored=Strings(values=["a bird", "the sea", "a bird"]), k=3)
        assert list(by_ids.counts) == [3, 3, 3]
        assert list(by_ids.ids[:3]) == best(rows, rows[6], 4)[1:]  # its own item is not among them
        assert list(by_ids.ids[:3]) == list(by_ids.ids[6:])
        assert not by_ids.HasField("rows")
        assert not by_ids.HasField("spans")


async def test_what_was_acknowledged_before_is_found(home):
    async with served(home) as w:
        await filled(w)
        feature_set = w.sets.get(of_set("birds"))
        for round in range(20):
            word = "xyz" * (round + 1)
            await w.write(word, year=[3000])
            version = feature_set.version
            found = await w.search(items=items(word), k=1)
            assert list(found.ids) == [word]
            assert found.version >= version
            feature_set.delete([word]).result()
            found = await w.search(items=items(word), k=5)
            assert word not in found.ids
            assert found.version > version


async def test_an_item_that_is_replaced_between_filter_and_search_is_found(home, monkeypatch):
    async with served(home) as w:
        await filled(w)
        plain, searches = SearchExecutor.search, []

        async def late(executor, live, query):
            if not searches:
                await w.write("a bird", year=[2003])
            searches.append(query)
            return await plain(executor, live, query)

        monkeypatch.setattr(SearchExecutor, "search", late)
        found = await w.search(items=items("a bird"), where="year >= 2000", k=10)
        assert sorted(found.ids) == sorted(WORDS)
        assert len(searches) == 2


async def test_filters_columns_and_vectors(home):
    async with served(home) as w:
        rows = await filled(w)
        asked = {"items": items("a bird", "a whale"), "where": "year >= 2004", "k": 10}
        found = await w.search(**asked, columns=["year", "year"], with_vectors=True)
        assert list(found.counts) == [4, 4]
        assert set(found.ids) == set(WORDS[4:])
        [year] = found.metadata
        assert (year.name, list(year.ints)) == ("year", [2000 + WORDS.index(id) for id in found.ids])
        vectors = np.frombuffer(found.vectors.rows.data, np.float32).reshape(found.vectors.rows.shape)
        stored = (await w.embed(*WORDS)).rows
        np.testing.assert_array_equal(vectors, stored[[WORDS.index(id) for id in found.ids]])
        assert found.vectors.fingerprint == w.taps["mean"].fingerprint
        assert "exact" in found.strategy
        every = await w.search(**asked, all_columns=True)
        assert [column.name for column in every.metadata] == ["year"]
        none = await w.search(items=items("a bird"), where="year > 3000", all_columns=True, with_vectors=True)
        assert (list(none.counts), list(none.ids), list(none.metadata[0].ints)) == ([0], [], [])
        await w.write("a bird", year=[1990])  # a filter is asked again of every version
        found = await w.search(**asked)
        assert set(found.ids) == {*WORDS[4:]} - {"a bird"}
        assert rows.shape == (8, 8)


async def test_a_range_search_and_k_bound_the_hits(home):
    async with served(home) as w:
        rows = await filled(w)
        near = np.sort(rows @ rows[0])[::-1]
        bar = float(near[2] + near[3]) / 2
        found = await w.search(stored=Strings(values=["a red bird"]), within=bar, k=100)
        assert list(found.counts) == [2]  # itself is not one of them
        assert all(score >= bar for score in scores_of(found))
        assert list((await w.search(vectors=tensor(rows[:1]), k=MOST_HITS)).counts) == [8]
        assert len((await w.search(vectors=tensor(rows[:1]))).ids) == 8


async def test_rows_and_spans_of_a_tap_with_many_rows_an_item(home):
    async with served(home) as w:
        await birds(w, "letters")
        await w.write("abc", "bcd", "xyz", tap="letters")
        assert (await w.index()).rows == 9
        rows = (await w.embed("abc", tap="letters")).rows
        found = await w.search(vectors=tensor(rows[2:]), k=3, columns=[])
        assert list(found.ids[:2]) == ["abc", "bcd"] or list(found.ids[:2]) == ["bcd", "abc"]
        assert dict(zip(found.ids, item_messages.array(found.rows).tolist(), strict=True))["abc"] == 2
        assert dict(zip(found.ids, item_messages.array(found.rows).tolist(), strict=True))["bcd"] == 1
        assert found.spans.kind == types_pb2.SPAN_KIND_CHARACTERS
        spans = np.frombuffer(found.spans.values.data, np.float32).reshape(-1, 2)
        np.testing.assert_array_equal(spans[:, 0], item_messages.array(found.rows))
        every = await w.search(vectors=tensor(rows[2:]), k=9, every_row=True)
        assert list(every.counts) == [9]
        assert sorted(zip(every.ids, item_messages.array(every.rows).tolist(), strict=True)) == [
            (w, i) for w in ("abc", "bcd", "xyz") for i in range(3)
        ]
        whole = await w.search(stored=Strings(values=["abc", "xyz"]), k=1)
        assert list(whole.counts) == [1, 1]
        assert whole.ids[0] == "bcd"  # best over all of its rows
        assert (await w.search(items=items("bcd", "abc"), k=1)).counts == [1, 1]


async def test_what_means_something_else_is_refused_with_both_fingerprints(home):
    async with served(home) as w:
        rows = await filled(w)
        own, other = w.taps["mean"].fingerprint, (await w.embed("a", encoder="second")).tap.fingerprint
        code, message, info = await refusal(w.search(items=items("a bird"), encoder="second"))
        assert (code, info.reason) == (Code.FAILED_PRECONDITION, "NotReady")
        assert own in message
        assert other in message
        assert "embed" in info.metadata["remedy"]
        same = await w.search(items=items("a bird"), encoder="letters", k=1)
        assert list(same.ids) == ["a bird"]
        code, message, _ = await refusal(w.search(vectors=tensor(rows), fingerprint="f" * 64))
        assert code is Code.FAILED_PRECONDITION
        assert own in message
        assert "f" * 64 in message
        picture = Items(items=[types_pb2.Item(text="a bird"), types_pb2.Item(image=b"\x89PNG")])
        code, message, info = await refusal(w.search(items=picture))
        assert code is Code.FAILED_PRECONDITION
        assert own in message
        assert "reads text, not image" in message
        assert info.metadata["item"] == "1"


async def test_weights_that_were_exchanged_are_noticed(home):
    async with served(home) as w:
        was = FingerprintedTap(w.taps["mean"].tap, "0" * 64)
        w.sets.create(SetDefinition("birds", (was,), "letters", modalities=(Modality.TEXT,)))
        rows = (await w.embed(*WORDS)).rows
        w.sets.get(of_set("birds")).write(ItemBatch(WORDS, (TapRows(was, rows, np.ones(8, np.int64)),))).result()
        await w.index()
        code, message, _ = await refusal(w.search(items=items("a bird")))
        assert code is Code.FAILED_PRECONDITION
        assert "0" * 64 in message
        assert w.taps["mean"].fingerprint in message
        assert list((await w.search(vectors=tensor(rows[6:7]), k=1)).ids) == ["a bird"]


async def test_a_set_of_ready_vectors_is_searched_by_vectors(home):
    async with served(home) as w:
        w.sets.create(SetDefinition("birds", (w.taps["mean"],)))
        rows = (await w.embed(*WORDS)).rows
        w.sets.get(of_set("birds")).write(ItemBatch(WORDS, (TapRows(w.taps["mean"], rows, np.ones(8, np.int64)),))).result()
        await w.index()
        code, message, info = await refusal(w.search(items=items("a bird")))
        assert code is Code.FAILED_PRECONDITION
        assert "no encoder" in message
        assert w.taps["mean"].fingerprint in message
        assert "vectors" in info.metadata["remedy"]
        assert list((await w.search(items=items("a bird"), encoder="letters", k=1)).ids) == ["a bird"]


async def test_a_query_is_embedded_with_the_options_of_the_set(home):
    async with served(home) as w:
        await birds(w, options={"case": "lower"})
        await w.write("ABC", "XYZ")
        await w.index()
        found = await w.search(items=items("aBc"), k=1)
        assert list(found.ids) == ["ABC"]
        assert scores_of(found)[0] == pytest.approx(1)


NAN, DIM7 = np.full((3, 8), 1, np.float32), np.ones((1, 7), np.float32)
NAN[1, 4] = np.nan
REFUSED = {
    "nothing asked": ({}, "nothing to search for", ""),
    "no items": ({"items": Items()}, "nothing to search for", ""),
    "no ids": ({"stored": Strings()}, "nothing to search for", ""),
    "an empty item": ({"items": Items(items=[types_pb2.Item(text="a"), types_pb2.Item()])}, "no content", "1"),
    "an item that its encoder refuses": ({"items": Items(items=[types_pb2.Item(text="")])}, "empty", "0"),
    "another dim": ({"vectors": tensor(DIM7)}, "shape [1, 7]", ""),
    "one axis": ({"vectors": tensor(np.ones(8, np.float32))}, "shape [8]", ""),
    "not finite": ({"vectors": tensor(NAN)}, "not finite", "1"),
    "integers": ({"vectors": tensor(np.ones((1, 8), np.int32), types_pb2.DTYPE_INT32)}, "float32 or float16", ""),
    "zero under cosine": ({"vectors": tensor(np.zeros((1, 8), np.float32))}, "zeros", "0"),
    "k": ({"vectors": tensor(np.ones((1, 8), np.float32)), "k": MOST_HITS + 1}, "k = 10001", ""),
    "within": ({"vectors": tensor(np.ones((1, 8), np.float32)), "within": float("nan")}, "within", ""),
    "a column": ({"vectors": tensor(np.ones((1, 8), np.float32)), "columns": ["yeer"]}, "yeer", ""),
    "a filter's column": ({"vectors": tensor(np.ones((1, 8), np.float32)), "where": "yeer > 3"}, "yeer", ""),
    "no SQL": ({"vectors": tensor(np.ones((1, 8), np.float32)), "where": "year >"}, "year >", ""),
    "two statements": ({"vectors": tensor(np.ones((1, 8), np.float32)), "where": "year > 3; year < 2"}, ";", ""),
    "no set": ({"vectors": tensor(np.ones((1, 8), np.float32)), "set": ""}, "no feature set is named", ""),
}


async def test_bad_searches_are_refused(home):
    async with served(home) as w:
        await filled(w)
        for name, (fields, words, item) in REFUSED.items():
            code, message, info = await refusal(w.search(**fields))
            assert code is Code.INVALID_ARGUMENT, name
            assert words in message, name
            assert info.metadata["item"] == item if item else "item" not in info.metadata, name
        for fields, words in [
            ({"set": "bords"}, "bords"),
            ({"index": "poled"}, "poled"),
            ({"stored": Strings(values=["a bird", "a brid"])}, "a brid"),
            ({"items": items("a"), "encoder": "nobody"}, "nobody"),
        ]:
            code, message, _ = await refusal(w.search(**{"vectors": tensor(np.ones((1, 8), np.float32)), **fields}))
            assert (code, words in message) == (Code.NOT_FOUND, True)
        assert (await w.search(stored=Strings(values=["a bird"]), k=1)).counts == [1]


async def test_too_many_queries_or_hits_are_refused(home):
    async with served(home, max_items=4) as w:
        await filled(w)
        code, message, _ = await refusal(w.search(items=items(*"abcde")))
        assert (code, message) == (Code.INVALID_ARGUMENT, "5 items in one search, which may have 4")
        code, message, info = await refusal(w.search(vectors=tensor(np.ones((300, 8), np.float32)), k=MOST_HITS))
        assert (code, info.reason) == (Code.RESOURCE_EXHAUSTED, "TooLarge")
        assert "3,000,000 hits" in message


async def test_indexes_are_described_listed_rebuilt_and_dropped(home):
    async with served(home) as w:
        await birds(w, "mean", "letters")
        rows = await w.embed(*WORDS)
        letters = await w.embed(*WORDS, tap="letters")
        assert isinstance(letters.spans, Spans)
        w.sets.get(of_set("birds")).write(ItemBatch(WORDS, (rows, letters))).result()
        made = await w.stub.CreateIndex(pb.CreateIndexRequest(set="birds", metric=pb.METRIC_L2, kind="rows", target_recall=0.9))
        assert (made.name, made.kind, made.metric, made.dim) == ("mean", "rows", pb.METRIC_L2, 8)
        assert made.job.subject == "birds/mean"
        assert made.target_recall == 0.9
        await w.indexes.wait_for_build(of_set("birds"))
        found = await w.stub.GetIndex(pb.GetIndexRequest(set="birds"))
        assert (found.state, found.built, found.rows, found.recall) == (pb.INDEX_STATE_READY, "Rows", 8, 1.0)
        assert (found.fingerprint, found.tap) == (w.taps["mean"].fingerprint, "mean")
        assert found.build_seconds > 0
        assert found.disk_bytes > 8 * 8 * 4
        assert found.memory_bytes > 0
        assert (found.held_out, len(found.operating_points), found.operating_points[0].recall) == (1, 1, 1.0)
        await w.index(tap="letters", name="by-letter")
        listed = (await w.stub.ListIndexes(pb.ListIndexesRequest())).indexes
        assert [(one.set, one.name) for one in listed] == [("birds", "by-letter"), ("birds", "mean")]
        again = await w.stub.RebuildIndex(pb.RebuildIndexRequest(set="birds", name="mean"))
        assert again.job.id != found.job.id
        await w.stub.DropIndex(pb.DropIndexRequest(set="birds", name="mean"))
        assert (await w.stub.GetIndex(pb.GetIndexRequest(set="birds"))).name == "by-letter"
        code, _, _ = await refusal(w.stub.GetIndex(pb.GetIndexRequest(set="birds", name="mean")))
        assert code is Code.NOT_FOUND
        metric = await w.search(index="by-letter", vectors=tensor(letters.rows[:1]), k=1)
        assert metric.metric == pb.METRIC_COSINE


async def test_bad_indexes_are_refused(home):
    async with served(home) as w:
        await filled(w)
        options = Struct()
        options.update({"lists": 4})
        for fields, code, words in [
            ({"set": ""}, Code.INVALID_ARGUMENT, "no feature set is named"),
            ({"set": "bords"}, Code.NOT_FOUND, "bords"),
            ({"tap": "layer3"}, Code.NOT_FOUND, "layer3"),
            *(
                ({"name": name}, Code.INVALID_ARGUMENT, "cannot name an index")
                for name in ("a b", "../up", ".hidden", "a/b", "x" * 101)
            ),
            ({"name": "n", "kind": "tree"}, Code.INVALID_ARGUMENT, "tree"),
            ({"name": "n", "kind": "rows", "options": options}, Code.INVALID_ARGUMENT, "lists"),
            ({"name": "n", "kind": "never"}, Code.INVALID_ARGUMENT, "never enough"),
            ({"name": "n", "options": options}, Code.INVALID_ARGUMENT, "the kind auto"),
            *(({"name": "n", "target_recall": r}, Code.INVALID_ARGUMENT, "target recall") for r in (2.0, -0.1, np.nan, np.inf)),
            ({"name": "n", "metric": 9}, Code.INVALID_ARGUMENT, "metric 9"),
            ({"name": "mean"}, Code.ALREADY_EXISTS, "mean"),
        ]:
            found, message, _ = await refusal(w.stub.CreateIndex(pb.CreateIndexRequest(**{"set": "birds", **fields})))
            assert (found, words in message) == (code, True), message
        assert [one.name for one in (await w.stub.ListIndexes(pb.ListIndexesRequest())).indexes] == ["mean"]


async def test_kinds_are_listed_with_their_options(home):
    async with served(home) as w:
        kinds = {kind.kind: kind for kind in (await w.stub.ListKinds(pb.ListKindsRequest())).kinds}
        assert sorted(kinds) == ["half", "more", "never", "rows"]
        assert kinds["rows"].plugin == "tests 1.0"


async def test_searches_are_right_while_it_is_built_and_after_it_failed(home):
    async with served(home) as w:
        await birds(w)
        await w.write(*WORDS)
        w.jobs.gate.clear()
        made = await w.stub.CreateIndex(pb.CreateIndexRequest(set="birds"))
        assert made.state == pb.INDEX_STATE_BUILDING
        found = await w.search(items=items("a bird"), k=1)
        assert (list(found.ids), found.strategy) == (["a bird"], "exact")
        w.jobs.fail = "out of luck"
        w.jobs.gate.set()
        await w.indexes.wait_for_build(of_set("birds"))
        failed = await w.stub.GetIndex(pb.GetIndexRequest(set="birds"))
        assert failed.state == pb.INDEX_STATE_FAILED
        assert "out of luck" in failed.detail
        assert list((await w.search(items=items("a whale"), k=1)).ids) == ["a whale"]

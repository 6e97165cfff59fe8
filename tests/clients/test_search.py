"""Searches, indexes and jobs, on both clients."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
import topwork
from both_clients import EitherClient
from fake_indexes import CANCELLED, DONE, FAILED, RUNNING
from fake_server import DIM, FINGERPRINT, FakeServer, unavailable
from topwork._codec import items
from topwork._ops import search
from topwork.v1 import indexes_pb2

TEXTS = ["a", "b c", "d e f", "gg hh"]


def fill(both: EitherClient) -> None:
    both.write("birds", TEXTS, list("wxyz"), [{"year": 2020 + i} for i in range(4)], encoder="letters")


def searches(server: FakeServer) -> list[indexes_pb2.SearchRequest]:
    return [request for request in server.requests if isinstance(request, indexes_pb2.SearchRequest)]


def test_a_lone_query_has_its_hits(both: EitherClient) -> None:
    fill(both)
    hits = both.search("birds", "b c", k=3)
    assert isinstance(hits, topwork.Hits)
    assert len(hits) == 3
    assert hits.ids[0] == "x"
    assert hits.scores.dtype == np.float32
    assert hits.scores[0] == pytest.approx(1)
    assert sorted(hits.scores, reverse=True) == hits.scores.tolist()
    assert hits.metadata["year"][0] == 2021
    assert (hits.metric, hits.version, hits.strategy, hits.rows, hits.spans) == ("cosine", 2, "exact", None, None)
    first = next(iter(hits))
    assert (first.id, first.metadata, first.span, first.row) == ("x", {"year": 2021}, None, None)
    assert hits[0] == first
    assert [hit.id for hit in hits[1:]] == hits.ids[1:]
    with pytest.raises(IndexError):
        hits[3]


def test_several_queries_have_a_list(both: EitherClient, server: FakeServer) -> None:
    fill(both)
    found = both.search("birds", TEXTS * 40, k=1)
    assert [hits.ids for hits in found] == [[id] for id in "wxyz"] * 40
    assert [len(request.items.items) for request in searches(server)] == [64, 64, 32]
    assert both.search("birds", [], k=1) == []
    assert [hits.ids for hits in both.search("birds", ["a"], k=1)] == [["w"]]


def test_the_set_is_asked_for_once(both: EitherClient, server: FakeServer) -> None:
    both.write("mine", vectors=np.eye(DIM), ids=range(DIM))
    fill(both)
    asked = server.tries["GetSet"]
    for _ in range(3):
        both.search("birds", "a")
        both.search("mine", vectors=np.ones(DIM))
    assert server.tries["GetSet"] == asked + 1
    both.drop_set("birds")
    with pytest.raises(topwork.NotFound):
        both.search("birds", "a")


def test_vectors_as_queries(both: EitherClient, server: FakeServer) -> None:
    both.write("mine", vectors=np.eye(3), ids=list("abc"), fingerprint="aa")
    assert both.search("mine", vectors=[0, 0, 1], k=1).ids == ["c"]
    assert searches(server)[-1].vectors.dtype == 1
    found = both.search("mine", vectors=np.eye(3, dtype=np.float16)[::-1], k=1)
    assert [hits.ids for hits in found] == [["c"], ["b"], ["a"]]
    assert searches(server)[-1].vectors.dtype == 2
    assert both.search("mine", vectors=np.zeros((0, 3))) == []
    with pytest.raises(topwork.NotReady, match="fingerprint bb is not aa"):
        both.search("mine", vectors=np.ones(3), fingerprint="bb")
    with pytest.raises(topwork.InvalidInput, match=r"shape \[1, 1, 3\]"):
        both.search("mine", vectors=np.ones((1, 1, 3)))


def test_an_array_of_floats_is_a_query_of_vectors(both: EitherClient) -> None:
    both.write("mine", vectors=np.eye(3), ids=list("abc"), fingerprint="aa")
    assert both.search("mine", np.array([0, 0, 1], np.float32), k=1).ids == ["c"]
    assert [hits.ids for hits in both.search("mine", np.eye(3), k=1)] == [["a"], ["b"], ["c"]]
    both.write("birds", TEXTS, list("wxyz"), encoder="letters")
    made = both.embed("letters", TEXTS)
    assert both.search("birds", made[0], k=1).ids == both.search("birds", TEXTS[0], k=1).ids
    assert len(both.search("birds", made, k=1)) == len(TEXTS)


def test_features_say_their_fingerprint(both: EitherClient, server: FakeServer) -> None:
    fill(both)
    found = both.search("birds", vectors=both.embed("letters", ["a", "b c"]), k=1)
    assert [hits.ids for hits in found] == [["w"], ["x"]]
    assert searches(server)[-1].fingerprint == FINGERPRINT


def test_stored_items_as_queries(both: EitherClient) -> None:
    fill(both)
    assert "w" not in both.search("birds", stored="w").ids
    assert [len(hits) for hits in both.search("birds", stored=["w", "x"])] == [3, 3]
    with pytest.raises(topwork.InvalidInput, match="item 1: no item 'nobody'"):
        both.search("birds", stored=["w", "nobody"])


def test_what_is_asked_is_sent(both: EitherClient, server: FakeServer) -> None:
    fill(both)
    hits = both.search(
        "birds", "a", k=2, within=-1, where="year > 2021", columns=[], with_vectors=True, exact=True, effort=7, every_row=True
    )
    assert set(hits.ids) == {"y", "z"}
    assert hits.metadata == {}
    assert hits.vectors.shape == (2, DIM)
    request = searches(server)[-1]
    assert (request.within, request.exact, request.effort, request.every_row) == (-1, True, 7, True)
    assert not request.all_columns
    assert both.search("birds", "a", columns=["year"], within=2.0).ids == []
    assert not searches(server)[0].HasField("vectors")
    both.search("birds", "a")
    assert not searches(server)[-1].HasField("within")


def test_hits_of_rows_that_are_parts(both: EitherClient) -> None:
    both.write("mine", vectors=both.embed("letters", TEXTS, tap="tokens"), ids=list("wxyz"))
    query = both.embed("letters", ["d e f"], tap="tokens").rows[0]
    hits = both.search("mine", vectors=query, k=2)
    assert hits.ids[0] == "y"
    assert hits.rows.tolist() == [0, 0]
    assert (hits.span_kind, hits[0].span, hits[0].row) == ("characters", (0.0, 1.0), 0)
    assert "characters 0,1" in repr(hits)


def test_batches_are_bounded_by_their_hits(both: EitherClient, server: FakeServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(search, "HITS", 30)
    monkeypatch.setattr(search, "HITS_WITH_METADATA", 20)
    both.write("mine", vectors=np.eye(3), ids=list("abc"))
    assert len(both.search("mine", vectors=np.ones((7, 3)), columns=[])) == 7
    assert [request.vectors.shape[0] for request in searches(server)] == [3, 3, 1]
    both.search("mine", stored=list("abc"))
    assert [len(request.stored.values) for request in searches(server)[3:]] == [2, 1]


def test_what_cannot_be_asked(both: EitherClient, server: FakeServer, monkeypatch: pytest.MonkeyPatch) -> None:
    both.write("mine", vectors=np.eye(3), ids=list("abc"))
    for wrong in ({}, {"query": "a", "stored": "b"}):
        with pytest.raises(topwork.InvalidInput, match="one kind of query"):
            both.search("mine", **wrong)
    with pytest.raises(topwork.InvalidInput, match="k is 0"):
        both.search("mine", "a", k=0)
    with pytest.raises(topwork.InvalidInput, match="is of no encoder"):
        both.search("mine", "a")
    assert not searches(server)
    assert len(both.search("mine", vectors=np.ones(3), k=5)) == 3
    both.write("clips", [b"1"], ["a"], encoder="clips")
    monkeypatch.setattr(items, "LONG_FILE", 10)
    with pytest.raises(topwork.TooLarge, match=r"embed it, and pass vectors="):
        both.search("clips", bytes(11))


def test_a_bad_query_is_named(both: EitherClient, tmp_path: Path) -> None:
    fill(both)
    with pytest.raises(topwork.InvalidInput) as caught:
        both.search("birds", ["a"] * 70 + ["bad"])
    assert caught.value.item == 70
    both.write("pictures", [b"1"], ["a"], encoder="pictures")
    with pytest.raises(topwork.InvalidInput, match="there is no file"):
        both.search("pictures", tmp_path / "a.jpg")
    (tmp_path / "a.jpg").write_bytes(b"1")
    assert both.search("pictures", str(tmp_path / "a.jpg")).ids == ["a"]


def test_a_query_of_another_encoder(both: EitherClient, server: FakeServer) -> None:
    both.write("mine", vectors=np.eye(DIM), ids=range(DIM), fingerprint=FINGERPRINT)
    both.search("mine", "a", encoder="letters")
    assert searches(server)[-1].encoder == "letters"


def test_hits_are_read_by_people() -> None:
    hits = topwork.Hits(
        ids=[f"pictures/{i}.png" for i in range(12)],
        scores=np.linspace(1, 0, 12, dtype=np.float32),
        metadata={"label": ["owl", None] * 6, "text": ["x\n" * 200] * 12},
        strategy="index",
        version=3,
    )
    lines = repr(hits).splitlines()
    assert lines[0] == "<Hits: 12 hits by cosine, version 3, index>"
    assert lines[1].startswith("    1.0000  pictures/0.png  label='owl'  text='x")
    assert lines[2].startswith("    0.9091  pictures/1.png  text='x")
    assert lines[-1] == "  ... and 2 more"
    assert len(lines) == 12
    assert max(map(len, lines)) < 130
    assert repr(topwork.Hits([], np.zeros(0, np.float32))) == "<Hits: 0 hits by cosine, version 0>"


def test_an_index_is_built_and_waited_for(both: EitherClient, server: FakeServer) -> None:
    fill(both)
    seen: list[topwork.Job] = []
    info = both.create_index("birds", kind="hnsw", metric="l2", options={"links": 16}, target_recall=0.9, progress=seen.append)
    assert [(job.state, job.fraction, job.message) for job in seen[1:]] == [("running", 0.5, "filling"), ("done", 1.0, "")]
    assert (seen[0].created, seen[0].ended) == (datetime(1970, 1, 1, 0, 0, 2, tzinfo=UTC), None)
    assert (seen[1].seconds_left, seen[-1].seconds_left, seen[-1].running) == (1.0, None, False)
    assert (info.set, info.name, info.tap, info.kind, info.built) == ("birds", "pooled", "pooled", "hnsw", "HNSW32,Flat")
    assert (info.metric, info.options, info.state, info.target_recall) == ("l2", {"links": 16}, "ready", 0.9)
    assert [(point.effort, point.recall, point.qps) for point in info.operating_points] == [(16, 0.9, 2000), (32, 0.97, 0)]
    assert both.index("birds") == both.index("birds", "pooled") == both.indexes()[0] == both.indexes("birds")[0]
    assert both.set("birds").indexes == ("pooled",)
    with pytest.raises(topwork.AlreadyExists, match=r"index 'pooled' is there \(drop it\)"):
        both.create_index("birds")
    both.drop_index("birds", "pooled")
    assert both.indexes() == []
    with pytest.raises(topwork.NotFound):
        both.index("birds")
    with pytest.raises(topwork.InvalidInput, match="no metric 'dot'"):
        both.create_index("birds", metric="dot")


def test_an_index_may_be_left_to_itself(both: EitherClient, server: FakeServer) -> None:
    fill(both)
    info = both.create_index("birds", wait=False)
    assert info.job.running
    assert server.tries["WatchJob"] == 0
    assert both.rebuild_index("birds", wait=False).job.id == "job-2"
    assert both.rebuild_index("birds").job.id == "job-3"
    assert [job.id for job in both.jobs()] == ["job-3", "job-2", "job-1"]


@pytest.mark.parametrize(("state", "name"), [(FAILED, "failed"), (CANCELLED, "cancelled")])
def test_a_build_that_fails(both: EitherClient, server: FakeServer, state: int, name: str) -> None:
    fill(both)
    server.jobs.script = [(RUNNING, 0.5, "filling"), (state, 0.5, "out of memory")]
    with pytest.raises(topwork.JobFailed, match=f"index job job-1 on 'birds/pooled' {name}: out of memory") as caught:
        both.create_index("birds")
    assert caught.value.job.state == name


def test_a_build_that_is_begun_again_is_waited_for(both: EitherClient, server: FakeServer) -> None:
    """As after a restart of the server."""
    fill(both)
    server.jobs.script = [(FAILED, 0.5, "the server ended")]

    def begin_again(job: topwork.Job) -> None:
        if job.state == "failed":
            server.jobs.script = [(DONE, 1.0, "")]
            server.sets.sets["birds"].indexes["pooled"].job.CopyFrom(server.jobs.start("birds/pooled"))

    assert both.create_index("birds", progress=begin_again).job.id == "job-2"
    assert server.jobs.jobs["job-2"].state == DONE


def test_a_watch_outlives_a_break(both: EitherClient, server: FakeServer) -> None:
    fill(both)
    server.plan = lambda method, attempt, answers: unavailable() if method == "WatchJob" and attempt == 1 and answers else None
    states = [job.state for job in both.watch_job(both.create_index("birds", wait=False).job.id)]
    assert states[0] == "running"
    assert states[-1] == "done"
    assert server.tries["WatchJob"] == 2


def test_a_wait_may_be_bounded(both: EitherClient, server: FakeServer) -> None:
    """By the whole of it, however often the job says something."""
    fill(both)
    server.gate.clear()
    with pytest.raises(topwork.DeadlineExceeded, match="not done in time"):
        both.create_index("birds", timeout=0.4)
    with pytest.raises(topwork.DeadlineExceeded, match=r"within 0\.2 s"):
        list(both.watch_job("job-1", timeout=0.2))
    assert server.cancelled.wait(10)


def test_jobs(both: EitherClient) -> None:
    fill(both)
    both.create_index("birds", wait=False)
    assert both.job("job-1").subject == "birds/pooled"
    assert [job.id for job in both.jobs("index", "birds/pooled")] == ["job-1"]
    assert both.jobs("training") == []
    assert both.cancel_job("job-1").state == "cancelled"
    for verb in (both.job, both.cancel_job, lambda id: list(both.watch_job(id))):
        with pytest.raises(topwork.NotFound, match="no job 'nobody'"):
            verb("nobody")


def test_kinds(both: EitherClient) -> None:
    [kind] = both.index_kinds()
    assert (kind.kind, kind.options[0].name, kind.options[0].default) == ("hnsw", "links", "32")

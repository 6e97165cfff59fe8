"""Indexes and jobs of the fake server: searches compare with every row, and a build's job goes through the states of `script`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import grpc
import numpy as np
from fake_server import FakeServer, Refusal, row_of
from fake_sets import FakeSet, FakeSets, Stored, invalid, packed
from topwork.v1 import encoders_pb2, indexes_pb2, indexes_pb2_grpc, jobs_pb2, jobs_pb2_grpc, types_pb2

RUNNING, DONE, FAILED, CANCELLED = (jobs_pb2.JobState.Value(f"JOB_STATE_{n}") for n in "RUNNING DONE FAILED CANCELLED".split())


class FakeJobs(jobs_pb2_grpc.JobsServicer):
    """`script` is what a watched job goes through: (state, fraction, message or error)."""

    def __init__(self, server: FakeServer) -> None:
        self.server = server
        self.jobs: dict[str, jobs_pb2.Job] = {}
        self.script = [(RUNNING, 0.5, "filling"), (DONE, 1.0, "")]
        self.results: dict[str, str] = {}

    def start(self, subject: str, kind: str = "index") -> jobs_pb2.Job:
        id = f"job-{len(self.jobs) + 1}"
        self.jobs[id] = jobs_pb2.Job(id=id, kind=kind, subject=subject, state=RUNNING, created=2.0, seconds_left=3.0)
        return self.jobs[id]

    def find(self, id: str, context: Any) -> jobs_pb2.Job:
        if id not in self.jobs:
            Refusal(grpc.StatusCode.NOT_FOUND, "NotFound", f"no job {id!r}", "see `topwork jobs`").abort(context)
        return self.jobs[id]

    def ListJobs(self, request: Any, context: Any) -> jobs_pb2.ListJobsResponse:  # noqa: N802
        self.server._enter("ListJobs", request, context)
        found = [job for job in self.jobs.values() if request.kind in ("", job.kind) and request.subject in ("", job.subject)]
        return jobs_pb2.ListJobsResponse(jobs=found[::-1])

    def GetJob(self, request: Any, context: Any) -> jobs_pb2.Job:  # noqa: N802
        self.server._enter("GetJob", request, context)
        return self.find(request.id, context)

    def WatchJob(self, request: Any, context: Any) -> Iterator[jobs_pb2.Job]:  # noqa: N802
        context.add_callback(self.server.cancelled.set)
        attempt = self.server._enter("WatchJob", request, context)
        job = self.find(request.id, context)
        yield job
        for answers, (state, fraction, text) in enumerate(self.script):
            self.server.gate.wait()
            self.server._check("WatchJob", attempt, answers, context)
            job.state, job.fraction = state, fraction
            job.message, job.error = (text, "") if state == RUNNING else ("", text)
            job.ended, job.seconds_left = (0, 1.0) if state == RUNNING else (9.0, 0)
            job.result = self.results.get(job.id, "") if state == DONE else ""
            yield job

    def CancelJob(self, request: Any, context: Any) -> jobs_pb2.Job:  # noqa: N802
        self.server._enter("CancelJob", request, context)
        job = self.find(request.id, context)
        job.state = CANCELLED
        return job


class FakeIndexes(indexes_pb2_grpc.IndexesServicer):
    def __init__(self, server: FakeServer, sets: FakeSets, jobs: FakeJobs) -> None:
        self.server, self.sets, self.jobs = server, sets, jobs

    def find(self, request: Any, context: Any) -> indexes_pb2.Index:
        found = self.sets.find(request.set, context)
        name = request.name or next(iter(found.indexes), "")
        if name not in found.indexes:
            Refusal(grpc.StatusCode.NOT_FOUND, "NotFound", f"no index {name!r}", "see `topwork index`").abort(context)
        index: indexes_pb2.Index = found.indexes[name]
        return index

    def ListKinds(self, request: Any, context: Any) -> indexes_pb2.ListKindsResponse:  # noqa: N802
        self.server._enter("ListKinds", request, context)
        option = encoders_pb2.Option(name="links", type="int", default="32", description="edges of a node")
        return indexes_pb2.ListKindsResponse(
            kinds=[indexes_pb2.IndexKind(kind="hnsw", description="a graph", options=[option], plugin="tests 1")]
        )

    def CreateIndex(self, request: Any, context: Any) -> indexes_pb2.Index:  # noqa: N802
        self.server._enter("CreateIndex", request, context)
        found = self.sets.find(request.set, context)
        tap = request.tap or next(iter(found.taps))
        name = request.name or tap
        if name in found.indexes:
            Refusal(grpc.StatusCode.ALREADY_EXISTS, "AlreadyExists", f"index {name!r} is there", "drop it").abort(context)
        found.indexes[name] = indexes_pb2.Index(
            set=request.set,
            name=name,
            tap=tap,
            fingerprint=found.taps[tap].fingerprint,
            kind=request.kind,
            built="HNSW32,Flat",
            metric=request.metric,
            dim=found.taps[tap].dim,
            state=indexes_pb2.INDEX_STATE_READY,
            version=found.version,
            rows=len(found.items),
            target_recall=request.target_recall,
            recall=0.97,
            effort=32,
            operating_points=[
                indexes_pb2.OperatingPoint(effort=16, recall=0.9, qps=2000),
                indexes_pb2.OperatingPoint(effort=32, recall=0.97),
            ],
            job=self.jobs.start(f"{request.set}/{name}"),
            options=request.options,
        )
        return found.indexes[name]

    def ListIndexes(self, request: Any, context: Any) -> indexes_pb2.ListIndexesResponse:  # noqa: N802
        self.server._enter("ListIndexes", request, context)
        sets = [self.sets.find(request.set, context)] if request.set else list(self.sets.sets.values())
        return indexes_pb2.ListIndexesResponse(indexes=[index for found in sets for index in found.indexes.values()])

    def GetIndex(self, request: Any, context: Any) -> indexes_pb2.Index:  # noqa: N802
        self.server._enter("GetIndex", request, context)
        return self.find(request, context)

    def RebuildIndex(self, request: Any, context: Any) -> indexes_pb2.Index:  # noqa: N802
        self.server._enter("RebuildIndex", request, context)
        index = self.find(request, context)
        index.job.CopyFrom(self.jobs.start(f"{index.set}/{index.name}"))
        return index

    def DropIndex(self, request: Any, context: Any) -> indexes_pb2.DropIndexResponse:  # noqa: N802
        self.server._enter("DropIndex", request, context)
        index = self.find(request, context)
        del self.sets.sets[index.set].indexes[index.name]
        return indexes_pb2.DropIndexResponse()

    def Search(self, request: Any, context: Any) -> indexes_pb2.SearchResponse:  # noqa: N802
        self.server._enter("Search", request, context)
        found = self.sets.find(request.set, context)
        tap = next(iter(found.taps))
        if request.fingerprint not in ("", found.taps[tap].fingerprint):
            message = f"fingerprint {request.fingerprint} is not {found.taps[tap].fingerprint}"
            Refusal(grpc.StatusCode.FAILED_PRECONDITION, "NotReady", message).abort(context)
        try:
            queries = self._queries(found, tap, request)
            candidates = found.selected(request.where, [])
        except Refusal as refusal:
            refusal.abort(context)
        without = list(request.stored.values) or [""] * len(queries)
        best = [nearest(query, candidates, tap, request, id) for query, id in zip(queries, without, strict=True)]
        return self._reply(found, tap, request, best)

    def _queries(self, found: FakeSet, tap: str, request: Any) -> list[np.ndarray[Any, Any]]:
        match request.WhichOneof("query"):
            case "items":
                for position, item in enumerate(request.items.items):
                    if item.text == "bad":
                        raise invalid("a bad text", position)
                return [row_of(item, b"")[0] for item in request.items.items]
            case "vectors":
                tensor = request.vectors
                return list(np.frombuffer(tensor.data, "<f2" if tensor.dtype == 2 else "<f4").reshape(tensor.shape))
        for position, id in enumerate(request.stored.values):
            if id not in found.items:
                raise invalid(f"no item {id!r}", position)
        return [found.items[id].rows(tap)[0] for id in request.stored.values]

    def _reply(self, found: FakeSet, tap: str, request: Any, best: list[Any]) -> indexes_pb2.SearchResponse:
        hits = [hit for hits in best for hit in hits]
        stored = [found.items[id] for _, id, _ in hits]
        columns = found.columns if request.all_columns else request.columns
        several = found.taps[tap].granularity != types_pb2.GRANULARITY_ITEM
        vectors = np.array([one.rows(tap)[row] for one, (_, _, row) in zip(stored, hits, strict=True)], "<f4")
        spans = spans_of(stored, tap, [row for _, _, row in hits]) if several and hits else None
        return indexes_pb2.SearchResponse(
            counts=[len(hits) for hits in best],
            ids=[id for _, id, _ in hits],
            scores=tensor([score for score, _, _ in hits], "float32"),
            rows=tensor([row for _, _, row in hits], "int32") if several else None,
            spans=spans,
            metadata=[packed(name, found.columns[name], [one.metadata.get(name) for one in stored]) for name in columns],
            vectors=types_pb2.TapFeatures(
                tap=tap, rows=types_pb2.Tensor(dtype=types_pb2.DTYPE_FLOAT32, shape=vectors.shape, data=vectors.tobytes())
            )
            if request.with_vectors
            else None,
            metric=indexes_pb2.METRIC_COSINE,
            version=found.version,
            search_seconds=0.25,
            strategy="exact",
        )


def tensor(values: list[Any], dtype: str) -> types_pb2.Tensor:
    number = types_pb2.DType.Value(f"DTYPE_{dtype.upper()}")
    return types_pb2.Tensor(dtype=number, shape=[len(values)], data=np.array(values, dtype).tobytes())


def spans_of(stored: list[Stored], tap: str, rows: list[int]) -> types_pb2.Spans:
    """Of one row of each item."""
    spans = [one.features[tap].spans for one in stored]
    values = [np.frombuffer(s.values.data, "<f4").reshape(s.values.shape)[row] for s, row in zip(spans, rows, strict=True)]
    data = np.array(values, "<f4")
    return types_pb2.Spans(
        kind=spans[0].kind,
        values=types_pb2.Tensor(dtype=types_pb2.DTYPE_FLOAT32, shape=data.shape, data=data.tobytes()),
    )


def nearest(
    query: np.ndarray[Any, Any], candidates: dict[str, Stored], tap: str, request: Any, without: str
) -> list[tuple[float, str, int]]:
    """(cosine, id, row) of the best rows of each item."""
    found = []
    for id, stored in candidates.items():
        rows = stored.rows(tap)
        scores = rows @ query / (np.linalg.norm(rows, axis=1) * np.linalg.norm(query))
        if id != without and len(rows):
            found.append((float(scores.max()), id, int(scores.argmax())))
    found = [hit for hit in found if not request.HasField("within") or hit[0] >= request.within]
    return sorted(found, key=lambda hit: -hit[0])[: request.k]

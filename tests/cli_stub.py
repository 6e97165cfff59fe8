"""A client that answers from memory, for what of the command line is not about the wire."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from itertools import islice
from typing import Any

import numpy as np
import pytest
import topwork
from cli_stub_heads import HeadStub
from topwork import cli
from topwork.encoders import EncoderInfo, OptionInfo, TapInfo
from topwork.errors import InvalidInput, JobFailed, NotFound, TopworkError
from topwork.features import Features, Numerics
from topwork.indexes import IndexInfo, IndexKind, OperatingPoint
from topwork.jobs import Job
from topwork.rows import Rows
from topwork.search_results import Hits
from topwork.sets import Acknowledged, Pruned, SavedSet, SetInfo, VersionInfo

FINGERPRINT = "ab" * 32
WHEN = datetime(2025, 3, 1, 12, 0, tzinfo=UTC)
MODALITIES = {"letters": "text", "pictures": "image", "clips": "video"}


def set_info(name: str = "birds", **others: Any) -> SetInfo:
    known = SetInfo(
        name=name,
        encoder="letters",
        options={"truncate": True},
        modality="text",
        taps=(TapInfo("pooled", 4, "item", fingerprint=FINGERPRINT),),
        tap_columns={"pooled": "features_pooled"},
        dtype="float32",
        keeps_inputs=False,
        columns={"year": "int"},
        items=5000,
        version=12,
        bytes=8_123_456,
        created=WHEN,
        numerics=(Numerics("fake", "fp32", 1.0, 0.0),),
        path="/srv/sets/birds.lance",
        indexes=("pooled",),
    )
    return replace(known, **others)


def job(**others: Any) -> Job:
    return replace(Job("7c41", "index", "birds/pooled", "running", 0.25, "training", WHEN, None, 30.0, ""), **others)


def index_info(**others: Any) -> IndexInfo:
    known = IndexInfo(
        set="birds",
        name="pooled",
        tap="pooled",
        fingerprint=FINGERPRINT,
        kind="auto",
        built="IVF64,Flat",
        metric="cosine",
        dim=4,
        options={},
        state="ready",
        detail="",
        version=12,
        rows=5000,
        delta_rows=7,
        deleted_rows=1,
        target_recall=0.95,
        recall=0.9625,
        missed_target=False,
        effort=8,
        operating_points=(OperatingPoint(4, 0.9, 9000.0), OperatingPoint(8, 0.9625, 5210.0)),
        held_out=200,
        build_seconds=31.0,
        disk_bytes=80_000,
        memory_bytes=153_000,
        job=job(state="done", fraction=1.0),
    )
    return replace(known, **others)


def features(counts: Sequence[int], dim: int = 4) -> Features:
    rows = np.arange(sum(counts) * dim, dtype=np.float32).reshape(-1, dim)
    return Features("letters", "pooled", FINGERPRINT, "item", rows, np.array(counts, np.int64), dim)


@dataclass
class StubClient(HeadStub):
    """`calls` are (verb, arguments) in order; `written` what write_stream was given, by id."""

    known: dict[str, SetInfo] = field(default_factory=dict)
    chunk: int = 2
    #: Called after each chunk with the items that are done; may raise.
    after_chunk: Callable[[int], object] = lambda done: None
    written: dict[str, tuple[Any, Mapping[str, Any]]] = field(default_factory=dict)
    closed: bool = False
    hits: list[Hits] = field(default_factory=list)
    rows: Rows = field(default_factory=lambda: Rows([], {}))
    changes: list[Job] = field(default_factory=lambda: [job(), job(state="done", fraction=1.0, seconds_left=None)])
    listed_jobs: list[Job] = field(default_factory=lambda: [job()])
    found_indexes: list[IndexInfo] = field(default_factory=lambda: [index_info()])

    def __enter__(self) -> StubClient:
        return self

    def __exit__(self, *exception: object) -> None:
        pass

    def encoder(self, name: str) -> EncoderInfo:
        return EncoderInfo(name, MODALITIES[name], (), "pooled", 0, "", "", "", "", "ready", "", None, (), "", False, 0)

    def set(self, name: str) -> SetInfo:
        if name not in self.known:
            raise NotFound(f"there is no set {name!r}", remedy="see `topwork sets`")
        return self.known[name]

    def sets(self) -> list[SetInfo]:
        return list(self.known.values())

    def write_stream(
        self,
        set: str,
        *,
        items: Iterable[Any] | None = None,
        ids: Iterable[str],
        metadata: Iterable[Mapping[str, Any]],
        encoder: str | None = None,
        taps: Sequence[str] = (),
        vectors: Any = None,
        fingerprint: str | None = None,
        options: Mapping[str, Any] | None = None,
        dtype: str | None = None,
        keep_inputs: bool = False,
        skip_bad_items: bool = False,
        priority: str = "normal",
    ) -> Iterator[Acknowledged]:
        self._called("write_stream", locals())
        source = iter(range(len(vectors)) if items is None else items)
        ids, metadata, done = iter(ids), iter(metadata), 0
        try:
            while chunk := list(islice(source, self.chunk)):
                reply = self._store(chunk, list(islice(ids, len(chunk))), list(islice(metadata, len(chunk))), done)
                if reply.failures and not skip_bad_items:
                    raise next(iter(reply.failures.values()))
                done = reply.watermark
                yield reply
                self.after_chunk(done)
        finally:
            self.closed = True

    def _store(self, chunk: list[Any], ids: list[str], metadata: list[Mapping[str, Any]], start: int) -> Acknowledged:
        failures: dict[int, TopworkError] = {}
        unchanged = 0
        for position, (id, item, row) in enumerate(zip(ids, chunk, metadata, strict=True)):
            if item == "bad":
                failures[start + position] = InvalidInput("a bad text", remedy="send a good one", item=start + position)
                continue
            unchanged += self.written.get(id) == (item, row)
            self.written[id] = (item, row)
        new = len(chunk) - len(failures) - unchanged
        names = {position: ids[position - start] for position in failures}
        return Acknowledged(start + len(chunk), start, 12, new, 0, unchanged, new, failures, names)

    def read(
        self,
        set: str,
        *,
        taps: Sequence[str] | None = None,
        columns: Sequence[str] | None = None,
        where: str = "",
        ids: Sequence[str] | None = None,
        version: int | str = 0,
        limit: int = 0,
        inputs: bool = False,
        progress: bool = False,
    ) -> Rows:
        self._called("read", locals())
        return self.rows

    def export_set(
        self,
        set: str,
        path: Any,
        *,
        taps: Sequence[str] | None = None,
        columns: Sequence[str] | None = None,
        where: str = "",
        version: int | str = 0,
        limit: int = 0,
        progress: bool = False,
    ) -> SavedSet:
        self._called("export_set", locals())
        self.rows.save(path)
        taps = {tap: (len(features.rows), features.dim) for tap, features in self.rows.features.items()}
        return SavedSet(set, path, len(self.rows), self.rows.total, self.rows.version, taps, path.stat().st_size)

    def delete(self, set: str, ids: Sequence[str] | None = None, *, where: str = "") -> int:
        self._called("delete", locals())
        return len(ids or ()) or 7

    def drop_set(self, name: str) -> None:
        self._called("drop_set", locals())

    def versions(self, set: str) -> list[VersionInfo]:
        return [VersionInfo(11, WHEN, ("before",)), VersionInfo(12, WHEN, ())]

    def pin(self, set: str, pin: str, version: int = 0) -> VersionInfo:
        self._called("pin", locals())
        return VersionInfo(version or 12, WHEN, (pin,))

    def unpin(self, set: str, pin: str) -> None:
        self._called("unpin", locals())

    def prune(self, set: str, older_than: float) -> Pruned:
        self._called("prune", locals())
        return Pruned(3, 4_100_000)

    def create_index(
        self,
        set: str,
        *,
        name: str = "",
        tap: str = "",
        kind: str = "auto",
        metric: str = "cosine",
        options: Mapping[str, Any] | None = None,
        target_recall: float = 0.95,
        queries: Any = None,
        wait: bool = True,
        progress: Callable[[Job], object],
    ) -> IndexInfo:
        self._called("create_index", locals())
        return self._built(wait, progress)

    def rebuild_index(self, set: str, name: str = "", *, wait: bool = True, progress: Callable[[Job], object]) -> IndexInfo:
        self._called("rebuild_index", locals())
        return self._built(wait, progress)

    def _built(self, wait: bool, progress: Callable[[Job], object]) -> IndexInfo:
        if not wait:
            return index_info(state="building", recall=0.0, operating_points=(), job=job())
        for change in self.watch_job("7c41"):
            progress(change)
        if change.state != "done":
            raise JobFailed(change)
        return self.found_indexes[0]

    def index(self, set: str, name: str = "") -> IndexInfo:
        return self.found_indexes[0]

    def indexes(self, set: str = "") -> list[IndexInfo]:
        return self.found_indexes

    def index_kinds(self) -> list[IndexKind]:
        option = OptionInfo("links", "int", "32", "neighbors of each row")
        return [IndexKind("flat", "every row", (), "faiss"), IndexKind("hnsw", "a graph", (option,), "faiss")]

    def drop_index(self, set: str, name: str) -> None:
        self._called("drop_index", locals())

    def search(
        self,
        set: str,
        query: Any = None,
        *,
        vectors: Any = None,
        stored: Sequence[str] | None = None,
        fingerprint: str | None = None,
        k: int = 10,
        index: str = "",
        where: str = "",
        within: float | None = None,
        every_row: bool = False,
        columns: Sequence[str] | None = None,
        exact: bool = False,
        effort: int = 0,
        offset: int = 0,
        metric: str = "",
    ) -> list[Hits]:
        self._called("search", locals())
        count = len(next(asked for asked in (query, vectors, stored) if asked is not None))
        return [self.hits[i % len(self.hits)] for i in range(count)]

    def jobs(self) -> list[Job]:
        return self.listed_jobs

    def job(self, id: str) -> Job:
        self._called("job", locals())
        return self.listed_jobs[0]

    def watch_job(self, id: str) -> Iterator[Job]:
        self._called("watch_job", locals())
        for change in self.changes:
            if change.message == "interrupt":
                raise KeyboardInterrupt
            yield change

    def cancel_job(self, id: str) -> Job:
        self._called("cancel_job", locals())
        return job(state="cancelled", ended=WHEN)


class StubCommand:
    """`topwork ...` with a stub for its client; `stdout` and `stderr` are its output."""

    def __init__(self, capture: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
        self.client = StubClient()
        self._capture = capture
        self.stdout = self.stderr = ""
        monkeypatch.setattr("topwork.cli.connection.Client", lambda *arguments, **settings: self.client)

    def __call__(self, *words: object) -> int:
        status = cli.main([str(word) for word in words])
        self.stdout, self.stderr = self._capture.readouterr()
        return status

    @property
    def json(self) -> Any:
        return json.loads(self.stdout)

    def asked(self, verb: str) -> dict[str, Any]:
        """The arguments of the last such call."""
        return next(arguments for name, arguments in reversed(self.client.calls) if name == verb)


def differences() -> list[str]:
    """Where the stub's verbs take what the client's do not."""
    found = []
    for name, method in inspect.getmembers(StubClient, inspect.isfunction):
        if name.startswith("_") or name in ("after_chunk", "alter"):
            continue
        real = getattr(topwork.Client, name, None)
        known = set(inspect.signature(real).parameters) if real else set()
        found += [f"{name}({argument})" for argument in inspect.signature(method).parameters if argument not in known]
    return found

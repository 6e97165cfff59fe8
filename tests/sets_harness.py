"""Feature sets behind a real gRPC server: the real store, engine and catalog, with toy encoders that are watched."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
from topwork.v1 import sets_pb2 as pb
from topwork.v1 import sets_pb2_grpc
from topwork.v1 import types_pb2 as t
from topwork_server import EncoderSpec, Item, TextItem
from topwork_server.access.gate import Gate
from topwork_server.app import OPTIONS
from topwork_server.config import Config
from topwork_server.feature_sets.set_registry import FeatureSets
from topwork_server.features import EmbedResult
from topwork_server.inference.engine import EmbedParams, Engine
from topwork_server.ingest.feature_cache import FeatureCache
from topwork_server.ingest.pipeline import IngestPipeline
from topwork_server.models import artifacts
from topwork_server.models.catalog import Catalog
from topwork_server.runtime.export import export_encoder
from topwork_server.services.feature_sets import FeatureSetsService
from topwork_server.services.interceptor import RequestInterceptor
from topwork_server.services.request_tracker import RequestTracker
from topwork_server.services.uploads import UploadStore
from toys import FakePlugins, letters_spec

SPECS = [letters_spec(), letters_spec("second", seed=2)]


def export(home: Path, specs: Iterable[EncoderSpec] = SPECS) -> Path:
    """Artifacts of the toys, made once for many tests; `lent` gives them to a home of a test's own."""
    for spec in specs:
        artifacts.publish(home, spec, lambda scratch, spec=spec: export_encoder(spec, Path(), scratch))  # type: ignore[misc]
    return home


def lent(home: Path, exported: Path) -> Path:
    home.mkdir(exist_ok=True)
    (home / "artifacts").symlink_to(exported / "artifacts")
    return home


class Watched(Engine):
    """The real engine, which notes the texts that it is asked for. "wait" waits for `gate`, "crash" is a bug."""

    def __init__(self, catalog: Catalog, config: Config) -> None:
        super().__init__(catalog, config)
        self.asked: list[list[str]] = []
        self.gate = asyncio.Event()
        self._changed = asyncio.Condition()

    async def embed(self, ask: EmbedParams, items: Sequence[Item]) -> EmbedResult:
        texts = [item.text if isinstance(item, TextItem) else "?" for item in items]
        async with self._changed:
            self.asked.append(texts)
            self._changed.notify_all()
        if "crash" in texts:
            raise RuntimeError("a secret of the implementation")
        if "wait" in texts:
            await self.gate.wait()
        return await super().embed(ask, items)

    @property
    def encoded(self) -> list[str]:
        """All texts, in the order in which they were asked for."""
        return [text for texts in self.asked for text in texts]

    async def until_asked(self, calls: int) -> None:
        async with self._changed:
            await asyncio.wait_for(self._changed.wait_for(lambda: len(self.asked) >= calls), 20)


@dataclass
class SetsHarness:
    """The parts of a server that keep feature sets, without the wire."""

    config: Config
    catalog: Catalog
    engine: Watched
    sets: FeatureSets
    ingest: IngestPipeline
    spool: UploadStore
    dropped: list[str] = field(default_factory=list)


@asynccontextmanager
async def composed(home: Path, specs: Sequence[EncoderSpec] = SPECS, **settings: Any) -> AsyncIterator[SetsHarness]:
    """Compose the parts, without the wire."""
    config = Config(home=home, provider="cpu", **settings)
    catalog = Catalog(FakePlugins(list(specs)), home)  # type: ignore[arg-type]
    engine = Watched(catalog, config)
    sets = FeatureSets(home / "sets")
    ingest = IngestPipeline(sets, engine, catalog, FeatureCache(home / "cache", config.feature_cache))
    spool = UploadStore(home / "spool", config.max_video_bytes)
    try:
        yield SetsHarness(config, catalog, engine, sets, ingest, spool)
    finally:
        await engine.close()
        await ingest.close()
        await asyncio.to_thread(sets.close)


@dataclass
class Served:
    harness: SetsHarness
    requests: RequestTracker
    stub: Any
    port: int


@asynccontextmanager
async def served(home: Path, specs: Sequence[EncoderSpec] = SPECS, **settings: Any) -> AsyncIterator[Served]:
    """With a server on a free port; at the end it is cut off, so that no test waits for a drain."""
    async with composed(home, specs, **settings) as harness:
        requests = RequestTracker(Gate(home))
        server = grpc.aio.server(interceptors=[RequestInterceptor(requests)], options=OPTIONS)

        async def drop_set(name: str, drop: Callable[[str], None]) -> None:
            if name in harness.sets.names():
                harness.dropped.append(name)
            await asyncio.to_thread(drop, name)

        servicer = FeatureSetsService(
            harness.ingest,
            harness.spool,
            harness.config.max_items,
            lambda name: [f"index-of-{name}"],
            drop_set,
            requests.stopping,
        )
        sets_pb2_grpc.add_FeatureSetsServicer_to_server(servicer, server)  # type: ignore[no-untyped-call]
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        limits = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
        try:
            async with grpc.aio.insecure_channel(f"127.0.0.1:{port}", limits) as channel:
                yield Served(harness, requests, sets_pb2_grpc.FeatureSetsStub(channel), port)  # type: ignore[no-untyped-call]
        finally:
            await requests.cut()
            await server.stop(None)


def settings(name: str = "birds", **fields: Any) -> pb.WriteRequest:
    return pb.WriteRequest(settings=pb.WriteSettings(set=name, **fields))


def texts(*words: str, ids: Sequence[str] = (), **columns: Sequence[Any]) -> pb.WriteRequest:
    """Items; their ids are the words themselves where none are given. Columns of int, else of str."""
    metadata = [_column(name, values) for name, values in columns.items()]
    items = [t.Item(text=word) for word in words]
    return pb.WriteRequest(rows=pb.WriteRows(ids=ids or words, items=items, metadata=metadata))


def _column(name: str, values: Sequence[Any]) -> pb.Column:
    if isinstance(values[0], int):
        return pb.Column(name=name, type=pb.COLUMN_TYPE_INT, ints=values)
    return pb.Column(name=name, type=pb.COLUMN_TYPE_STRING, strings=values)

"""The composition root: plugins, catalog, engine and services become one server, which drains before it ends."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import grpc
from grpc_health.v1 import health_pb2_grpc
from topwork.v1 import encoders_pb2_grpc, heads_pb2_grpc, indexes_pb2_grpc, jobs_pb2_grpc, sets_pb2_grpc

from topwork_server import __version__
from topwork_server.access.exposure import check_exposed
from topwork_server.access.fetch_policy import FetchPolicy
from topwork_server.access.gate import Gate
from topwork_server.access.tls import ServerTls, server_tls
from topwork_server.addresses import bind, first_free_socket
from topwork_server.atomic_store import temporary_files_of
from topwork_server.config import ANY_ORIGIN, OFF, USUAL_HTTP, Config
from topwork_server.doors.links import LinkReader
from topwork_server.doors.protocol_calls import SERVICES as OTHERS
from topwork_server.doors.protocol_calls import ProtocolCalls
from topwork_server.doors.service_methods import ServiceMethods
from topwork_server.errors import DataLoss, StartError
from topwork_server.heads.serving.predictor import Predictor
from topwork_server.inference.engine import Engine
from topwork_server.models.catalog import Catalog
from topwork_server.models.catalog_entry import EncoderState
from topwork_server.plugin_api.plugin_registry import PluginRegistry
from topwork_server.plugin_crashes import ContainedThreads
from topwork_server.process_resources import MemoryTrimmer
from topwork_server.runtime.session_factory import check_provider
from topwork_server.server_state import ServerState
from topwork_server.services.encoders import EncodersService, readable_entries
from topwork_server.services.feature_sets import FeatureSetsService
from topwork_server.services.heads import HeadsService
from topwork_server.services.health import INDEX, HealthService
from topwork_server.services.indexes import IndexesService
from topwork_server.services.interceptor import RequestInterceptor
from topwork_server.services.jobs import JobsService
from topwork_server.services.message_budget import MAX_MESSAGE, MessageBudget
from topwork_server.services.message_receiver import MessageReceiver
from topwork_server.services.reflection import add_reflection
from topwork_server.services.request_tracker import RequestTracker
from topwork_server.services.uploads import UploadStore
from topwork_server.shutdown_watchdog import ShutdownWatchdog
from topwork_server.telemetry import OFF as NO_TELEMETRY
from topwork_server.telemetry import Telemetry, from_environment

if TYPE_CHECKING:
    from topwork_server.doors.http_server import HttpServer

SERVICES = (
    "topwork.v1.Encoders",
    "topwork.v1.FeatureSets",
    "topwork.v1.Indexes",
    "topwork.v1.Heads",
    "topwork.v1.Jobs",
    *OTHERS,
    "grpc.health.v1.Health",
)
OPTIONS = (
    ("grpc.max_receive_message_length", MAX_MESSAGE),
    ("grpc.max_send_message_length", MAX_MESSAGE),
    # With it, a second server on the same port would start in silence and take half of the connections.
    ("grpc.so_reuseport", 0),
    # A caller that vanished without a word is noticed, and its work is cancelled.
    ("grpc.keepalive_time_ms", 60_000),
    ("grpc.keepalive_timeout_ms", 20_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
)
#: Seconds that connections are given after the last reply, for reflection and health watches to end.
FAREWELL = 1.0

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class ReadyMessage:
    """A started server's message about itself: where it listens for gRPC, and for HTTP, None where that is off; `encoders` counts
    names by their state on this disk; `tls`: both speak TLS."""

    address: str
    http: str | None
    provider: str
    encoders: Counter[EncoderState]
    tls: bool = False


class App:
    """One server. Made on the running loop; `start` binds, `stop` drains."""

    def __init__(
        self,
        catalog: Catalog,
        config: Config,
        engine: type[Engine] = Engine,
        plugins: PluginRegistry | None = None,
        telemetry: Telemetry = NO_TELEMETRY,
    ) -> None:
        """Compose a server. StartError where another server has the home, or `--allow-fetch` names no host."""
        allowed = FetchPolicy(config.allow_fetch)
        self._catalog = catalog
        self.config = config
        self.health = HealthService(SERVICES, self._serves, self._whole)
        self.telemetry = telemetry
        self.engine = engine(catalog, config, self.health.changed, telemetry)
        plugins = plugins or PluginRegistry.load()
        self.state = ServerState(catalog, config, plugins, self.engine, telemetry)
        self.gate = _gate(config)
        self.requests = RequestTracker(self.gate, telemetry)
        self.budget = MessageBudget(config.message_budget, MemoryTrimmer().freed)
        self._receiver, self._methods = MessageReceiver(self.budget), ServiceMethods()
        self._server = grpc.aio.server(interceptors=[RequestInterceptor(self.requests, self._receiver)], options=OPTIONS)
        self._spool = UploadStore(config.home / "spool", config.max_video_bytes)
        self._spool.sweep()
        self._predictor = Predictor(self.engine, catalog, self.state.heads.store, config.threads)
        self._protocols = ProtocolCalls(
            self.engine, catalog, config, self._predictor, self.state.heads, self.health, self._serves, self._links(allowed)
        )
        self._add_services(plugins)
        self._http = None if config.http == OFF else self._http_server()

    def _add_services(self, plugins: PluginRegistry) -> None:
        server, engine, catalog, config, state = self._server, self.engine, self._catalog, self.config, self.state
        stopping = self.requests.stopping
        encoders = EncodersService(engine, catalog, config, plugins, state.pretraining, self._spool, stopping)
        drop_set = state.indexes.drop_set
        sets = FeatureSetsService(state.ingest, self._spool, config.max_items, state.indexes.all_names, drop_set, stopping)
        indexes = IndexesService(
            state.indexes, state.search_executor, state.jobs, plugins, engine, catalog, config, state.live_recall
        )
        jobs = JobsService(state.jobs)
        heads = HeadsService(state.heads, state.sets, plugins, self._predictor, config, self._spool, stopping)
        for doors in (server, self._methods):
            encoders_pb2_grpc.add_EncodersServicer_to_server(encoders, doors)  # type: ignore[no-untyped-call]
            sets_pb2_grpc.add_FeatureSetsServicer_to_server(sets, doors)  # type: ignore[no-untyped-call]
            indexes_pb2_grpc.add_IndexesServicer_to_server(indexes, doors)  # type: ignore[no-untyped-call]
            heads_pb2_grpc.add_HeadsServicer_to_server(heads, doors)  # type: ignore[no-untyped-call]
            jobs_pb2_grpc.add_JobsServicer_to_server(jobs, doors)  # type: ignore[no-untyped-call]
        health_pb2_grpc.add_HealthServicer_to_server(self.health, server)
        server.add_generic_rpc_handlers(self._protocols.grpc_handlers(stopping))
        add_reflection(server, SERVICES)

    def _links(self, allowed: FetchPolicy) -> LinkReader:
        """Make the reader of items by URL. Its library is imported where fetching is on."""
        if not allowed.rules or self.config.http == OFF:
            return LinkReader(None, self._spool, self.budget)
        from topwork_server.access.url_fetcher import UrlFetcher

        if allowed.open_to_all:
            log.warning("pictures and videos of every public server may be fetched, for all callers (--allow-fetch '*')")
        return LinkReader(UrlFetcher(allowed), self._spool, self.budget)

    def _http_server(self) -> HttpServer:
        from topwork_server.doors.http_doors import http_server

        return http_server(self._protocols, self._methods, self.requests, self._receiver, self.state)

    def _whole(self, kind: str, name: str) -> bool:
        """Tell whether no damage of a set or an index is known. NotFound where there is none of that name."""
        return self.state.indexes.has_whole_definition(name) if kind == INDEX else not self.state.sets.damage(name)

    async def start(self) -> ReadyMessage:
        """Bind the addresses and serve. StartError where one cannot be had."""
        tls = server_tls(self.config)
        self._check_exposed(tls)
        address = bind(self._server, self.config.listen, tls.grpc_credentials() if tls else None)
        http = await self._start_http(tls)
        await self._server.start()
        self.state.lock.listening(address)
        entries = await asyncio.to_thread(readable_entries, self._catalog)
        states = Counter(entry.state for entry in entries)
        return ReadyMessage(address, http, self.engine.provider_names, states, tls is not None)

    def _check_exposed(self, tls: ServerTls | None) -> None:
        config = self.config
        authenticated = not self.gate.is_open or (tls is not None and config.tls_client_ca is not None)
        for address in (config.listen, config.http if self._http else ""):
            if address:
                check_exposed(address, tls=tls is not None, authenticated=authenticated, insecure=config.insecure)

    async def _start_http(self, tls: ServerTls | None) -> str | None:
        if self._http is None:
            return None
        listens = [self.config.http] if self.config.http else USUAL_HTTP
        listener, address = first_free_socket(listens, "--http HOST:PORT, or leave HTTP out with --http off")
        if ANY_ORIGIN in self.config.allow_origin:
            log.warning("pages of every web site that a browser here opens may use this server (--allow-origin '*')")
        await self._http.start(listener, tls.http_context() if tls else None)
        return address

    async def stop(self, drained: Callable[[], object] = bool) -> None:
        """Set health to NOT_SERVING; accepted requests finish, streams take no more, new requests are refused; then the rest
        ends."""
        log.info("draining for up to %g s", self.config.drain_seconds)
        self.requests.refuse()
        await self.health.enter_graceful_shutdown()
        await self.state.jobs.close()  # a caller that watches one would keep the server for as long as it lasts
        await self.requests.drain(self.config.drain_seconds)
        drained()
        await self.close()

    async def close(self) -> None:
        """End at once, without a drain."""
        closing = [self._server.stop(FAREWELL), *([self._http.close()] if self._http else [])]
        await asyncio.gather(*closing)
        self._receiver.close()
        self._protocols.close()
        await self.state.close()
        await self.engine.close()
        await asyncio.to_thread(self.telemetry.close)

    def _serves(self, name: str) -> bool:
        loaded = self.engine.loaded_encoder(name)
        if loaded is not None:
            return loaded.serving
        try:
            return self._catalog.entry(name).state is EncoderState.READY
        except DataLoss:
            return False


def _gate(config: Config) -> Gate:
    """The gate of the home's keys. StartError where these cannot be read: without them nobody could be told from another."""
    try:
        return Gate(config.home)
    except DataLoss as error:
        raise StartError(error.message, remedy=error.remedy) from error


async def serve(config: Config, announce: Callable[[ReadyMessage], None] = lambda ready: None) -> int:
    """Serve until SIGTERM, SIGINT or SIGHUP, then drain. Returns the exit status; StartError where it cannot start."""
    check_provider(config.provider)
    plugins, watch, telemetry = PluginRegistry.load(), ShutdownWatchdog(), from_environment(__version__)
    try:
        app = App(Catalog(plugins, config.home), config, plugins=plugins, telemetry=telemetry)
    except (FileExistsError, NotADirectoryError) as error:
        raise StartError(f"{error.filename} is no folder, and the server keeps files in it", remedy="move it away") from error
    with temporary_files_of(config.home):
        return await run(app, announce, watch)


async def run(app: App, announce: Callable[[ReadyMessage], None], watch: ShutdownWatchdog | None = None) -> int:
    """Serve an app that is composed, as `serve` does; a second signal ends the process at once. `watch` bounds what the end
    takes, that of the interpreter too."""
    stopping = _on_signals()
    asyncio.get_running_loop().set_default_executor(ContainedThreads(min(32, (os.cpu_count() or 1) + 4), "request"))
    try:
        announce(await app.start())
    except BaseException:
        await app.close()
        raise
    await stopping.wait()
    bound, config = watch.within if watch else _no_bound, app.config
    bound(config.drain_seconds + config.end_seconds, "the drain")
    await app.stop(lambda: bound(config.end_seconds, "the end of the server"))
    served = " ".join(f"{method}.{code}={n}" for (method, code), n in sorted(app.requests.counts.items()))
    log.info("stopped; requests: %s", served or "none")
    bound(config.end_seconds, "the end of the interpreter", 0)
    return 0


def _no_bound(seconds: float, doing: str, status: int = 1) -> None:
    """Bound nothing, where the process is not ours to end."""


def _on_signals() -> asyncio.Event:
    """The event that a signal sets; a second signal ends the process.

    SIGHUP, of a terminal that is closed, ends nothing at once: a shell that ends sends it, and the kernel again. Under `nohup`
    it stays without effect.
    """
    stopping = asyncio.Event()

    def received(number: int) -> None:
        if stopping.is_set() and number != signal.SIGHUP:
            os._exit(128 + number)
        stopping.set()

    hangup = [] if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN else [signal.SIGHUP]
    for number in (signal.SIGTERM, signal.SIGINT, *hangup):
        asyncio.get_running_loop().add_signal_handler(number, received, number)
    return stopping

"""The composition root: plugins, catalog, engine and services become one server, which drains before it ends."""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import os
import signal
import socket
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

import grpc
from grpc_health.v1 import health_pb2_grpc
from topwork.v1 import encoders_pb2_grpc, heads_pb2_grpc, indexes_pb2_grpc, jobs_pb2_grpc, sets_pb2_grpc

from topwork_server import __version__
from topwork_server.atomic_store import use_temporary_folder
from topwork_server.config import ANY_ORIGIN, OFF, Config
from topwork_server.doors import cohere, lightly, metrics, openai, tei_grpc, tei_http
from topwork_server.doors.cohere import CohereDoor
from topwork_server.doors.embedding import Embedder
from topwork_server.doors.health import health_routes
from topwork_server.doors.http_app import HttpApplication
from topwork_server.doors.http_server import HttpServer
from topwork_server.doors.json_calls import JsonCalls
from topwork_server.doors.lightly import LightlyDoor
from topwork_server.doors.metrics import TopworkMetrics
from topwork_server.doors.oip import error_form as oip_errors
from topwork_server.doors.oip.grpc_door import OipGrpcDoor
from topwork_server.doors.oip.http_door import OipHttpDoor
from topwork_server.doors.oip.inference import Inference
from topwork_server.doors.oip.repository import ModelRepository
from topwork_server.doors.oip.shared_memory import SharedMemory
from topwork_server.doors.openai import OpenAiDoor
from topwork_server.doors.openapi import ApiDocs
from topwork_server.doors.peer_metrics import TeiMetrics, TritonMetrics
from topwork_server.doors.prediction import HeadPredictor
from topwork_server.doors.ranking import Ranker
from topwork_server.doors.rerank import RerankDoor
from topwork_server.doors.service_methods import ServiceMethods
from topwork_server.doors.tei import TeiCalls
from topwork_server.doors.tei_grpc import TeiGrpcDoor
from topwork_server.doors.tei_http import TeiDoor
from topwork_server.doors.tei_predict import TeiPredict
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
from topwork_server.shutdown_watchdog import ShutdownWatchdog
from topwork_server.telemetry import OFF as NO_TELEMETRY
from topwork_server.telemetry import Telemetry, from_environment

SERVICES = (
    "topwork.v1.Encoders",
    "topwork.v1.FeatureSets",
    "topwork.v1.Indexes",
    "topwork.v1.Heads",
    "topwork.v1.Jobs",
    "inference.GRPCInferenceService",
    *tei_grpc.SERVICES,
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
    names by their state on this disk."""

    address: str
    http: str | None
    provider: str
    encoders: Counter[EncoderState]


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
        """Compose a server. StartError where another server has the home."""
        self._catalog = catalog
        self.config = config
        self.health = HealthService(SERVICES, self._serves, self._whole)
        self.telemetry = telemetry
        self.engine = engine(catalog, config, self.health.changed, telemetry)
        plugins = plugins or PluginRegistry.load()
        self.state = ServerState(catalog, config, plugins, self.engine, telemetry)
        self.requests, self.budget = RequestTracker(telemetry), MessageBudget(config.message_budget, MemoryTrimmer().freed)
        self._receiver, self._methods = MessageReceiver(self.budget), ServiceMethods()
        self._server = grpc.aio.server(interceptors=[RequestInterceptor(self.requests, self._receiver)], options=OPTIONS)
        self._embedder = Embedder(self.engine, catalog, config.default_encoder)
        self._ranker = Ranker(self._embedder)
        self._predictor = Predictor(self.engine, catalog, self.state.heads.store, config.threads)
        self._heads = HeadPredictor(self._embedder, self._predictor, self.state.heads)
        self._tei = TeiCalls(self._embedder, self._ranker, config)
        self._tei_predict = TeiPredict(self._heads, self._tei)
        self._shared_memory = SharedMemory(allowed=config.shared_memory)
        self._oip_grpc, self._oip_http = self._oip_doors()
        self._add_services(plugins)
        self._http = None if config.http == OFF else HttpServer(self._http_application())

    def _add_services(self, plugins: PluginRegistry) -> None:
        server, engine, catalog, config, state = self._server, self.engine, self._catalog, self.config, self.state
        stopping = self.requests.stopping
        encoders = EncodersService(engine, catalog, config, plugins, state.pretraining, stopping)
        drop_set = state.indexes.drop_set
        sets = FeatureSetsService(state.ingest, encoders.spool, config.max_items, state.indexes.all_names, drop_set, stopping)
        indexes = IndexesService(
            state.indexes, state.search_executor, state.jobs, plugins, engine, catalog, config, state.live_recall
        )
        jobs = JobsService(state.jobs)
        heads = HeadsService(state.heads, state.sets, plugins, self._predictor, config, encoders.spool, stopping)
        for doors in (server, self._methods):
            encoders_pb2_grpc.add_EncodersServicer_to_server(encoders, doors)  # type: ignore[no-untyped-call]
            sets_pb2_grpc.add_FeatureSetsServicer_to_server(sets, doors)  # type: ignore[no-untyped-call]
            indexes_pb2_grpc.add_IndexesServicer_to_server(indexes, doors)  # type: ignore[no-untyped-call]
            heads_pb2_grpc.add_HeadsServicer_to_server(heads, doors)  # type: ignore[no-untyped-call]
            jobs_pb2_grpc.add_JobsServicer_to_server(jobs, doors)  # type: ignore[no-untyped-call]
        health_pb2_grpc.add_HealthServicer_to_server(self.health, server)
        server.add_generic_rpc_handlers(
            (self._oip_grpc.handler(), *TeiGrpcDoor(self._tei, self._tei_predict, stopping).handlers())
        )
        add_reflection(server, SERVICES)

    def _http_application(self) -> HttpApplication:
        calls = JsonCalls(self.requests)
        routes = calls.routes(OpenAiDoor(self._embedder, self._catalog).operations(), openai.error_form)
        routes += calls.routes(self._oip_http.operations(), oip_errors.error_form) + self._oip_http.plain_routes()
        tei = TeiDoor(self._tei, self._tei_predict, self.health.why_not_ready)
        routes += calls.routes(tei.operations(), tei_http.error_form)
        ranks = RerankDoor(self._embedder, self._ranker, tei.rerank)
        routes += calls.routes([*CohereDoor(self._embedder).operations(), *ranks.operations()], cohere.error_form)
        studio = LightlyDoor(self._embedder, self.config.max_items, self.health.why_not_ready)
        routes += calls.routes(studio.operations(), lightly.error_form)
        routes += health_routes(self.health, self.config.default_encoder)
        collectors = [
            TopworkMetrics(self.requests, self.budget, self.engine, self.state),
            TeiMetrics(self.engine),
            TritonMetrics(self.engine),
        ]
        routes += metrics.routes(collectors)
        routes += ApiDocs(self._methods.methods.values(), calls.operations).routes()
        return HttpApplication(self._methods, routes, self.requests, self._receiver, self.config.allow_origin)

    def _oip_doors(self) -> tuple[OipGrpcDoor, OipHttpDoor]:
        memory = self._shared_memory
        inference = Inference(self._embedder, self._heads, memory, self.config.max_items)
        repository = ModelRepository(
            self.engine, self._catalog, self._heads, self._serves, ("system_shared_memory",) if memory.allowed else ()
        )
        parts = (inference, repository, memory, self.health)
        return OipGrpcDoor(*parts, self.requests.stopping), OipHttpDoor(*parts)

    def _whole(self, kind: str, name: str) -> bool:
        """Tell whether no damage of a set or an index is known. NotFound where there is none of that name."""
        return self.state.indexes.has_whole_definition(name) if kind == INDEX else not self.state.sets.damage(name)

    async def start(self) -> ReadyMessage:
        """Bind the addresses and serve. StartError where one cannot be had."""
        address = bind(self._server, self.config.listen)
        http = await self._start_http()
        await self._server.start()
        self.state.lock.listening(address)
        entries = await asyncio.to_thread(readable_entries, self._catalog)
        return ReadyMessage(address, http, self.engine.provider_names, Counter(entry.state for entry in entries))

    async def _start_http(self) -> str | None:
        if self._http is None:
            return None
        listener, address = listening_socket(self.config.http, "--http HOST:PORT, or leave HTTP out with --http off")
        if ANY_ORIGIN in self.config.allow_origin:
            log.warning("pages of every web site that a browser here opens may use this server (--allow-origin '*')")
        await self._http.start(listener)
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
        self._shared_memory.close()
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


async def serve(config: Config, announce: Callable[[ReadyMessage], None] = lambda ready: None) -> int:
    """Serve until SIGTERM or SIGINT, then drain. Returns the exit status; StartError where it cannot start."""
    check_provider(config.provider)
    plugins, watch, telemetry = PluginRegistry.load(), ShutdownWatchdog(), from_environment(__version__)
    try:
        app = App(Catalog(plugins, config.home), config, plugins=plugins, telemetry=telemetry)
    except (FileExistsError, NotADirectoryError) as error:
        raise StartError(f"{error.filename} is no folder, and the server keeps files in it", remedy="move it away") from error
    use_temporary_folder(config.home)
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
    stopping = asyncio.Event()

    def received(number: int) -> None:
        if stopping.is_set():
            os._exit(128 + number)
        stopping.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, received, number)
    return stopping


def bind(server: grpc.aio.Server, listen: str) -> str:
    """Bind to HOST:PORT (port 0: any free one) and return the address with the port that it got."""
    remedy = "--listen HOST:PORT"
    if parse_address(listen)[1]:  # tells why an address is refused, where gRPC only says that it is
        listening_socket(listen, remedy)[0].close()
    else:
        _warn_if_reached(listen)
    try:
        bound = server.add_insecure_port(listen)
    except RuntimeError as error:
        raise _cannot_listen(listen, error, remedy) from error
    return f"{listen.rpartition(':')[0]}:{bound}"


def listening_socket(listen: str, remedy: str) -> tuple[socket.socket, str]:
    """A socket bound to HOST:PORT, and its address. StartError where it cannot be had; `remedy` says how to choose another."""
    host, port = parse_address(listen)
    try:
        bound = socket.create_server((host, port), family=_family(host))
    except OSError as error:
        raise _cannot_listen(listen, error, remedy) from error
    _warn_if_reached(listen)
    return bound, f"{listen.rpartition(':')[0]}:{bound.getsockname()[1]}"


def _warn_if_reached(listen: str) -> None:
    if not _is_loopback(parse_address(listen)[0]):
        log.warning("listening on %s: anyone who reaches this port may use it, there is no authentication", listen)


def _cannot_listen(listen: str, error: Exception, remedy: str) -> StartError:
    return StartError(
        f"cannot listen on {listen}: {bind_failure(error)}", remedy=f"stop what listens there, or choose another with {remedy}"
    )


def bind_failure(error: Exception) -> str:
    """The system's own words; `socket.create_server` adds the address to them, which the caller names better."""
    return str(getattr(error, "strerror", None) or error).partition(" (while")[0]


def parse_address(listen: str) -> tuple[str, int]:
    """Parse an address: ("::1", 50051) of "[::1]:50051"."""
    host, _, port = listen.rpartition(":")
    if not host or not port.isdecimal() or int(port) > 65535:
        raise StartError(f"{listen!r} is no address to listen on", remedy="write HOST:PORT, such as 127.0.0.1:50051")
    return host.removeprefix("[").removesuffix("]"), int(port)


def _family(host: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in host else socket.AF_INET


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"

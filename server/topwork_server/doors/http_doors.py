"""Composes the doors on the HTTP port. It is imported where HTTP is on: the libraries of these doors take some 8 MiB."""

from __future__ import annotations

from topwork_server.doors import cohere, lightly, metrics, openai, tei_http
from topwork_server.doors.cohere import CohereDoor
from topwork_server.doors.health import health_routes
from topwork_server.doors.http_app import HttpApplication
from topwork_server.doors.http_server import HttpServer
from topwork_server.doors.json_calls import JsonCalls
from topwork_server.doors.lightly import LightlyDoor
from topwork_server.doors.metrics import TopworkMetrics
from topwork_server.doors.oip import error_form as oip_errors
from topwork_server.doors.oip.http_door import OipHttpDoor
from topwork_server.doors.openai import OpenAiDoor
from topwork_server.doors.openapi import ApiDocs
from topwork_server.doors.peer_metrics import TeiMetrics, TritonMetrics
from topwork_server.doors.protocol_calls import ProtocolCalls
from topwork_server.doors.rerank import RerankDoor
from topwork_server.doors.service_methods import ServiceMethods
from topwork_server.doors.tei_http import TeiDoor
from topwork_server.server_state import ServerState
from topwork_server.services.message_receiver import MessageReceiver
from topwork_server.services.request_tracker import RequestTracker


def http_server(
    protocols: ProtocolCalls, methods: ServiceMethods, requests: RequestTracker, receiver: MessageReceiver, state: ServerState
) -> HttpServer:
    """Compose the server of HTTP: our own methods, and the routes of every other door."""
    embedder, engine, health, config = protocols.embedder, protocols.engine, protocols.health, protocols.config
    calls = JsonCalls(requests)
    oip = OipHttpDoor(protocols.inference, protocols.repository, protocols.memory, health)
    routes = calls.routes(OpenAiDoor(embedder, protocols.catalog).operations(), openai.error_form)
    routes += calls.routes(oip.operations(), oip_errors.error_form) + oip.plain_routes()
    tei = TeiDoor(protocols.tei, protocols.tei_predict, health.why_not_ready)
    routes += calls.routes(tei.operations(), tei_http.error_form)
    ranks = RerankDoor(embedder, protocols.ranker, tei.rerank)
    routes += calls.routes([*CohereDoor(embedder).operations(), *ranks.operations()], cohere.error_form)
    studio = LightlyDoor(embedder, config.max_items, health.why_not_ready)
    routes += calls.routes(studio.operations(), lightly.error_form)
    routes += health_routes(health, config.default_encoder)
    heads = protocols.heads.all_statistics
    peers = [TeiMetrics(engine, heads), TritonMetrics(engine, heads, protocols.catalog.names)]
    routes += metrics.routes([TopworkMetrics(requests, receiver.budget, engine, state), *peers], requests)
    routes += ApiDocs(methods.methods.values(), calls.operations).routes()
    return HttpServer(HttpApplication(methods, routes, requests, receiver, config.allow_origin))

"""Traces and metrics as an OpenTelemetry collector gets them: real packages, a real exporter, a collector of the test's own."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from typing import Any

import grpc
import pytest
import real_server
import topwork
from http_calls import call
from opentelemetry.proto.collector.metrics.v1 import metrics_service_pb2 as metrics
from opentelemetry.proto.collector.metrics.v1 import metrics_service_pb2_grpc as metrics_grpc
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2 as traces
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2_grpc as traces_grpc
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.trace import format_span_id
from topwork_server import telemetry
from topwork_server.doors.protocols import tei_pb2
from topwork_server.errors import StartError

TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
TRACEPARENT = f"00-{TRACE}-{PARENT}-01"


class Collector(traces_grpc.TraceServiceServicer, metrics_grpc.MetricsServiceServicer):  # type: ignore[misc]
    """Keeps spans, and the names of metrics."""

    def __init__(self) -> None:
        self.spans: list[Any] = []
        self.metrics: set[str] = set()

    def Export(self, request: Any, context: Any) -> Any:  # noqa: N802
        if isinstance(request, metrics.ExportMetricsServiceRequest):
            found = (one for resource in request.resource_metrics for scope in resource.scope_metrics for one in scope.metrics)
            self.metrics |= {one.name for one in found}
            return metrics.ExportMetricsServiceResponse()
        self.spans += [one for resource in request.resource_spans for scope in resource.scope_spans for one in scope.spans]
        return traces.ExportTraceServiceResponse()


@pytest.fixture
def collector(monkeypatch: pytest.MonkeyPatch) -> Iterator[Collector]:
    found = Collector()
    server = grpc.server(pool := ThreadPoolExecutor(2))
    traces_grpc.add_TraceServiceServicer_to_server(found, server)  # type: ignore[no-untyped-call]
    metrics_grpc.add_MetricsServiceServicer_to_server(found, server)  # type: ignore[no-untyped-call]
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{port}")
    yield found
    server.stop(None).wait()
    pool.shutdown()


def attributes(span: Any) -> dict[str, str]:
    return {one.key: one.value.string_value for one in span.attributes}


def test_requests_of_every_door_are_spans_in_their_callers_traces(
    collector: Collector, tmp_path_factory: pytest.TempPathFactory
) -> None:
    recorded = telemetry.from_environment("1.2.3")
    with real_server.with_toys_over_http(tmp_path_factory, recorded) as ready:
        body = {"model": "letters", "input": "ab"}
        embedded = call(ready.http, "POST", "/v1/embeddings", body, {"traceparent": TRACEPARENT})
        assert embedded.status == 200
        settings = {"settings": {"encoder": "nosuch"}, "items": [{"text": "ab"}]}
        path = "/topwork.v1.Encoders/Embed"
        missing = call(ready.http, "POST", path, settings, {"traceparent": TRACEPARENT})
        assert missing.status == 404
        with topwork.Client(ready.address) as client:
            client.embed("letters", ["abc"])
    spans = {(span.name, attributes(span).get("rpc.response.status_code")): span for span in collector.spans}
    over_http, refused = spans["OpenAI.Embeddings", "OK"], spans["topwork.v1.Encoders/Embed", "NOT_FOUND"]
    for span, reply in ((over_http, embedded), (refused, missing)):
        assert (span.trace_id.hex(), span.parent_span_id.hex()) == (TRACE, PARENT)
        assert reply.headers["traceresponse"] == f"00-{TRACE}-{span.span_id.hex()}-01"
    assert attributes(refused)["error.type"] == "NOT_FOUND"
    assert attributes(over_http)["rpc.system.name"] == "grpc"
    assert ("topwork.v1.Encoders/Embed", "OK") in spans
    steps = [span for span in collector.spans if span.parent_span_id == over_http.span_id]
    assert [span.name for span in steps] == ["preprocess", "queue", "compute"]
    for before, after in pairwise(steps):
        assert before.start_time_unix_nano <= before.end_time_unix_nano == after.start_time_unix_nano
    assert "rpc.server.call.duration" in collector.metrics


def test_replies_over_grpc_name_their_spans_beside_what_else_they_say(
    collector: Collector, tmp_path_factory: pytest.TempPathFactory
) -> None:
    recorded = telemetry.from_environment("1")
    with real_server.with_toys_over_http(tmp_path_factory, recorded) as ready, grpc.insecure_channel(ready.address) as channel:
        infer = channel.unary_unary(
            "/tei.v1.Embed/Embed", tei_pb2.EmbedRequest.SerializeToString, tei_pb2.EmbedResponse.FromString
        )
        _, embedded = infer.with_call(tei_pb2.EmbedRequest(inputs="ab"), metadata=[("x-model", "letters")])
        with pytest.raises(grpc.RpcError) as refused:
            infer(tei_pb2.EmbedRequest(inputs="ab"), metadata=[("x-model", "nosuch"), ("traceparent", TRACEPARENT)])
    spans = {attributes(span).get("rpc.response.status_code"): span for span in collector.spans}
    told, of_error = dict(embedded.trailing_metadata()), dict(refused.value.trailing_metadata())
    assert told["traceresponse"] == f"00-{spans['OK'].trace_id.hex()}-{spans['OK'].span_id.hex()}-03"  # sampled, and random
    assert told["x-fingerprint"]
    assert of_error["traceresponse"] == f"00-{TRACE}-{spans['NOT_FOUND'].span_id.hex()}-01"
    assert "grpc-status-details-bin" in of_error


def test_the_callers_own_span_is_the_parent_of_what_the_sdk_asks_for(
    collector: Collector, tmp_path_factory: pytest.TempPathFactory
) -> None:
    recorded, tracer = telemetry.from_environment("1"), TracerProvider().get_tracer("caller")

    async def ask_asynchronously(address: str) -> Any:
        async with topwork.AsyncClient(address) as client:
            with tracer.start_as_current_span("awaited") as span:
                await client.embed("letters", ["ab"])
                assert [features async for features in client.embed_stream("letters", ["ab"])]
        return span

    with real_server.with_toys_over_http(tmp_path_factory, recorded) as ready, topwork.Client(ready.address) as client:
        with tracer.start_as_current_span("blocking") as blocking:
            client.embed("letters", ["ab"])
            assert list(client.embed_stream("letters", ["ab"]))
        awaited = asyncio.run(ask_asynchronously(ready.address))
        client.embed("letters", ["ab"])
    found = [(span.name.rpartition("/")[2], span.parent_span_id.hex()) for span in collector.spans if "/" in span.name]
    for parent in (blocking, awaited):
        id = format_span_id(parent.get_span_context().span_id)
        assert {name for name, parent in found if parent == id} >= {"Embed", "EmbedStream"}
    assert ("Embed", "") in found


def test_jobs_are_spans_of_the_requests_that_start_them(collector: Collector, tmp_path_factory: pytest.TempPathFactory) -> None:
    recorded = telemetry.from_environment("1")
    with real_server.with_toys_over_http(tmp_path_factory, recorded) as ready, topwork.Client(ready.address) as client:
        client.write("words", ["a", "bc", "def", "ghij"], ids=list("1234"), encoder="letters")
        client.create_index("words", name="near")
        job = client.jobs()[0]
    spans = {span.name: span for span in collector.spans}
    built, request = spans[f"job {job.kind}"], spans["topwork.v1.Indexes/CreateIndex"]
    assert (built.trace_id, built.parent_span_id) == (request.trace_id, request.span_id)
    assert (attributes(built)["topwork.job.id"], attributes(built)["topwork.job.state"]) == (job.id, "done")


def test_without_the_variables_nothing_is_recorded(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not telemetry.from_environment("1").on
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:4317")
    monkeypatch.setenv("OTEL_SDK_DISABLED", "true")
    assert not telemetry.from_environment("1").on


def test_missing_packages_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:4317")
    monkeypatch.setitem(__import__("sys").modules, "opentelemetry.sdk.metrics", None)
    with pytest.raises(StartError, match=r"opentelemetry\.sdk\.metrics is not installed .*\[otel\]"):
        telemetry.from_environment("1")

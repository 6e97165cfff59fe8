"""OpenTelemetry: spans of each request, its steps and the jobs that it starts, and its duration, where the usual OTEL_* variables
name a place to send to.

Names are those of the semantic conventions for RPC that are stable since version 1.45. Without a variable nothing is recorded.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from topwork_server.errors import StartError, TopworkError
from topwork_server.types import Timings

#: Of these any one turns it on; OTEL_SDK_DISABLED=true turns it off again.
ENDPOINTS = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_METRICS_ENDPOINT")
#: gRPC statuses that are the server's fault, as the conventions have them: others leave the span's own status unset.
FAULTS = {"UNKNOWN", "DEADLINE_EXCEEDED", "UNIMPLEMENTED", "INTERNAL", "UNAVAILABLE", "DATA_LOSS"}
#: What a reply tells of its request's span. `traceparent` is a request's alone; for replies the W3C's drafts have this name, and
#: OpenTelemetry's packages in several languages send it (w3c.github.io/trace-context/#traceresponse-header).
TRACERESPONSE = "traceresponse"
NANO = 1_000_000_000

log = logging.getLogger(__name__)


class Telemetry:
    """Records requests. `off` records nothing, and costs nothing."""

    def __init__(self, tracer: Any = None, duration: Any = None, shutdown: Any = None) -> None:
        self._tracer, self._duration, self._shutdown = tracer, duration, shutdown
        #: Whether anything is recorded.
        self.on = tracer is not None

    @contextmanager
    def call(self, method: str, carrier: Mapping[str, str], traced: Callable[[str], object] = bool) -> Iterator[None]:
        """Record what runs in this context as one call of a method, "package.Service/Method". `carrier` is the caller's metadata,
        of which the trace context is read; `traced` is given the value of TRACERESPONSE."""
        if self._tracer is None:
            yield
            return
        from opentelemetry import propagate, trace

        attributes = {"rpc.system.name": "grpc", "rpc.method": method}
        started, code = time.monotonic(), "OK"
        span = self._tracer.start_as_current_span(
            method, propagate.extract(carrier), trace.SpanKind.SERVER, attributes, record_exception=False
        )
        with span as current:
            traced(_traceresponse(current.get_span_context()))
            try:
                yield
            except BaseException as error:
                code = error.code.name if isinstance(error, TopworkError) else "CANCELLED"
                attributes["error.type"] = code
                current.set_attribute("error.type", code)
                if code in FAULTS:
                    current.set_status(trace.StatusCode.ERROR, str(error))
                raise
            finally:
                attributes["rpc.response.status_code"] = code
                current.set_attribute("rpc.response.status_code", code)
                self._duration.record(time.monotonic() - started, attributes)

    def steps(self, encoder: str, timings: Timings) -> None:
        """Record the steps of an embed request that has just ended, one after another, as spans of the current call."""
        if self._tracer is None:
            return
        end = time.time_ns()
        at = end - int((timings.preprocess + timings.queue + timings.compute) * NANO)
        for name, seconds in (("preprocess", timings.preprocess), ("queue", timings.queue), ("compute", timings.compute)):
            span = self._tracer.start_span(name, start_time=at, attributes={"topwork.encoder": encoder})
            at += int(seconds * NANO)
            span.end(at)

    def job(self, kind: str, id: str, subject: str) -> Callable[[str, str], None]:
        """Begin the span of a job, in the trace of the request that starts it, which it outlives. Returns what to call at the
        job's end, with its state and its error."""
        if self._tracer is None:
            return lambda state, error: None
        from opentelemetry.trace import StatusCode

        span = self._tracer.start_span(f"job {kind}", attributes={"topwork.job.id": id, "topwork.job.subject": subject})

        def end(state: str, error: str) -> None:
            span.set_attribute("topwork.job.state", state)
            if error:
                span.set_status(StatusCode.ERROR, error)
            span.end()

        return end

    def close(self) -> None:
        """Send what is recorded and not sent yet."""
        if self._shutdown:
            self._shutdown()


OFF = Telemetry()


def _traceresponse(context: Any) -> str:
    from opentelemetry.trace import format_span_id, format_trace_id

    return f"00-{format_trace_id(context.trace_id)}-{format_span_id(context.span_id)}-{context.trace_flags:02x}"


def from_environment(version: str) -> Telemetry:
    """Return what the OTEL_* variables ask for. StartError where they ask for it and the packages are not installed."""
    named = [name for name in ENDPOINTS if os.environ.get(name)]
    if not named or os.environ.get("OTEL_SDK_DISABLED", "").lower() == "true":
        return OFF
    try:
        from opentelemetry.exporter.otlp.proto.grpc.metric_exporter import OTLPMetricExporter
        from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.metrics import MeterProvider
        from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ImportError as error:
        raise StartError(
            f"{named[0]} is set, and {error.name} is not installed",
            remedy="install topwork-server[otel], or unset it",
        ) from error
    resource = Resource.create({"service.name": os.environ.get("OTEL_SERVICE_NAME", "topwork"), "service.version": version})
    tracers = TracerProvider(resource=resource)
    tracers.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    meters = MeterProvider([PeriodicExportingMetricReader(OTLPMetricExporter())], resource)
    duration = meters.get_meter("topwork").create_histogram("rpc.server.call.duration", "s", "Duration of calls")

    def shutdown() -> None:
        tracers.shutdown()
        meters.shutdown()

    log.info("traces and metrics go to where %s says", named[0])
    return Telemetry(tracers.get_tracer("topwork", version), duration, shutdown)

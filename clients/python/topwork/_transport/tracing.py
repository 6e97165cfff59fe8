"""Sends the caller's own trace along: that of OpenTelemetry's active span, where the caller has loaded OpenTelemetry."""

from __future__ import annotations

import sys
from collections.abc import Sequence

Metadata = Sequence[tuple[str, str]]


def with_trace_context(metadata: Metadata) -> Metadata:
    """The metadata of a call that is made now, with the trace context of the active span (`traceparent`, or what the caller has
    set OpenTelemetry's propagators to). What is in the metadata by such a name stays."""
    if "opentelemetry.trace" not in sys.modules:
        return metadata
    from opentelemetry import propagate, trace

    if not trace.get_current_span().get_span_context().is_valid:
        return metadata
    carrier: dict[str, str] = {}
    propagate.inject(carrier)
    given = {name for name, _ in metadata}
    found = [(name.lower(), value) for name, value in carrier.items()]
    return (*metadata, *(pair for pair in found if pair[0] not in given))

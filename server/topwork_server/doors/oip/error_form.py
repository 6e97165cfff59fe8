"""Errors over HTTP as Triton writes them: its statuses, and {"error": message}."""

from __future__ import annotations

from collections.abc import Mapping

import grpc
from starlette.responses import Response

from topwork_server.doors import http_errors
from topwork_server.doors.json_reply import json_reply
from topwork_server.doors.request_body import SlowBody
from topwork_server.errors import TooLarge, TopworkError

#: The protocol's statuses by the codes of errors; all others are 400. A full queue and a deadline that passed in it are what
#: Triton calls unavailable.
STATUSES: Mapping[grpc.StatusCode, int] = {
    grpc.StatusCode.NOT_FOUND: 404,
    grpc.StatusCode.INTERNAL: 500,
    grpc.StatusCode.DATA_LOSS: 500,
    grpc.StatusCode.UNIMPLEMENTED: 501,
    grpc.StatusCode.UNAVAILABLE: 503,
    grpc.StatusCode.RESOURCE_EXHAUSTED: 503,
    grpc.StatusCode.DEADLINE_EXCEEDED: 503,
}
#: Of errors that arise in HTTP, before a body is one of this protocol: they keep their status.
OF_HTTP = (http_errors.WrongMethod, SlowBody, TooLarge)


def error_form(error: TopworkError) -> Response:
    """{"error": message}, which the client's exception shows."""
    status = http_errors.status(error) if isinstance(error, OF_HTTP) else STATUSES.get(error.code, 400)
    return json_reply({"error": str(error)}, status, http_errors.headers(error))

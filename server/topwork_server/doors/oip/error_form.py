"""Errors over HTTP as Triton writes them: its statuses, and {"error": message}."""

from __future__ import annotations

from collections.abc import Mapping

import grpc
from starlette.responses import Response

from topwork_server.doors import http_errors
from topwork_server.doors.json_reply import json_reply
from topwork_server.doors.oip.error_codes import with_code
from topwork_server.doors.request_body import SlowBody
from topwork_server.errors import TooLarge, TopworkError

#: Triton's statuses by its codes; all others are 400.
STATUSES: Mapping[grpc.StatusCode, int] = {
    grpc.StatusCode.UNAUTHENTICATED: 401,
    grpc.StatusCode.PERMISSION_DENIED: 403,
    grpc.StatusCode.NOT_FOUND: 404,
    grpc.StatusCode.INTERNAL: 500,
    grpc.StatusCode.UNIMPLEMENTED: 501,
    grpc.StatusCode.UNAVAILABLE: 503,
}
#: Of errors that arise in HTTP, before a body is one of this protocol: they keep their status.
OF_HTTP = (http_errors.WrongMethod, SlowBody, TooLarge)


def error_form(error: TopworkError) -> Response:
    """{"error": message}, which the client's exception shows."""
    status = http_errors.status(error) if isinstance(error, OF_HTTP) else STATUSES.get(with_code(error).code, 400)
    return json_reply({"error": str(error)}, status, http_errors.headers(error))

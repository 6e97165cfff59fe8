"""Errors as Triton writes them: its codes over gRPC, its statuses over HTTP, and there {"error": message}."""

from __future__ import annotations

from collections.abc import Mapping

import grpc
from starlette.responses import Response

from topwork_server.doors import http_errors
from topwork_server.doors.json_reply import json_reply
from topwork_server.doors.request_body import SlowBody
from topwork_server.errors import TooLarge, TopworkError
from topwork_server.services.encoders import OtherFingerprint

#: The codes that Triton has in the place of those that it has not: a queue that is full, a deadline that passed in it, and a
#: model that is not ready are unavailable.
CODES: Mapping[grpc.StatusCode, grpc.StatusCode] = {
    grpc.StatusCode.RESOURCE_EXHAUSTED: grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.DEADLINE_EXCEEDED: grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.FAILED_PRECONDITION: grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.DATA_LOSS: grpc.StatusCode.INTERNAL,
}
#: Errors of which the request is to blame, whatever their codes.
OF_REQUESTS = (OtherFingerprint, TooLarge)
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


def with_code(error: TopworkError) -> TopworkError:
    """A copy of the error with the code that Triton has for its kind."""
    found = error.at(error.item)
    found.code = grpc.StatusCode.INVALID_ARGUMENT if isinstance(error, OF_REQUESTS) else CODES.get(error.code, error.code)
    return found


def error_form(error: TopworkError) -> Response:
    """{"error": message}, which the client's exception shows."""
    status = http_errors.status(error) if isinstance(error, OF_HTTP) else STATUSES.get(with_code(error).code, 400)
    return json_reply({"error": str(error)}, status, http_errors.headers(error))

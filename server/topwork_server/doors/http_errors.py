"""Maps errors to HTTP statuses, for all doors that speak JSON, and to headers that tell whether to come back."""

from __future__ import annotations

from collections.abc import Mapping

import grpc
from starlette.responses import JSONResponse, Response

from topwork_server.doors.request_body import SlowBody
from topwork_server.errors import DiskFull, TooLarge, TopworkError
from topwork_server.services.interceptor import retry_after


class WrongMethod(TopworkError):
    """The method of HTTP is not the one that a path has."""

    code = grpc.StatusCode.UNIMPLEMENTED


_BY_CODE: Mapping[grpc.StatusCode, int] = {
    grpc.StatusCode.INVALID_ARGUMENT: 400,
    grpc.StatusCode.FAILED_PRECONDITION: 400,
    grpc.StatusCode.UNAUTHENTICATED: 401,
    grpc.StatusCode.PERMISSION_DENIED: 403,
    grpc.StatusCode.NOT_FOUND: 404,
    grpc.StatusCode.ALREADY_EXISTS: 409,
    grpc.StatusCode.RESOURCE_EXHAUSTED: 429,
    grpc.StatusCode.CANCELLED: 499,
    grpc.StatusCode.UNIMPLEMENTED: 501,
    grpc.StatusCode.UNAVAILABLE: 503,
    grpc.StatusCode.DEADLINE_EXCEEDED: 504,
}
_BY_CLASS: tuple[tuple[type[TopworkError], int], ...] = (
    (WrongMethod, 405),
    (SlowBody, 408),
    (TooLarge, 413),
    (DiskFull, 507),
)


def status(error: TopworkError) -> int:
    """The HTTP status of an error (RFC 9110, section 15); 500 for what is the server's fault."""
    of_class = next((status for kind, status in _BY_CLASS if isinstance(error, kind)), None)
    return of_class or _BY_CODE.get(error.code, 500)


def error_form(error: TopworkError) -> Response:
    """{"code": ..., "message": ...}, of paths that are of no other protocol."""
    return JSONResponse({"code": error.code.name.lower(), "message": str(error)}, status(error), headers(error))


def headers(error: TopworkError) -> dict[str, str]:
    """Tell when to come back (in whole seconds, and in milliseconds as OpenAI's clients read it), or that another try would end
    the same, or that a key is needed (RFC 6750, section 3)."""
    after = retry_after(error)
    if error.code is grpc.StatusCode.UNAUTHENTICATED:
        return {"www-authenticate": "Bearer", "x-should-retry": "false"}
    if after is None:
        return {"x-should-retry": "false"}
    return {"retry-after": str(max(1, round(after))), "retry-after-ms": str(round(after * 1000))}

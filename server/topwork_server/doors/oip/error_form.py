"""Errors over HTTP as Triton writes them: {"error": message}."""

from __future__ import annotations

from starlette.responses import Response

from topwork_server.doors import http_errors
from topwork_server.doors.json_reply import json_reply
from topwork_server.errors import TopworkError


def error_form(error: TopworkError) -> Response:
    """{"error": message}, which the client's exception shows."""
    return json_reply({"error": str(error)}, http_errors.status(error), http_errors.headers(error))

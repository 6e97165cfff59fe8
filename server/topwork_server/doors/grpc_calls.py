"""Calls of other protocols over gRPC: what their metadata says, as headers do over HTTP."""

from __future__ import annotations

from collections.abc import Hashable

from topwork_server.doors.json_calls import FINGERPRINT, MODEL, PRIORITY, Call, priority_of
from topwork_server.services.request_checks import Context, deadline


def call_of(context: Context, client: Hashable) -> Call[None]:
    """The call of a request, without its body. InvalidInput where its metadata says what is not known."""
    said = {name: value for name, value in context.invocation_metadata() or () if isinstance(value, str)}
    priority = priority_of(said.get(PRIORITY, "normal"))
    return Call(None, {}, said.get(MODEL, ""), said.get(FINGERPRINT, ""), priority, deadline(context), client, said)

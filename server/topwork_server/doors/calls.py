"""One request of another protocol: its body, and what its headers, or its metadata over gRPC, say."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from topwork_server.errors import InvalidInput
from topwork_server.services.request_checks import Context, deadline
from topwork_server.types import Priority

#: Headers that any request may have.
MODEL, FINGERPRINT, PRIORITY, TIMEOUT, REQUEST_ID = "x-model", "x-fingerprint", "x-priority", "x-timeout-ms", "x-request-id"

B = TypeVar("B")


@dataclass(frozen=True, slots=True)
class Call(Generic[B]):
    """One request: its body, and what its path and its headers say. `deadline` is in time.monotonic(); `headers` are all of
    them, found by their names in any case."""

    body: B
    path: Mapping[str, str]
    model: str
    fingerprint: str
    priority: Priority
    deadline: float | None
    client: Hashable
    headers: Mapping[str, str] = field(default_factory=dict)


def call_of(context: Context, client: Hashable) -> Call[None]:
    """The call of a request over gRPC, without its body. InvalidInput where its metadata says what is not known."""
    metadata = {name: value for name, value in context.invocation_metadata() or () if isinstance(value, str)}
    priority = priority_of(metadata.get(PRIORITY, "normal"))
    return Call(None, {}, metadata.get(MODEL, ""), metadata.get(FINGERPRINT, ""), priority, deadline(context), client, metadata)


def priority_of(name: str) -> Priority:
    """The priority that a header names. InvalidInput where there is none such."""
    if name.upper() not in Priority.__members__:
        raise InvalidInput(f"there is no priority {name[:40]!r}", remedy=f"set {PRIORITY} to low, normal or high")
    return Priority[name.upper()]

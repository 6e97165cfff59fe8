"""Plain HTTP for tests: one connection, without a library that repairs or hides anything."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from dataclasses import dataclass
from http.client import HTTPConnection
from typing import Any


@dataclass(frozen=True)
class Reply:
    """A whole reply; `headers` by their names in small letters."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


def call(address: str, method: str, path: str, body: Any = None, headers: Mapping[str, str] | None = None) -> Reply:
    """Send one request, and read its reply. A body that is no bytes goes as JSON."""
    data = body if isinstance(body, bytes | None) else json.dumps(body).encode()
    sent = {} if isinstance(body, bytes | None) else {"content-type": "application/json"}
    connection = HTTPConnection(address, timeout=30)
    try:
        connection.request(method, path, data, {**sent, **(headers or {})})
        response = connection.getresponse()
        return Reply(response.status, {name.lower(): value for name, value in response.getheaders()}, response.read())
    finally:
        connection.close()


async def post(address: str, path: str, body: Any = None, headers: Mapping[str, str] | None = None) -> Reply:
    """POST from another thread, where the server is on this loop."""
    return await asyncio.to_thread(call, address, "POST", path, body, headers)


async def get(address: str, path: str, headers: Mapping[str, str] | None = None) -> Reply:
    """GET from another thread, where the server is on this loop."""
    return await asyncio.to_thread(call, address, "GET", path, None, headers)

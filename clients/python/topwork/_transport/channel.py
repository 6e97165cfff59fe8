"""How a channel is set up, for both clients."""

from __future__ import annotations

import os
from typing import Any

import grpc

from topwork._ops.calls import Method
from topwork._transport.address import is_local, is_proxy, proxy_variable

LARGEST_MESSAGE = 64 << 20


def connect(api: Any, target: str, gzip: bool, credentials: Any) -> Any:
    """A channel of `api`: grpc or grpc.aio."""
    arguments = options(target)
    compression = grpc.Compression.Gzip if gzip else grpc.Compression.NoCompression
    if credentials is None:
        return api.insecure_channel(target, arguments, compression)
    return api.secure_channel(target, credentials, arguments, compression)


def stub(channel: Any, method: Method[Any, Any]) -> Any:
    """A callable for one method, of either API."""
    return getattr(channel, method.kind)(method.path, method.request.SerializeToString, method.reply.FromString)


def options(target: str) -> list[tuple[str, Any]]:
    """Channel arguments. What a server answers is for the server to limit; what it takes is 64 MiB a message."""
    chosen: list[tuple[str, Any]] = [
        ("grpc.max_send_message_length", LARGEST_MESSAGE),
        ("grpc.max_receive_message_length", -1),
        # A call that nothing is heard of for a minute may sit on a connection that is dead.
        ("grpc.keepalive_time_ms", 60_000),
        ("grpc.keepalive_timeout_ms", 20_000),
        # A retry finds a server that has just come back, though connecting to it failed a moment ago.
        ("grpc.initial_reconnect_backoff_ms", 200),
        ("grpc.max_reconnect_backoff_ms", 1000),
        ("grpc.enable_retries", 0),  # `retry_policy.py` knows more: how long, and what must not be done twice
    ]
    proxy = proxy_variable()
    if is_local(target) or (proxy and not is_proxy(os.environ[proxy])):
        chosen.append(("grpc.enable_http_proxy", 0))
    return chosen

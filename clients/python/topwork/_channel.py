"""How a channel is set up, for both clients."""

from __future__ import annotations

import json
import re
from typing import Any

import grpc

from topwork._calls import Method

LARGEST_MESSAGE = 64 << 20
#: gRPC makes at most 5 tries, whatever is asked.
MOST_RETRIES = 4
#: Seconds before the first retry; each further pause is twice as long, up to LONGEST_PAUSE. Together they outlast a restart.
FIRST_PAUSE, LONGEST_PAUSE = 0.3, 5.0
#: (service, method) of all that is a stream.
STREAMS = (
    ("Encoders", "EmbedStream"),
    ("FeatureSets", "Write"),
    ("FeatureSets", "Read"),
    ("Heads", "PredictStream"),
    ("Heads", "ExportHead"),
    ("Jobs", "WatchJob"),
)


def connect(api: Any, target: str, retries: int, gzip: bool, credentials: Any) -> Any:
    """A channel of `api`: grpc or grpc.aio."""
    arguments = options(target, retries)
    compression = grpc.Compression.Gzip if gzip else grpc.Compression.NoCompression
    if credentials is None:
        return api.insecure_channel(target, arguments, compression)
    return api.secure_channel(target, credentials, arguments, compression)


def stub(channel: Any, method: Method[Any, Any]) -> Any:
    """A callable for one method, of either API."""
    return getattr(channel, method.kind)(method.path, method.request.SerializeToString, method.reply.FromString)


def options(target: str, retries: int) -> list[tuple[str, Any]]:
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
        ("grpc.service_config", json.dumps(service_config(retries))),
        ("grpc.enable_retries", int(retries > 0)),
        # A request can be sent again only while it is kept, and one may be as long as a message.
        ("grpc.per_rpc_retry_buffer_size", LARGEST_MESSAGE + (1 << 20)),
    ]
    if is_local(target):
        chosen.append(("grpc.enable_http_proxy", 0))
    return chosen


def service_config(retries: int) -> dict[str, Any]:
    """gRPC's own retries for calls of one reply. Streams are opened again by `_tries.Tries`, which knows what is unanswered."""
    if retries < 1:
        return {}
    policy = {
        "maxAttempts": min(retries, MOST_RETRIES) + 1,
        "initialBackoff": f"{FIRST_PAUSE}s",
        "maxBackoff": f"{LONGEST_PAUSE}s",
        "backoffMultiplier": 2,
        # CANCELLED by the server: it had more requests than it could refuse one by one.
        "retryableStatusCodes": ["UNAVAILABLE", "RESOURCE_EXHAUSTED", "CANCELLED"],
    }
    # The more exact name wins: no policy for streams.
    return {
        "methodConfig": [
            {"name": [{}], "retryPolicy": policy},
            {"name": [{"service": f"topwork.v1.{service}", "method": method} for service, method in STREAMS]},
        ]
    }


def is_local(target: str) -> bool:
    """Whether the address is this machine, which no proxy stands before."""
    return re.match(r"(ipv4:|ipv6:|dns:/*)?(127\.|localhost\b|\[?::1\b)|unix", target) is not None

"""The methods of our services, as doors other than gRPC's find them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import grpc


@dataclass(frozen=True, slots=True)
class ServiceMethod:
    """One method: `behavior(request, context)` takes messages of class `kind`, an asynchronous iterator of them where it streams
    requests, and writes its replies to the context where it streams those."""

    service: str
    name: str
    kind: type[Any]
    streams_requests: bool
    streams_replies: bool
    behavior: Callable[[Any, Any], Awaitable[Any]]


class ServiceMethods:
    """Stands in for a grpc server where generated code registers a service."""

    def __init__(self) -> None:
        self.methods: dict[str, ServiceMethod] = {}

    def add_generic_rpc_handlers(self, handlers: Iterable[grpc.GenericRpcHandler]) -> None:
        """Ignore the handlers, which `add_registered_method_handlers` is given too, with their names."""

    def add_registered_method_handlers(self, service: str, handlers: Mapping[str, grpc.RpcMethodHandler]) -> None:
        """Keep the methods of a service by their path, "/package.Service/Method"."""
        for name, handler in handlers.items():
            behavior = handler.unary_unary or handler.unary_stream or handler.stream_unary or handler.stream_stream
            self.methods[f"/{service}/{name}"] = ServiceMethod(
                service,
                name,
                handler.request_deserializer.__self__,
                bool(handler.request_streaming),
                bool(handler.response_streaming),
                behavior,
            )

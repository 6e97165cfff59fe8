"""Server reflection, v1 and v1alpha. grpcio-reflection brings v1alpha alone; the messages of both are the same on the wire,
so one servicer answers under both names, and the descriptor of v1 is that of v1alpha renamed."""

from __future__ import annotations

from collections.abc import Iterable

import grpc
from google.protobuf import descriptor_pb2, descriptor_pool, json_format
from grpc_reflection.v1alpha import reflection_pb2
from grpc_reflection.v1alpha.reflection import SERVICE_NAME as V1ALPHA
from grpc_reflection.v1alpha.reflection import aio

V1 = V1ALPHA.replace("v1alpha", "v1")


def add_reflection(server: grpc.aio.Server, services: Iterable[str]) -> None:
    """Let tools such as grpcurl list these services and fetch their descriptors."""
    _pool_v1()
    servicer = aio.ReflectionServicer((*services, V1, V1ALPHA))
    method = grpc.stream_stream_rpc_method_handler(
        servicer.ServerReflectionInfo,
        reflection_pb2.ServerReflectionRequest.FromString,
        reflection_pb2.ServerReflectionResponse.SerializeToString,
    )
    for name in (V1, V1ALPHA):
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(name, {"ServerReflectionInfo": method}),))


def _pool_v1() -> None:
    """Put the descriptor of v1 into the default pool, where the servicer looks."""
    proto = descriptor_pb2.FileDescriptorProto()
    reflection_pb2.DESCRIPTOR.CopyToProto(proto)
    renamed = json_format.MessageToJson(proto).replace("v1alpha", "v1")
    json_format.Parse(renamed, proto := descriptor_pb2.FileDescriptorProto())
    descriptor_pool.Default().AddSerializedFile(proto.SerializeToString())

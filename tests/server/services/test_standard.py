"""The standard protocols that we speak: health, reflection in both versions."""

from __future__ import annotations

import tracemalloc
from types import SimpleNamespace

import pytest
from fake_engine import served
from google.protobuf import descriptor_pb2
from grpc import StatusCode, aio
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2
from topwork_server.services import health

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
SERVICE_UNKNOWN = health_pb2.HealthCheckResponse.SERVICE_UNKNOWN


async def check(server, service):
    reply = await health_pb2_grpc.HealthStub(server.channel).Check(health_pb2.HealthCheckRequest(service=service))
    return reply.status


async def test_where_no_memory_is_left_nothing_serves(tmp_path, monkeypatch):
    async with served(tmp_path) as server:
        server.app.health.interval = 0.02
        watch = health_pb2_grpc.HealthStub(server.channel).Watch(health_pb2.HealthCheckRequest(service=""))
        assert (await watch.read()).status == SERVING
        monkeypatch.setattr(health, "LEAST", 1 << 62)
        assert (await watch.read()).status == NOT_SERVING
        for service in ("", "topwork.v1.Encoders", "encoder/ready"):
            assert await check(server, service) == NOT_SERVING
        monkeypatch.undo()
        assert (await watch.read()).status == SERVING
        assert await check(server, "encoder/ready") == SERVING


async def test_a_look_at_the_headroom_takes_none(tmp_path):
    """Memory that is filled with zeros holds the interpreter, and everybody waits."""
    async with served(tmp_path) as server:
        await check(server, "")
        tracemalloc.start()
        try:
            assert await check(server, "") == SERVING
            assert tracemalloc.get_traced_memory()[1] < health.LEAST // 4
        finally:
            tracemalloc.stop()


@pytest.mark.parametrize("service", ["", "topwork.v1.Encoders", "grpc.health.v1.Health", "encoder/ready"])
async def test_what_serves_says_so(tmp_path, service):
    async with served(tmp_path) as server:
        assert await check(server, service) == SERVING


@pytest.mark.parametrize("service", ["encoder/nobody", "nobody"])
async def test_the_unknown_is_not_found(tmp_path, service):
    async with served(tmp_path) as server:
        with pytest.raises(aio.AioRpcError) as caught:
            await check(server, service)
        assert caught.value.code() is StatusCode.NOT_FOUND


async def test_an_encoder_without_weights_does_not_serve_until_they_are_there(tmp_path):
    async with served(tmp_path) as server:
        assert await check(server, "encoder/absent") == NOT_SERVING
        server.catalog.entries["absent"] = server.catalog.entries["ready"]
        assert await check(server, "encoder/absent") == SERVING
        del server.catalog.entries["absent"]
        with pytest.raises(aio.AioRpcError) as caught:
            await check(server, "encoder/absent")
        assert caught.value.code() is StatusCode.NOT_FOUND


async def test_a_watch_sees_a_worker_die_and_come_back(tmp_path):
    async with served(tmp_path) as server:
        watch = health_pb2_grpc.HealthStub(server.channel).Watch(health_pb2.HealthCheckRequest(service="encoder/ready"))
        assert (await watch.read()).status == SERVING
        loaded = SimpleNamespace(serving=False)
        server.engine.loaded["ready"] = loaded
        server.engine.on_health("ready", False)
        assert (await watch.read()).status == NOT_SERVING
        assert await check(server, "encoder/ready") == NOT_SERVING
        loaded.serving = True
        server.engine.on_health("ready", True)
        assert (await watch.read()).status == SERVING
        watch.cancel()


async def test_a_watch_sees_a_change_without_a_message(tmp_path):
    async with served(tmp_path) as server:
        server.app.health.interval = 0.02
        watch = health_pb2_grpc.HealthStub(server.channel).Watch(health_pb2.HealthCheckRequest(service="encoder/absent"))
        assert (await watch.read()).status == NOT_SERVING
        server.catalog.entries["absent"] = server.catalog.entries["ready"]
        assert (await watch.read()).status == SERVING
        del server.catalog.entries["absent"]
        assert (await watch.read()).status == SERVICE_UNKNOWN
        watch.cancel()


async def reflect(server, version, **question):
    """By a hand-made stub, as a tool that knows only the version's name would call it."""
    call = server.channel.stream_stream(
        f"/grpc.reflection.{version}.ServerReflection/ServerReflectionInfo",
        reflection_pb2.ServerReflectionRequest.SerializeToString,
        reflection_pb2.ServerReflectionResponse.FromString,
    )()
    await call.write(reflection_pb2.ServerReflectionRequest(**question))
    await call.done_writing()
    return await call.read()


@pytest.mark.parametrize("version", ["v1", "v1alpha"])
async def test_reflection_lists_all_services_and_describes_each(tmp_path, version):
    async with served(tmp_path) as server:
        listed = await reflect(server, version, list_services="")
        names = [service.name for service in listed.list_services_response.service]
        assert names == [
            "grpc.health.v1.Health",
            "grpc.reflection.v1.ServerReflection",
            "grpc.reflection.v1alpha.ServerReflection",
            "inference.GRPCInferenceService",
            "tei.v1.Embed",
            "tei.v1.Info",
            "tei.v1.Predict",
            "tei.v1.Rerank",
            "tei.v1.Tokenize",
            "topwork.v1.Encoders",
            "topwork.v1.FeatureSets",
            "topwork.v1.Heads",
            "topwork.v1.Indexes",
            "topwork.v1.Jobs",
        ]
        for name in names:
            reply = await reflect(server, version, file_containing_symbol=name)
            files = [
                descriptor_pb2.FileDescriptorProto.FromString(data)
                for data in reply.file_descriptor_response.file_descriptor_proto
            ]
            services = {f"{file.package}.{service.name}" for file in files for service in file.service}
            assert name in services
            assert "v1alpha" not in str(files) or "v1alpha" in name


@pytest.mark.parametrize("version", ["v1", "v1alpha"])
async def test_reflection_gives_the_files_that_the_service_needs(tmp_path, version):
    async with served(tmp_path) as server:
        reply = await reflect(server, version, file_by_filename="topwork/v1/encoders.proto")
        names = {
            descriptor_pb2.FileDescriptorProto.FromString(data).name
            for data in reply.file_descriptor_response.file_descriptor_proto
        }
        assert names == {f"topwork/v1/{name}.proto" for name in ("encoders", "jobs", "types")} | {"google/protobuf/struct.proto"}
        missing = await reflect(server, version, file_containing_symbol="nobody.v1.Nothing")
        assert missing.error_response.error_code == StatusCode.NOT_FOUND.value[0]

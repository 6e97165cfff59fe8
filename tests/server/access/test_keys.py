"""Keys at the doors of a real server: who is let in, to what, and what each may see."""

from __future__ import annotations

import asyncio
import contextlib
import json
import stat
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import fake_engine
import grpc
import httpx
import numpy as np
import pytest
from google.protobuf.descriptor_pb2 import FileDescriptorProto
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from passes import of_encoder
from topwork.v1 import (
    encoders_pb2,
    heads_pb2,
    heads_pb2_grpc,
    indexes_pb2,
    indexes_pb2_grpc,
    jobs_pb2,
    jobs_pb2_grpc,
    sets_pb2,
    sets_pb2_grpc,
    types_pb2,
)
from topwork_server.access.caller import AccessRole
from topwork_server.access.key_file import LOOK, NAME, KeyFile
from topwork_server.access.operations import OPERATIONS, role_for
from topwork_server.errors import AlreadyExists, InvalidInput, NotFound, StartError
from topwork_server.feature_sets.set_registry import FeatureSets
from topwork_server.inference.engine import EmbedParams
from topwork_server.services.interceptor import SERVED, counted_as

ROLES = {role: role.name.lower() for role in (AccessRole.READER, AccessRole.WRITER, AccessRole.TRAINER, AccessRole.ADMIN)}
REFUSED = {grpc.StatusCode.UNAUTHENTICATED: 401, grpc.StatusCode.PERMISSION_DENIED: 403}


def keyed(home: Path, **scopes: Any) -> dict[str, str]:
    """A key of each role, by its name."""
    home.mkdir(parents=True, exist_ok=True)
    keys = KeyFile(home)
    return {name: keys.add(name, role, **scopes)[0] for role, name in ROLES.items()}


def bearer(key: str) -> tuple[tuple[str, str], ...]:
    return (("authorization", f"Bearer {key}"),)


async def code_of(call: Awaitable[Any]) -> grpc.StatusCode:
    """The status of a call, OK too."""
    try:
        await call
    except grpc.aio.AioRpcError as error:
        return error.code()
    return grpc.StatusCode.OK


async def test_every_operation_stands_in_the_table(tmp_path: Path) -> None:
    async with fake_engine.served(tmp_path, http="127.0.0.1:0", shared_memory=True) as server:
        methods = [counted_as(path) async for path, _, _ in served_methods(server.channel)]
        async with httpx.AsyncClient(base_url=f"http://{server.ready.http}") as client:
            paths = (await client.get("/openapi.json")).json()["paths"]
        operations = [name for name, _, _ in operations_of(paths)]
    assert len(methods) > 60
    assert len(operations) >= 90
    assert [name for name in {*methods, *operations} if name not in OPERATIONS] == []


async def test_every_method_over_grpc_by_every_role(tmp_path: Path) -> None:
    keys = keyed(tmp_path)
    async with fake_engine.served(tmp_path) as server:
        async for path, streams, answers in served_methods(server.channel):
            needed = role_for(counted_as(path))
            for role, name in {AccessRole.ANYONE: "", **ROLES}.items():
                code = await code_of(called(server.channel, path, streams, answers, bearer(keys[name]) if name else ()))
                expected = refusal(role, needed)
                assert (code if code in REFUSED else None) == expected, (path, name, code)


async def test_every_path_over_http_by_every_role(tmp_path: Path) -> None:
    keys = keyed(tmp_path)
    settings = {"http": "127.0.0.1:0", "shared_memory": True}
    async with fake_engine.served(tmp_path, **settings) as server, http_client(server) as client:
        for operation, method, path in operations_of((await client.get("/openapi.json")).json()["paths"]):
            needed = role_for(operation)
            for role, name in {AccessRole.ANYONE: "", **ROLES}.items():
                headers = dict(bearer(keys[name])) if name else {}
                reply = await client.request(method, path, content=b"{}" if method == "POST" else None, headers=headers)
                code = refusal(role, needed)
                expected = REFUSED[code] if code else None
                assert (reply.status_code if reply.status_code in (401, 403) else None) == expected, (path, name, reply.text)
                assert (reply.headers.get("www-authenticate") == "Bearer") == (expected == 401)
        assert (await client.get("/metrics")).status_code == 401
        for public in ("/health/live", "/health/ready", "/v2/health/live", "/docs", "/openapi.json", "/ping"):
            assert (await client.get(public)).status_code not in (401, 403), public


async def test_without_keys_nothing_is_asked_and_the_first_key_closes_the_server(tmp_path: Path) -> None:
    async with fake_engine.served(tmp_path, http="127.0.0.1:0") as server:
        listed = server.encoders.ListEncoders
        assert await code_of(listed(encoders_pb2.ListEncodersRequest())) is grpc.StatusCode.OK
        key, _ = KeyFile(tmp_path).add("first", AccessRole.READER)
        await seen()
        assert await code_of(listed(encoders_pb2.ListEncodersRequest())) is grpc.StatusCode.UNAUTHENTICATED
        for metadata in (bearer(key), (("authorization", f"bearer  {key} "),), (("api-key", key),), (("x-api-key", key),)):
            assert await code_of(listed(encoders_pb2.ListEncodersRequest(), metadata=metadata)) is grpc.StatusCode.OK
        wrong = (
            ("authorization", f"Bearer {key[:-1]}"),
            ("authorization", f"Basic {key}"),
            ("api-key", ""),
            ("api-key", key + "x"),
        )
        for pair in wrong:
            assert await code_of(listed(encoders_pb2.ListEncodersRequest(), metadata=(pair,))) is grpc.StatusCode.UNAUTHENTICATED
        two = (*bearer(key), ("api-key", "tw_000000000000_" + "x" * 43))
        assert await code_of(listed(encoders_pb2.ListEncodersRequest(), metadata=two)) is grpc.StatusCode.UNAUTHENTICATED
        KeyFile(tmp_path).revoke("first")
        await seen()
        code, message, info = await fake_engine.refusal(listed(encoders_pb2.ListEncodersRequest(), metadata=bearer(key)))
        assert (code, info.reason) == (grpc.StatusCode.UNAUTHENTICATED, "Refused")
        assert key not in message


async def test_a_body_is_not_read_before_its_caller_is_known(tmp_path: Path) -> None:
    keyed(tmp_path)
    async with fake_engine.served(tmp_path, http="127.0.0.1:0") as server:

        async def endless() -> Any:
            while True:
                yield b"x" * 65536

        async with httpx.AsyncClient(base_url=f"http://{server.ready.http}", timeout=20) as client:
            for path in ("/v1/embeddings", "/topwork.v1.Encoders/Embed", "/embed", "/v2/models/ready/infer"):
                with contextlib.suppress(httpx.WriteError, httpx.ReadError):  # it is cut off
                    assert (await client.post(path, content=endless())).status_code == 401
                assert server.app.budget.used == 0


async def test_callers_see_and_use_only_what_their_patterns_match(tmp_path: Path) -> None:
    scoped, _ = KeyFile(tmp_path).add("pets", AccessRole.WRITER, sets=["pets-*"], encoders=["rea*"])
    admin, _ = KeyFile(tmp_path).add("root", AccessRole.ADMIN)
    async with fake_engine.served(tmp_path, http="127.0.0.1:0") as server:
        sets = sets_pb2_grpc.FeatureSetsStub(server.channel)  # type: ignore[no-untyped-call]
        for name in ("pets-dogs", "secret"):
            assert await code_of(written(sets, name, admin)) is grpc.StatusCode.OK
        assert await code_of(written(sets, "pets-cats", scoped)) is grpc.StatusCode.OK
        listed = await sets.ListSets(sets_pb2.ListSetsRequest(), metadata=bearer(scoped))
        assert [one.name for one in listed.sets] == ["pets-cats", "pets-dogs"]
        calls: tuple[Callable[[str], Awaitable[Any]], ...] = (
            lambda name: sets.GetSet(sets_pb2.GetSetRequest(set=name), metadata=bearer(scoped)),
            lambda name: sets.CountRows(sets_pb2.CountRowsRequest(set=name), metadata=bearer(scoped)),
            lambda name: sets.DeleteRows(sets_pb2.DeleteRowsRequest(set=name, ids=["a"]), metadata=bearer(scoped)),
            lambda name: sets.DropSet(sets_pb2.DropSetRequest(set=name), metadata=bearer(scoped)),
            lambda name: written(sets, name, scoped),
        )
        for call in calls:
            for name in ("secret", "secre", "no-such", "pets", "../pets-dogs"):
                assert await code_of(call(name)) is grpc.StatusCode.PERMISSION_DENIED, name
        code, _, info = await fake_engine.refusal(sets.GetSet(sets_pb2.GetSetRequest(set="pets-secret"), metadata=bearer(scoped)))
        assert code is grpc.StatusCode.NOT_FOUND
        assert "pets-dogs" in info.metadata["remedy"]
        assert "'secret'" not in info.metadata["remedy"]

        encoders = await server.encoders.ListEncoders(encoders_pb2.ListEncodersRequest(), metadata=bearer(scoped))
        assert {one.name for one in encoders.encoders} == {"ready"}
        heads = heads_pb2_grpc.HeadsStub(server.channel)  # type: ignore[no-untyped-call]
        of_other = heads_pb2.ListHeadsRequest(encoder="ranker")
        assert await code_of(heads.ListHeads(of_other, metadata=bearer(scoped))) is grpc.StatusCode.PERMISSION_DENIED
        indexes = indexes_pb2_grpc.IndexesStub(server.channel)  # type: ignore[no-untyped-call]
        search = indexes_pb2.SearchRequest(set="pets-dogs", encoder="ranker", stored={"values": ["a"]})
        assert await code_of(indexes.Search(search, metadata=bearer(scoped))) is grpc.StatusCode.PERMISSION_DENIED
        further = encoders_pb2.PretrainRequest(settings=encoders_pb2.PretrainSettings(kind="mlm", name="rea", encoder="ranker"))
        trainer, _ = KeyFile(tmp_path).add("trains", AccessRole.TRAINER, encoders=["rea*"])
        await seen()
        assert (
            await code_of(server.encoders.Pretrain(iter([further]), metadata=bearer(trainer)))
            is grpc.StatusCode.PERMISSION_DENIED
        )
        embed = encoders_pb2.EmbedRequest(settings=encoders_pb2.EmbedSettings(encoder="ranker"), items=[types_pb2.Item(text="a")])
        assert await code_of(server.encoders.Embed(embed, metadata=bearer(scoped))) is grpc.StatusCode.PERMISSION_DENIED
        async with httpx.AsyncClient(base_url=f"http://{server.ready.http}", headers=dict(bearer(scoped))) as client:
            assert [one["id"] for one in (await client.get("/v1/models")).json()["data"]] == ["ready"]
            for path, body in (
                ("/v1/embeddings", {"model": "ranker", "input": "a"}),
                ("/v2/embed", {"model": "ranker", "texts": ["a"], "input_type": "search_query"}),
                ("/rerank", {"model": "ranker", "query": "a", "documents": ["b"]}),
                ("/embed", {"inputs": "a"}),
            ):
                reply = await client.post(path, json=body, headers={"x-model": "ranker"})
                assert reply.status_code == 403, (path, reply.text)
            for path in ("/v2/models/ranker", "/v2/models/ranker/config", "/v1/models/ranker", "/v1/models/no-such"):
                assert (await client.get(path)).status_code == 403, path
            assert "ranker" not in (await client.get("/v1/models/ready2")).text  # no name near it that is not for the caller
            assert (await client.get("/metrics")).status_code == 403


async def test_jobs_are_cancelled_by_their_owner_or_an_admin(tmp_path: Path) -> None:
    keys = keyed(tmp_path)
    mine, _ = KeyFile(tmp_path).add("mine", AccessRole.WRITER, sets=["mine*"])
    async with fake_engine.served(tmp_path) as server:
        jobs = jobs_pb2_grpc.JobsStub(server.channel)  # type: ignore[no-untyped-call]
        job = server.app.state.jobs.start("test", "birds", "time:sleep", {}, small=True)
        request = jobs_pb2.CancelJobRequest(id=job.id)
        assert await code_of(jobs.CancelJob(request, metadata=bearer(keys["trainer"]))) is grpc.StatusCode.PERMISSION_DENIED
        for call in (
            jobs.GetJob(jobs_pb2.GetJobRequest(id=job.id), metadata=bearer(mine)),
            jobs.CancelJob(request, metadata=bearer(mine)),
        ):
            assert await code_of(call) is grpc.StatusCode.PERMISSION_DENIED
        assert not (await jobs.ListJobs(jobs_pb2.ListJobsRequest(), metadata=bearer(mine))).jobs
        assert (await jobs.ListJobs(jobs_pb2.ListJobsRequest(), metadata=bearer(keys["reader"]))).jobs
        assert await code_of(jobs.CancelJob(request, metadata=bearer(keys["admin"]))) is grpc.StatusCode.OK


def test_the_file_holds_hashes_and_is_the_owners_alone(tmp_path: Path) -> None:
    keys = KeyFile(tmp_path)
    key, made = keys.add("one", AccessRole.WRITER, sets=["pets-*"], seconds=60)
    assert stat.S_IMODE((tmp_path / NAME).stat().st_mode) == 0o600
    assert key not in (tmp_path / NAME).read_text()
    assert key.rpartition("_")[2] not in (tmp_path / NAME).read_text()
    assert keys.read() == [made]
    with pytest.raises(AlreadyExists):
        keys.add("one", AccessRole.READER)
    for name in ("", "a b", "../x", "a" * 65, "é"):
        with pytest.raises(InvalidInput):
            keys.add(name, AccessRole.READER)
    with pytest.raises(NotFound, match="one"):
        keys.revoke("oen")
    assert [one.state for one in keys.revoke(made.id)] == ["valid"]
    again, _ = keys.add("one", AccessRole.READER)
    assert again != key
    assert [one.state for one in keys.read()] == ["revoked", "valid"]


async def test_an_expired_key_and_a_file_that_goes_or_breaks(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    key, _ = KeyFile(tmp_path).add("short", AccessRole.READER, seconds=0.5)
    other, _ = KeyFile(tmp_path).add("long", AccessRole.READER)
    async with fake_engine.served(tmp_path) as server:
        listed = server.encoders.ListEncoders
        time.sleep(0.6)
        assert await code_of(listed(encoders_pb2.ListEncodersRequest(), metadata=bearer(key))) is grpc.StatusCode.UNAUTHENTICATED
        whole = (tmp_path / NAME).read_bytes()
        for content in (whole.replace(b"reader", b"admin "), b"{}", None):
            (tmp_path / NAME).unlink() if content is None else (tmp_path / NAME).write_bytes(content)
            await seen()
            assert await code_of(listed(encoders_pb2.ListEncodersRequest())) is grpc.StatusCode.UNAUTHENTICATED
            assert await code_of(listed(encoders_pb2.ListEncodersRequest(), metadata=bearer(other))) is grpc.StatusCode.OK
    (tmp_path / NAME).write_text("[]")
    with pytest.raises(StartError, match=NAME):
        async with fake_engine.served(tmp_path):
            pass


def test_what_was_not_checked_does_not_run(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="SetPass"):
        FeatureSets(tmp_path).get("birds")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="EncoderPass"):
        EmbedParams("ready")  # type: ignore[arg-type]
    assert EmbedParams(of_encoder("ready")).encoder == "ready"
    code = "import sys; sys.path.insert(0, 'tests'); from topwork_server.access.passes import set_pass; set_pass('birds')"
    alone = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "not let in" in alone.stderr  # outside of a request there is no caller to check


def test_only_one_module_makes_passes() -> None:
    server = Path(__file__).parents[3] / "server" / "topwork_server"
    kinds = ("SetPass(", "EncoderPass(", "HeadPass(")
    makers = [path.relative_to(server).as_posix() for path in server.rglob("*.py") if any(k in path.read_text() for k in kinds)]
    assert makers == ["access/passes.py"]
    for room in ("services", "doors"):
        assert not [path for path in (server / room).rglob("*.py") if "server_pass" in path.read_text()], room


def test_keys_from_the_command_line(tmp_path: Path) -> None:
    def run(*words: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "topwork.cli", "keys", *words, "--home", str(tmp_path)]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    made = json.loads(run("add", "ci", "--role", "writer", "--sets", "pets-*", "toys", "--expires", "90d", "--json").stdout)
    assert (made["name"], made["role"], made["sets"]) == ("ci", "writer", ["pets-*", "toys"])
    assert made["key"].startswith("tw_")
    assert "sha256" not in made
    assert made["expires"] - made["created"] == pytest.approx(90 * 86400)
    shown = run("list").stdout
    assert "valid" in shown
    assert made["key"] not in shown
    assert run("revoke", "ci").returncode == 0
    assert run("revoke", "ci").returncode == 1
    assert run("add", "ci", "--role", "king").returncode == 2
    assert run("add", "ci", "--role", "reader", "--expires", "soon").returncode == 2


def http_client(server: fake_engine.ServedApp) -> httpx.AsyncClient:
    return httpx.AsyncClient(base_url=f"http://{server.ready.http}", timeout=20)


def refusal(role: AccessRole, needed: AccessRole) -> grpc.StatusCode | None:
    if role >= needed:
        return None
    return grpc.StatusCode.PERMISSION_DENIED if role else grpc.StatusCode.UNAUTHENTICATED


async def seen() -> None:
    """Wait until a server has looked at the file again."""
    await asyncio.sleep(LOOK + 0.05)


def operations_of(paths: dict[str, Any]) -> Iterator[tuple[str, str, str]]:
    """The name, the method and a path of each operation; methods of our services are named as over gRPC."""
    for path, methods in paths.items():
        for method, described in methods.items():
            own = path.startswith("/topwork.v1.")
            name = path.rpartition("/")[2] if own else described["operationId"].partition("/")[0]
            yield name, method.upper(), path.replace("{", "").replace("}", "")


async def served_methods(channel: grpc.aio.Channel) -> Any:
    """Yield path, whether requests stream, and whether replies do, of each method that reflection lists and that counts."""
    stub = reflection_pb2_grpc.ServerReflectionStub(channel)  # type: ignore[no-untyped-call]

    async def ask(**fields: str) -> reflection_pb2.ServerReflectionResponse:
        async for reply in stub.ServerReflectionInfo(iter([reflection_pb2.ServerReflectionRequest(**fields)])):
            return reply
        raise AssertionError(fields)

    for service in (await ask(list_services="")).list_services_response.service:
        if not f"/{service.name}".startswith(SERVED):
            continue
        described = await ask(file_containing_symbol=service.name)
        for data in described.file_descriptor_response.file_descriptor_proto:
            file = FileDescriptorProto.FromString(data)
            for one in file.service:
                if f"{file.package}.{one.name}" == service.name:
                    for method in one.method:
                        yield f"/{service.name}/{method.name}", method.client_streaming, method.server_streaming


async def called(channel: grpc.aio.Channel, path: str, streams: bool, answers: bool, metadata: Iterable[tuple[str, str]]) -> None:
    """Call a method with an empty message."""
    kind = f"{'stream' if streams else 'unary'}_{'stream' if answers else 'unary'}"
    call = getattr(channel, kind)(path)(iter([b""]) if streams else b"", metadata=tuple(metadata), timeout=20)
    if answers:
        async for _ in call:
            pass
    else:
        await call


async def written(sets: Any, name: str, key: str) -> None:
    """Write one ready row to a set."""
    tensor = types_pb2.Tensor(dtype=types_pb2.DTYPE_FLOAT32, shape=[1, 2], data=np.ones(2, np.float32).tobytes())
    rows = sets_pb2.WriteRows(ids=["a"], features=[types_pb2.TapFeatures(rows=tensor)])
    messages = [sets_pb2.WriteRequest(settings=sets_pb2.WriteSettings(set=name)), sets_pb2.WriteRequest(rows=rows)]
    async for _ in sets.Write(iter(messages), metadata=bearer(key)):
        pass

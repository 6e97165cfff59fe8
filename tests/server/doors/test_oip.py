"""The Open Inference Protocol over both wires, by messages and bodies as its clients send them, and as none does."""

from __future__ import annotations

import base64
import json
import os
from dataclasses import replace
from multiprocessing.shared_memory import SharedMemory

import fake_engine
import grpc
import numpy as np
import pytest
from http_calls import get, post
from oip_calls import asked, called, raw_texts, rows_of, streamed
from passes import of_encoder
from topwork_server import errors
from topwork_server.doors.protocols import oip_pb2
from topwork_server.inference.embed_statistics import EmbedStatistics
from topwork_server.inference.engine import EmbedParams
from topwork_server.types import Modality, Priority, TextItem

INFER = "/v2/models/ready/infer"
HEADER = "inference-header-content-length"


def served(home, **settings):
    return fake_engine.served(home, http="127.0.0.1:0", **settings)


def binary(fields, *raws):
    """A body of JSON and raw tensors, with its header."""
    head = json.dumps(fields).encode()
    return b"".join([head, *raws]), {HEADER: str(len(head))}


async def test_grpc_answers_an_output_by_its_position(tmp_path):
    async with served(tmp_path) as server:
        reply = await called(server, "ModelInfer", asked(b"hello", b"a", id="mine"))
        assert (reply.model_name, reply.model_version, reply.id) == ("ready", "1", "mine")
        assert [(one.name, one.datatype) for one in reply.outputs] == [("pooled", "FP32")]
        assert reply.outputs[0].parameters["fingerprint"].string_param == "a" * 64
        assert rows_of(reply)[:, 0].tolist() == [5, 1]
        both = await called(server, "ModelInfer", asked(b"ab", b"cd", outputs=["cells", "pooled"]))
        assert [list(one.shape) for one in both.outputs] == [[2, 2, fake_engine.DIM], [2, fake_engine.DIM]]
        assert rows_of(both, 1)[:, 0].tolist() == [2, 2]
        assert server.app.requests.counts["inference.GRPCInferenceService/ModelInfer", "OK"] == 2


async def test_http_answers_in_json_and_in_raw_bytes_alike(tmp_path):
    async with served(tmp_path) as server:
        text = {"name": "TEXT", "datatype": "BYTES", "shape": [2]}
        plain = await post(server.ready.http, INFER, {"id": "mine", "inputs": [{**text, "data": ["hello", "a"]}]})
        (output,) = plain.json["outputs"]
        assert (plain.json["model_name"], plain.json["id"], output["shape"]) == ("ready", "mine", [2, fake_engine.DIM])
        assert np.reshape(output["data"], output["shape"])[:, 0].tolist() == [5, 1]
        assert plain.headers["x-fingerprint"] == output["parameters"]["fingerprint"] == "a" * 64

        raw = raw_texts(b"hello", b"a")
        sent = {**text, "parameters": {"binary_data_size": len(raw)}}
        body, headers = binary({"inputs": [sent], "parameters": {"binary_data_output": True}}, raw)
        reply = await post(server.ready.http, INFER, body, headers)
        size = int(reply.headers[HEADER])
        (output,) = json.loads(reply.body[:size])["outputs"]
        assert output["parameters"]["binary_data_size"] == len(reply.body) - size
        assert np.frombuffer(reply.body[size:], "<f4").reshape(output["shape"])[:, 0].tolist() == [5, 1]


async def test_each_output_chooses_its_form(tmp_path):
    async with served(tmp_path) as server:
        outputs = [{"name": "cells", "parameters": {"binary_data": True}}, {"name": "pooled"}]
        text = {"name": "TEXT", "datatype": "BYTES", "shape": [1, 1], "data": [["hello"]]}
        reply = await post(
            server.ready.http, f"{INFER.removesuffix('infer')}versions/1/infer", {"inputs": [text], "outputs": outputs}
        )
        head = json.loads(reply.body[: int(reply.headers[HEADER])])
        assert ["data" in one for one in head["outputs"]] == [False, True]
        assert head["outputs"][1]["data"][0] == 5


async def test_a_body_may_be_one_element(tmp_path):
    async with served(tmp_path) as server:
        reply = await post(server.ready.http, INFER, b"hello", {HEADER: "0"})
        assert np.frombuffer(reply.body[int(reply.headers[HEADER]) :], "<f4")[0] == 5


async def test_parameters_are_priority_timeout_fingerprint_and_options(tmp_path):
    async with served(tmp_path) as server:
        request = asked(b"hello")
        request.parameters["priority"].uint64_param = 1
        request.parameters["timeout"].int64_param = 60_000_000
        request.parameters["fingerprint"].string_param = "a" * 64
        request.parameters["scale"].int64_param = 3
        await called(server, "ModelInfer", request)
        params, _ = server.engine.asked[-1]
        assert (params.priority, params.options) == (Priority.HIGH, {"scale": 3})
        assert params.deadline is not None
        text = {"name": "TEXT", "datatype": "BYTES", "shape": [1], "data": ["x"]}
        body = {"inputs": [text], "parameters": {"priority": 3, "unknown": "zero"}}
        assert (await post(server.ready.http, INFER, body)).status == 200
        params, _ = server.engine.asked[-1]
        assert (params.priority, params.options, params.deadline) == (Priority.LOW, {"unknown": "zero"}, None)


async def test_items_have_the_role_that_a_parameter_names(tmp_path):
    async with served(tmp_path) as server:
        request = asked(b"hello")
        request.parameters["role"].string_param = "document"
        await called(server, "ModelInfer", request)
        body = {"inputs": [{"name": "TEXT", "datatype": "BYTES", "shape": [1], "data": ["x"]}], "parameters": {"role": "query"}}
        assert (await post(server.ready.http, INFER, body)).status == 200
        assert [(params.role, params.options) for params, _ in server.engine.asked] == [("document", {}), ("query", {})]


async def test_token_ids_are_arrays(tmp_path):
    async with served(tmp_path) as server:
        ids = np.array([[1, 2], [3, 4]], np.int32)
        reply = await called(server, "ModelInfer", asked(datatype="INT32", shape=[2, 2], raw=ids.tobytes()))
        assert rows_of(reply)[:, 0].tolist() == [3, 7]
        request = asked(datatype="INT64", shape=[2, 2], raw=b"")
        request.ClearField("raw_input_contents")
        request.inputs[0].contents.int64_contents.extend([1, 2, 3, 4])
        assert rows_of(await called(server, "ModelInfer", request))[:, 0].tolist() == [3, 7]


async def test_pictures_are_bytes_arrays_and_in_json_data_uris(tmp_path):
    async with served(tmp_path) as server:
        entry = server.catalog.entries["ready"]
        spec = replace(entry.spec, name="pictures", modality=Modality.IMAGE)
        server.catalog.entries["pictures"] = replace(entry, spec=spec)
        as_bytes = asked(b"\x89PNG", name="IMAGE", model_name="pictures")
        assert rows_of(await called(server, "ModelInfer", as_bytes))[0, 0] == 4
        pixels = np.ones((2, 3, 4, 3), np.uint8)
        as_arrays = asked(name="IMAGE", datatype="UINT8", shape=pixels.shape, raw=pixels.tobytes(), model_name="pictures")
        assert rows_of(await called(server, "ModelInfer", as_arrays))[:, 0].tolist() == [36, 36]
        path, image = "/v2/models/pictures/infer", {"name": "IMAGE", "datatype": "BYTES", "shape": [1]}
        uri = f"data:image/png;base64,{base64.b64encode(b'1234').decode()}"
        reply = await post(server.ready.http, path, {"inputs": [{**image, "data": [uri]}]})
        assert reply.json["outputs"][0]["data"][0] == 4
        wrong = await post(server.ready.http, path, {"inputs": [{**image, "data": ["http://x/cat.png"]}]})
        assert (wrong.status, "fetches no URLs" in wrong.json["error"]) == (400, True)


async def test_server_and_models_describe_themselves_alike_on_both_wires(tmp_path):
    async with served(tmp_path) as server:
        assert (await called(server, "ServerLive", oip_pb2.ServerLiveRequest())).live
        assert (await called(server, "ServerReady", oip_pb2.ServerReadyRequest())).ready
        told = await called(server, "ServerMetadata", oip_pb2.ServerMetadataRequest())
        assert (await get(server.ready.http, "/v2")).json["extensions"] == list(told.extensions)
        metadata = (await get(server.ready.http, "/v2/models/ready")).json
        assert metadata["inputs"] == [{"name": "TEXT", "datatype": "BYTES", "shape": [-1]}]
        assert metadata["outputs"][0] == {"name": "pooled", "datatype": "FP32", "shape": [-1, fake_engine.DIM]}
        assert metadata["properties"]["fingerprint.pooled"] == "a" * 64
        same = await called(server, "ModelMetadata", oip_pb2.ModelMetadataRequest(name="ready", version="1"))
        assert same == oip_pb2.ModelMetadataResponse(**metadata)
        config = (await get(server.ready.http, "/v2/models/ready/versions/1/config")).json
        assert config["output"][0]["data_type"] == "TYPE_FP32"
        same = await called(server, "ModelConfig", oip_pb2.ModelConfigRequest(name="ready"))
        assert same.config == oip_pb2.ModelConfig(**config)


async def test_a_stream_answers_in_order_and_stays_open_after_an_error(tmp_path):
    async with served(tmp_path) as server:
        stream = streamed(server)
        for i, text in enumerate([b"wait", b"bad", b"abc"]):
            await stream.write(asked(text, id=str(i)))
        await server.engine.until(lambda engine: len(engine.asked) == 3)
        server.engine.gate.set()
        first, second, third = [await stream.read() for _ in range(3)]
        assert [one.infer_response.id for one in (first, second, third)] == ["0", "1", "2"]
        assert "the text is bad" in second.error_message
        assert rows_of(third.infer_response)[0, 0] == 3
        assert third.infer_response.parameters["triton_final_response"].bool_param
        assert all(params.wait for params, _ in server.engine.asked)
        await stream.done_writing()
        assert await stream.read() is grpc.aio.EOF
        assert await stream.code() is grpc.StatusCode.OK


async def test_a_stream_ends_with_the_server_after_what_it_took(tmp_path):
    async with served(tmp_path) as server:
        stream = streamed(server)
        await stream.write(asked(b"wait"))
        await server.engine.until(lambda engine: engine.running == 1)
        server.app.requests.refuse()
        server.engine.gate.set()
        assert rows_of((await stream.read()).infer_response)[0, 0] == 4
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stream.read()
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE


async def test_a_caller_that_leaves_a_stream_cancels_its_work(tmp_path):
    async with served(tmp_path) as server:
        stream = streamed(server)
        await stream.write(asked(b"wait"))
        await server.engine.until(lambda engine: engine.running == 1)
        stream.cancel()
        await server.engine.until(lambda engine: engine.cancelled == 1)


async def test_the_repository_lists_loads_and_unloads_on_both_wires(tmp_path):
    async with served(tmp_path) as server:
        listed = (await post(server.ready.http, "/v2/repository/index")).json
        states = {one["name"]: (one["state"], one["reason"]) for one in listed}
        assert states["ready"] == ("READY", "on disk: its first request loads it")
        assert states["absent"] == ("UNAVAILABLE", "run `topwork pull absent`")
        assert (await post(server.ready.http, "/v2/repository/models/ready/load", {})).status == 200
        (ready,) = (await called(server, "RepositoryIndex", oip_pb2.RepositoryIndexRequest(ready=True))).models[:1]
        assert (ready.name, ready.version, ready.state, ready.reason) == ("ready", "1", "READY", "")
        await called(server, "RepositoryModelUnload", oip_pb2.RepositoryModelUnloadRequest(model_name="ready"))
        assert "ready" not in server.engine.loaded
        await called(server, "RepositoryModelLoad", oip_pb2.RepositoryModelLoadRequest(model_name="ready"))
        server.engine.running = 1
        busy = await post(server.ready.http, "/v2/repository/models/ready/unload", {"parameters": {"unload_dependents": True}})
        assert (busy.status, "in use" in busy.json["error"]) == (503, True)
        sent = await post(server.ready.http, "/v2/repository/models/ready/load", {"parameters": {"config": "{}"}})
        assert (sent.status, "topwork pull" in sent.json["error"]) == (501, True)
        assert (await post(server.ready.http, "/v2/repository/models/nosuch/load")).status == 404
        request = oip_pb2.RepositoryModelLoadRequest(model_name="ready")
        request.parameters["config"].string_param = "{}" * 100_000
        code, _, _ = await fake_engine.refusal(called(server, "RepositoryModelLoad", request))
        assert code is grpc.StatusCode.UNIMPLEMENTED


async def test_statistics_are_those_of_the_engine(tmp_path):
    async with served(tmp_path) as server:
        result = await server.engine.embed(EmbedParams(of_encoder("ready")), [TextItem("a"), TextItem("b")])
        statistics = server.engine.statistics["ready"] = EmbedStatistics()
        statistics.add(result, 2, 1.0)
        statistics.failures["INTERNAL"] += 3
        async with server.engine.acquire(of_encoder("ready")):
            (one,) = (await get(server.ready.http, "/v2/models/ready/stats")).json["model_stats"]
        assert (one["inference_count"], one["execution_count"]) == (2, 2)
        assert one["inference_stats"]["queue"] == {"count": 1, "ns": 500_000_000}
        assert one["inference_stats"]["fail"]["count"] == 3
        of_all = await called(server, "ModelStatistics", oip_pb2.ModelStatisticsRequest())
        assert of_all.model_stats[0] == oip_pb2.ModelStatistics(**one)
        assert [found.name for found in of_all.model_stats] == ["ready", "words", "absent"]
        assert (await get(server.ready.http, "/v2/models/stats")).json["model_stats"][0] == one


async def test_readiness_is_a_status_and_a_field(tmp_path):
    async with served(tmp_path) as server:
        for path, status in {
            "/v2/health/live": 200,
            "/v2/health/ready": 200,
            "/v2/models/ready/ready": 200,
            "/v2/models/ready/versions/2/ready": 400,
            "/v2/models/absent/ready": 400,
            "/v2/models/nosuch/ready": 400,
        }.items():
            reply = await get(server.ready.http, path)
            assert (reply.status, reply.body) == (status, b""), path
        for name, ready in {"ready": True, "absent": False, "nosuch": False}.items():
            assert (await called(server, "ModelReady", oip_pb2.ModelReadyRequest(name=name))).ready is ready


INVALID, MISSING = grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.NOT_FOUND


def changed(change):
    request = asked(b"a")
    change(request)
    return request


def set_parameter(message, name, value):
    setattr(message.parameters[name], "string_param" if isinstance(value, str) else "int64_param", value)


def set_place(tensor, region, size, offset=0):
    """Say of an input or output that it is in shared memory."""
    set_parameter(tensor, "shared_memory_region", region)
    set_parameter(tensor, "shared_memory_byte_size", size)
    if offset:
        set_parameter(tensor, "shared_memory_offset", offset)


#: Requests over gRPC, the code of each, and a word of its message.
WRONG = {
    "model": (asked(b"a", model_name="nosuch"), MISSING, "nosuch"),
    "version": (asked(b"a", model_version="2"), MISSING, "its one version is 1"),
    "no input": (oip_pb2.ModelInferRequest(model_name="ready"), INVALID, "0 inputs"),
    "input": (asked(b"a", name="SOUND"), INVALID, "SOUND"),
    "shape": (asked(b"a", shape=[2]), INVALID, "1 elements"),
    "more axes": (asked(b"a", b"b", b"c", shape=[1, 3]), INVALID, "several elements"),
    "no items": (asked(shape=[0]), INVALID, "0 items"),
    "negative": (asked(b"a", shape=[-1]), INVALID, "shape"),
    "no shape": (changed(lambda one: one.inputs[0].ClearField("shape")), INVALID, "shape"),
    "too many axes": (asked(b"a", shape=[1] * 33), INVALID, "shape"),
    "too many items": (asked(*[b"a"] * 5), INVALID, "5 items"),
    "huge": (asked(b"a", shape=[1 << 62]), INVALID, "items"),
    "datatype": (asked(datatype="FP32", shape=[1, 1], raw=b"\0" * 4), INVALID, "FP32"),
    "no datatype": (asked(datatype="STRING", shape=[1, 1], raw=b"\0" * 4), INVALID, "STRING"),
    "too few bytes": (asked(datatype="INT64", shape=[1, 2], raw=b"\0" * 8), INVALID, "8 bytes"),
    "cut off": (asked(raw=raw_texts(b"hello")[:-1], shape=[1]), INVALID, "cut off"),
    "cut length": (asked(raw=b"\1\0", shape=[1]), INVALID, "cut off"),
    "no UTF-8": (asked(b"\xff"), INVALID, "UTF-8"),
    "a bad item": (asked(b"a", b"bad"), INVALID, "item 1: the text is bad (send a good one)"),
    "contents and raw": (changed(lambda one: one.inputs[0].contents.bytes_contents.append(b"a")), INVALID, "contents"),
    "raw of none": (changed(lambda one: one.raw_input_contents.append(b"a")), INVALID, "2 of raw_input_contents"),
    "two inputs": (
        changed(lambda one: (one.inputs.append(one.inputs[0]), one.raw_input_contents.append(raw_texts(b"a")))),
        INVALID,
        "2 inputs",
    ),
    "output": (asked(b"a", outputs=["nosuch"]), MISSING, "nosuch"),
    "rows that differ": (asked(b"a", b"ab", outputs=["tokens"]), INVALID, "tokens"),
    "fingerprint": (changed(lambda one: set_parameter(one, "fingerprint", "0")), INVALID, "fingerprint"),
    "priority": (changed(lambda one: set_parameter(one, "priority", 9)), INVALID, "priority"),
    "role": (changed(lambda one: set_parameter(one, "role", "passage")), INVALID, "send query or document"),
    "no role": (changed(lambda one: set_parameter(one, "role", "")), INVALID, "role"),
    "role of a number": (changed(lambda one: set_parameter(one, "role", 1)), INVALID, "role '1'"),
    "timeout": (changed(lambda one: set_parameter(one, "timeout", -1)), INVALID, "timeout"),
    "sequence": (changed(lambda one: set_parameter(one, "sequence_id", 1)), INVALID, "sequence"),
    "no value": (changed(lambda one: one.parameters["scale"]), INVALID, "scale"),
    "classes": (changed(lambda one: set_parameter(one.outputs.add(name="pooled"), "classification", 2)), INVALID, "classes"),
    "shared memory": (
        changed(lambda one: set_place(one.inputs[0], "r", 4)),
        INVALID,
        "1 of raw_input_contents",
    ),
}


@pytest.mark.parametrize("wrong", WRONG)
async def test_wrong_requests_over_grpc(wrong, tmp_path):
    request, code, word = WRONG[wrong]
    async with served(tmp_path, max_items=4) as server:
        found, message, _ = await fake_engine.refusal(called(server, "ModelInfer", request))
        assert (found, word in message) == (code, True), message
        await called(server, "ModelInfer", asked(b"a"))


TEXT = {"name": "TEXT", "datatype": "BYTES", "shape": [1]}
RAW = raw_texts(b"hello")
SIZED = {**TEXT, "parameters": {"binary_data_size": len(RAW)}}
#: Bodies over HTTP with their headers, the status of each, and a word of its message.
WRONG_BODIES = {
    "nothing": (b"", {}, 400, "empty"),
    "no JSON": (b"{", {}, 400, "JSON"),
    "no object": (b"[]", {}, 400, "object"),
    "deep": (b"[" * 1_000_000, {}, 400, "object"),
    "deep data": (
        b'{"inputs": [{"name": "TEXT", "datatype": "BYTES", "shape": [1], "data": ' + b"[" * 1_000_000,
        {},
        400,
        "JSON",
    ),
    "no inputs": (b"{}", {}, 400, "inputs"),
    "no data": (*binary({"inputs": [TEXT]}), 400, "no data"),
    "data twice": (*binary({"inputs": [{**SIZED, "data": ["a"]}]}, RAW), 400, "data and binary_data_size"),
    "truncated": (*binary({"inputs": [SIZED]}, RAW[:-1]), 400, "binary_data_size"),
    "more bytes": (*binary({"inputs": [SIZED]}, RAW, b"a"), 400, "behind"),
    "size of a text": (*binary({"inputs": [{**TEXT, "parameters": {"binary_data_size": "9"}}]}, RAW), 400, "binary_data_size"),
    "header too long": (b"{}", {HEADER: "3"}, 400, HEADER),
    "header too short": (b'{"inputs": []}', {HEADER: "3"}, 400, "JSON"),
    "header of words": (b"{}", {HEADER: "ten"}, 400, HEADER),
    "number as text": (*binary({"inputs": [{**TEXT, "data": [1]}]}), 400, "element"),
    "ids that are none": (
        *binary({"inputs": [{"name": "TEXT", "datatype": "INT64", "shape": [1, 2], "data": [1.5, 2]}]}),
        400,
        "INT64",
    ),
    "too few values": (*binary({"inputs": [{"name": "TEXT", "datatype": "INT64", "shape": [1, 2], "data": [1]}]}), 400, "2 of"),
    "version": (*binary({"inputs": [{**TEXT, "data": ["a"]}]}), 404, "version"),
    "priority of a list": (*binary({"inputs": [{**TEXT, "data": ["a"]}], "parameters": {"priority": []}}), 400, "priority"),
    "role of a list": (*binary({"inputs": [{**TEXT, "data": ["a"]}], "parameters": {"role": ["query"]}}), 400, "role"),
    "crash": (*binary({"inputs": [{**TEXT, "data": ["crash"]}]}), 500, "internal"),
}


@pytest.mark.parametrize("wrong", WRONG_BODIES)
async def test_wrong_bodies_over_http(wrong, tmp_path):
    body, headers, status, word = WRONG_BODIES[wrong]
    path = INFER.replace("infer", "versions/9/infer") if wrong == "version" else INFER
    async with served(tmp_path) as server:
        reply = await post(server.ready.http, path, body, headers)
        assert (reply.status, list(reply.json), word in reply.json["error"]) == (status, ["error"], True), reply.body
        assert (await post(server.ready.http, INFER, {"inputs": [{**TEXT, "data": ["a"]}]})).status == 200


@pytest.mark.parametrize(
    ("kind", "status", "code"),
    [
        (errors.NotFound, 404, "NOT_FOUND"),
        (errors.Unavailable, 503, "UNAVAILABLE"),
        (errors.Overloaded, 503, "UNAVAILABLE"),
        (errors.DeadlineExceeded, 503, "UNAVAILABLE"),
        (errors.NotReady, 503, "UNAVAILABLE"),
        (errors.Unsupported, 501, "UNIMPLEMENTED"),
        (errors.TopworkError, 500, "INTERNAL"),
        (errors.DataLoss, 500, "INTERNAL"),
        (errors.InvalidInput, 400, "INVALID_ARGUMENT"),
        (errors.AlreadyExists, 400, "ALREADY_EXISTS"),
        (errors.TooLarge, 413, "INVALID_ARGUMENT"),
    ],
)
async def test_errors_have_the_codes_and_statuses_of_triton(kind, status, code, tmp_path):
    async def embed(ask, items):
        raise kind("what was wrong", remedy="what to do")

    async with served(tmp_path) as server:
        server.engine.embed = embed
        reply = await post(server.ready.http, INFER, {"inputs": [{**TEXT, "data": ["a"]}]})
        assert (reply.status, reply.json) == (status, {"error": "what was wrong (what to do)"})
        found, message, info = await fake_engine.refusal(called(server, "ModelInfer", asked(b"a")))
        assert (found.name, message, info.reason) == (code, "what was wrong (what to do)", kind.__name__)


async def test_other_paths_over_http(tmp_path):
    async with served(tmp_path) as server:
        for path in ("/v2/nosuch", "/v2/models/a/b/c", "/v2/models/ready/infer/more"):
            lost = await get(server.ready.http, path)
            assert (lost.status, "nothing at" in lost.json["error"]) == (404, True), path
        for path, allowed in ((INFER, "POST"), ("/v2/repository/index", "POST"), ("/v2/systemsharedmemory/unregister", "POST")):
            wrong = await get(server.ready.http, path)
            assert (wrong.status, wrong.headers["allow"], allowed in wrong.json["error"]) == (405, allowed, True), path
        for path in ("/v2", "/v2/health/ready", "/v2/models/ready", "/v2/systemsharedmemory/status"):
            wrong = await post(server.ready.http, path, {})
            assert (wrong.status, wrong.headers["allow"], "GET" in wrong.json["error"]) == (405, "GET", True), path
        assert "nosuch" in (await get(server.ready.http, "/v2/models/nosuch")).json["error"]
        assert (await get(server.ready.http, "/v2/models/nosuch")).status == 404
        for path, word in (("cudasharedmemory/status", "CUDA"), ("trace/setting", "trace settings"), ("logging", "log settings")):
            unserved = await get(server.ready.http, f"/v2/{path}")
            assert (unserved.status, unserved.json["error"].startswith(word)) == (501, True)
        assert (await get(server.ready.http, "/v2/models/absent/config")).status == 503


@pytest.fixture
def shared():
    """A block of shared memory of a page."""
    block = SharedMemory(create=True, size=4096)
    yield block
    block.close()
    block.unlink()


def register(shared, name="mine", offset=0, size=1024):
    return oip_pb2.SystemSharedMemoryRegisterRequest(name=name, key=shared.name, offset=offset, byte_size=size)


async def test_tensors_are_in_shared_memory_over_grpc(tmp_path, shared):
    async with served(tmp_path, shared_memory=True) as server:
        assert "system_shared_memory" in (await get(server.ready.http, "/v2")).json["extensions"]
        await called(server, "SystemSharedMemoryRegister", register(shared, offset=512))
        raw = raw_texts(b"hello", b"a")
        shared.buf[512 + 8 : 512 + 8 + len(raw)] = raw
        request = oip_pb2.ModelInferRequest(model_name="ready")
        set_place(request.inputs.add(name="TEXT", datatype="BYTES", shape=[2]), "mine", len(raw), 8)
        request.outputs.add(name="cells")
        set_place(request.outputs.add(name="pooled"), "mine", 512, 128)
        reply = await called(server, "ModelInfer", request)
        assert [len(one) for one in reply.raw_output_contents] == [4 * 4 * fake_engine.DIM, 0]
        size = reply.outputs[1].parameters["shared_memory_byte_size"].int64_param
        rows = np.frombuffer(bytes(shared.buf[512 + 128 : 512 + 128 + size]), "<f4").reshape(reply.outputs[1].shape)
        assert rows[:, 0].tolist() == [5, 1]
        told = await called(server, "SystemSharedMemoryStatus", oip_pb2.SystemSharedMemoryStatusRequest())
        assert (told.regions["mine"].offset, told.regions["mine"].byte_size) == (512, 1024)


async def test_tensors_are_in_shared_memory_over_http(tmp_path, shared):
    async with served(tmp_path, shared_memory=True) as server:
        memory = "/v2/systemsharedmemory"
        body = {"key": f"/{shared.name}", "offset": 0, "byte_size": 1024}
        assert (await post(server.ready.http, f"{memory}/region/mine/register", body)).status == 200
        again = await post(server.ready.http, f"{memory}/region/mine/register", body)
        assert (again.status, "unregister" in again.json["error"]) == (400, True)
        raw = raw_texts(b"hello")
        shared.buf[: len(raw)] = raw
        place = {"shared_memory_region": "mine", "shared_memory_byte_size": len(raw)}
        output = {"shared_memory_region": "mine", "shared_memory_byte_size": 512, "shared_memory_offset": 64}
        asked = {"inputs": [{**TEXT, "parameters": place}], "outputs": [{"name": "pooled", "parameters": output}]}
        (told,) = (await post(server.ready.http, INFER, asked)).json["outputs"]
        assert (told["parameters"]["shared_memory_byte_size"], "data" in told) == (4 * fake_engine.DIM, False)
        assert np.frombuffer(bytes(shared.buf[64:68]), "<f4")[0] == 5
        assert (await get(server.ready.http, f"{memory}/region/mine/status")).json == [{"name": "mine", **body}]
        assert (await post(server.ready.http, f"{memory}/unregister")).status == 200
        assert (await get(server.ready.http, f"{memory}/status")).json == []
        assert (await post(server.ready.http, INFER, asked)).status == 404


async def test_shared_memory_that_is_wrong_is_refused(tmp_path, shared):
    async with served(tmp_path, shared_memory=True) as server:
        for change, code, word in (
            ({"key": "/nosuch-at-all"}, INVALID, "cannot be opened"),
            ({"key": "../etc/passwd"}, INVALID, "no key"),
            ({"key": ".."}, INVALID, "no key"),
            ({"key": ""}, INVALID, "no key"),
            ({"offset": 4000}, INVALID, "4,096"),
            ({"byte_size": 0}, INVALID, "0 bytes"),
            ({"byte_size": (1 << 64) - 1}, INVALID, "4,096"),
        ):
            request = register(shared)
            for name, value in change.items():
                setattr(request, name, value)
            found, message, _ = await fake_engine.refusal(called(server, "SystemSharedMemoryRegister", request))
            assert (found, word in message) == (code, True), message
        await called(server, "SystemSharedMemoryRegister", register(shared))
        for size, offset, code in ((2000, 0, INVALID), (4, 0, grpc.StatusCode.INTERNAL), (-1, 0, INVALID), (100, -1, INVALID)):
            request = asked(b"a", outputs=["pooled"])
            set_place(request.outputs[0], "mine", size, offset)
            found, message, _ = await fake_engine.refusal(called(server, "ModelInfer", request))
            assert (found, "internal error" in message) == (code, False), message
        os.truncate(f"/dev/shm/{shared.name}", 16)
        for tensor in ("inputs", "outputs"):
            request = asked(b"a", outputs=["pooled"])
            set_place(getattr(request, tensor)[0], "mine", 500)
            if tensor == "inputs":
                request.ClearField("raw_input_contents")
            found, message, _ = await fake_engine.refusal(called(server, "ModelInfer", request))
            assert (found, "cut short" in message) == (INVALID, True), message


async def test_shared_memory_is_off_unless_it_is_allowed(tmp_path, shared):
    async with served(tmp_path) as server:
        assert "system_shared_memory" not in (await get(server.ready.http, "/v2")).json["extensions"]
        request = asked(b"a", outputs=["pooled"])
        set_place(request.outputs[0], "mine", 512)
        for call in (called(server, "SystemSharedMemoryRegister", register(shared)), called(server, "ModelInfer", request)):
            code, message, _ = await fake_engine.refusal(call)
            assert (code, "--shared-memory" in message) == (grpc.StatusCode.UNIMPLEMENTED, True)

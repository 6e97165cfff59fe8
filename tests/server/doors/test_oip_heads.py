"""Heads as models of the Open Inference Protocol, beside what `topwork.v1.Heads` says of the same items."""

from __future__ import annotations

import json
import struct

import door_heads
import fake_engine
import grpc
import numpy as np
from http_calls import get, post
from oip_calls import asked, called, rows_of, streamed
from topwork.v1 import encoders_pb2, heads_pb2, heads_pb2_grpc, types_pb2
from topwork_server.doors.protocols import oip_pb2
from topwork_server.services.convert import item_messages
from topwork_server.types import Priority

TEXTS = ("hello", "a", "a longer one")


def served(home, **settings):
    door_heads.publish(home)
    return fake_engine.served(home, http="127.0.0.1:0", **settings)


def encoded(texts):
    return [one.encode() for one in texts]


async def predicted(server, head, *items, **settings):
    """What our own API says."""
    stub = heads_pb2_grpc.HeadsStub(server.channel)
    asked_of = heads_pb2.PredictSettings(heads=[head], **settings)
    messages = [types_pb2.Item(text=one) if isinstance(one, str) else one for one in items]
    request = heads_pb2.PredictRequest(settings=asked_of, items=encoders_pb2.Items(items=messages))
    return (await stub.Predict(request)).predictions[0]


async def infer(server, model, *texts, outputs=(), **fields):
    return await called(server, "ModelInfer", asked(*encoded(texts), outputs=outputs, model_name=model, **fields))


def tensors(reply):
    """The outputs of a reply over gRPC, by their names."""
    kinds = {"FP32": "<f4", "FP64": "<f8", "INT32": "<i4", "UINT8": "u1"}
    found = {}
    for tensor, raw in zip(reply.outputs, reply.raw_output_contents, strict=True):
        found[tensor.name] = (
            np.reshape(elements(raw), tensor.shape)
            if tensor.datatype == "BYTES"
            else np.frombuffer(raw, kinds[tensor.datatype]).reshape(tensor.shape)
        )
    return found


def elements(raw):
    found, at = [], 0
    while at < len(raw):
        size = struct.unpack_from("<I", raw, at)[0]
        found.append(raw[at + 4 : at + 4 + size].decode())
        at += 4 + size
    return np.array(found, object)


async def test_a_classification_gives_probabilities_and_labels(tmp_path):
    async with served(tmp_path) as server:
        reply = await infer(server, "mood", *TEXTS, id="mine")
        assert (reply.model_name, reply.id, [one.name for one in reply.outputs]) == ("mood", "mine", ["probabilities", "labels"])
        found, same = tensors(reply), await predicted(server, "mood", *TEXTS)
        np.testing.assert_array_equal(found["probabilities"], item_messages.array(same.probabilities))
        assert found["labels"].tolist() == ["long", "short", "huge: very"]
        assert reply.outputs[0].parameters["fingerprint"].string_param == same.fingerprint


async def test_classes_are_the_likeliest_first_as_triton_writes_them(tmp_path):
    async with served(tmp_path) as server:
        ask = asked(*encoded(TEXTS), model_name="mood")
        ask.outputs.add(name="probabilities").parameters["classification"].int64_param = 2
        found = tensors(await called(server, "ModelInfer", ask))["probabilities"]
        same = item_messages.array((await predicted(server, "mood", *TEXTS)).probabilities)
        assert [one.split(":", 2)[1:] for one in found[:, 0]] == [["1", "long"], ["0", "short"], ["2", "huge: very"]]
        assert found[0, 0] == f"{same[0, 1]:.6f}:1:long"
        assert found[0, 1].startswith(f"{same[0, 0]:.6f}:0:")
        ask.outputs[0].parameters["classification"].int64_param = 100
        assert tensors(await called(server, "ModelInfer", ask))["probabilities"].shape == (3, 3)


async def test_classes_over_http_in_json_and_in_raw_bytes(tmp_path):
    async with served(tmp_path) as server:
        text = {"name": "TEXT", "datatype": "BYTES", "shape": [2], "data": ["hello", "a"]}
        wanted = {"name": "probabilities", "parameters": {"classification": 1}}
        plain = await post(server.ready.http, "/v2/models/mood/infer", {"inputs": [text], "outputs": [wanted]})
        (output,) = plain.json["outputs"]
        assert (output["datatype"], output["shape"]) == ("BYTES", [2, 1])
        assert [one.split(":")[2] for one in output["data"]] == ["long", "short"]
        assert plain.headers["x-fingerprint"] == "a" * 64
        wanted["parameters"]["binary_data"] = True
        raw = await post(server.ready.http, "/v2/models/mood/infer", {"inputs": [text], "outputs": [wanted, {"name": "labels"}]})
        size = int(raw.headers["inference-header-content-length"])
        first, second = json.loads(raw.body[:size])["outputs"]
        assert first["parameters"]["binary_data_size"] == len(raw.body) - size
        assert elements(raw.body[size:]).tolist() == output["data"]
        assert second["data"] == ["long", "short"]
        every = {"inputs": [text], "parameters": {"binary_data_output": True}}
        assert len(json.loads(await whole_head(server, every))["outputs"]) == 2


async def whole_head(server, body):
    reply = await post(server.ready.http, "/v2/models/mood/infer", body)
    return reply.body[: int(reply.headers["inference-header-content-length"])]


async def test_labels_and_numbers(tmp_path):
    async with served(tmp_path) as server:
        found, same = tensors(await infer(server, "tags", *TEXTS)), await predicted(server, "tags", *TEXTS)
        np.testing.assert_array_equal(found["probabilities"], item_messages.array(same.probabilities))
        found, same = tensors(await infer(server, "size", *TEXTS)), await predicted(server, "size", *TEXTS)
        assert (found["values"].dtype, found["values"].tolist()) == (np.float64, [11, 3, 25])
        np.testing.assert_array_equal(found["values"], item_messages.array(same.values))
        body = {"inputs": [{"name": "TEXT", "datatype": "BYTES", "shape": [1], "data": ["hello"]}]}
        (output,) = (await post(server.ready.http, "/v2/models/size/infer", body)).json["outputs"]
        assert (output["datatype"], output["data"]) == ("FP64", [11])


async def test_masks(tmp_path):
    async with served(tmp_path) as server:
        found, same = tensors(await infer(server, "mask", *TEXTS)), await predicted(server, "mask", *TEXTS)
        assert found["masks"].shape == (3, 2, 1)
        assert found["masks"][:, 0, 0].tolist() == [1, 0, 1]
        for name in ("masks", "confidences", "boxes"):
            np.testing.assert_array_equal(found[name], item_messages.array(getattr(same, name)))


async def test_boxes_are_filled_up_to_the_most_of_an_item(tmp_path):
    async with served(tmp_path) as server:
        request = asked(*encoded(TEXTS), model_name="boxes")
        request.parameters["min_score"].double_param = 0.5
        found = tensors(await called(server, "ModelInfer", request))
        same = await predicted(server, "boxes", *TEXTS, min_score=0.5)
        assert found["counts"].tolist() == [len(one.boxes) for one in same.detections] == [2, 0, 2]
        boxes = [[box.x0, box.y0, box.x1, box.y1] for box in same.detections[0].boxes]
        np.testing.assert_array_equal(found["boxes"][0], np.float32(boxes))
        assert found["labels"].tolist() == [["cat", "cat"], ["", ""], ["cat", "cat"]]
        assert found["scores"][0].tolist() == [box.score for box in same.detections[0].boxes]
        assert not found["boxes"][1].any()
        request.parameters["min_score"].double_param = 2
        code, message, _ = await fake_engine.refusal(called(server, "ModelInfer", request))
        assert (code, "min_score" in message) == (grpc.StatusCode.INVALID_ARGUMENT, True)
        request.parameters["min_score"].string_param = "high"
        code, message, _ = await fake_engine.refusal(called(server, "ModelInfer", request))
        assert (code, "min_score" in message) == (grpc.StatusCode.INVALID_ARGUMENT, True)


async def test_spans_of_texts_and_answers_of_pairs(tmp_path):
    async with served(tmp_path) as server:
        found, same = tensors(await infer(server, "spans", *TEXTS)), await predicted(server, "spans", *TEXTS)
        assert found["counts"].tolist() == [len(one.spans) for one in same.spans] == [1, 0, 1]
        assert found["spans"][2].tolist() == [[same.spans[2].spans[0].start, same.spans[2].spans[0].end]]
        assert found["labels"].tolist() == [["X"], [""], ["X"]]
        pair = asked(b"who?", b"a bird", model_name="answer", shape=[1, 2])
        found = tensors(await called(server, "ModelInfer", pair))
        same = await predicted(server, "answer", types_pb2.Item(text_pair=types_pb2.TextPair(text="who?", pair="a bird")))
        [answer] = same.spans[0].spans
        assert found["spans"].tolist() == [[[answer.start, answer.end]]]
        assert found["scores"].tolist() == [[answer.probability]]
        assert sorted(found) == ["counts", "scores", "spans"]
        text = {"name": "TEXT", "datatype": "BYTES", "shape": [1, 2], "data": [["who?", "a bird"]]}
        reply = await post(server.ready.http, "/v2/models/answer/infer", {"inputs": [text]})
        assert reply.json["outputs"][0]["data"] == [answer.start, answer.end]


async def test_the_call_has_the_limits_and_settings_of_our_own(tmp_path):
    async with served(tmp_path, max_items=2) as server:
        request = asked(b"hello", model_name="mood")
        request.parameters["priority"].uint64_param = 1
        request.parameters["timeout"].int64_param = 60_000_000
        request.parameters["fingerprint"].string_param = "a" * 64
        request.parameters["scale"].int64_param = 3
        await called(server, "ModelInfer", request)
        params, _ = server.engine.asked[-1]
        assert (params.encoder, params.priority, params.options) == ("ready", Priority.HIGH, {"scale": 3})
        assert params.deadline is not None
        for change, code, word in (
            (
                lambda one: one.parameters["fingerprint"].CopyFrom(oip_pb2.InferParameter(string_param="0")),
                "INVALID_ARGUMENT",
                "fingerprint",
            ),
            (lambda one: one.raw_input_contents.__setitem__(0, b"\3\0\0\0bad"), "INVALID_ARGUMENT", "the text is bad"),
            (lambda one: one.inputs[0].shape.__setitem__(0, 3), "INVALID_ARGUMENT", "3 items"),
            (lambda one: setattr(one.inputs[0], "name", "IMAGE"), "INVALID_ARGUMENT", "IMAGE"),
            (lambda one: one.outputs.add(name="pooled"), "NOT_FOUND", "its outputs are probabilities, labels"),
            (lambda one: setattr(one, "model_version", "2"), "NOT_FOUND", "version"),
            (
                lambda one: one.parameters["role"].CopyFrom(oip_pb2.InferParameter(string_param="query")),
                "INVALID_ARGUMENT",
                "mood is a head",
            ),
        ):
            wrong = asked(b"hello", model_name="mood")
            change(wrong)
            found, message, _ = await fake_engine.refusal(called(server, "ModelInfer", wrong))
            assert (found.name, word in message) == (code, True), message
        assert server.app.requests.counts["inference.GRPCInferenceService/ModelInfer", "OK"] == 1


async def test_classes_of_what_has_none_are_refused(tmp_path):
    async with served(tmp_path) as server:
        for model, output, word in (
            ("ready", "pooled", "a tap"),
            ("size", "values", "regression"),
            ("mood", "labels", "probabilities"),
        ):
            request = asked(b"a", model_name=model)
            request.outputs.add(name=output).parameters["classification"].int64_param = 1
            code, message, _ = await fake_engine.refusal(called(server, "ModelInfer", request))
            assert (code, word in message) == (grpc.StatusCode.INVALID_ARGUMENT, True), message
            assert not server.engine.asked
        for value in (-1, "2", True):
            body = {"inputs": [], "outputs": [{"name": "probabilities", "parameters": {"classification": value}}]}
            reply = await post(server.ready.http, "/v2/models/mood/infer", body)
            assert (reply.status, "number of classes" in reply.json["error"]) == (400, True)


async def test_an_encoder_and_a_head_of_one_name_are_two_models(tmp_path):
    async with served(tmp_path) as server:
        assert [one.name for one in (await infer(server, "ready", "hello")).outputs] == ["pooled"]
        assert tensors(await infer(server, "head:ready", "hello"))["labels"].tolist() == ["odd"]
        assert tensors(await infer(server, "head:mood", "hello"))["labels"].tolist() == ["long"]
        body = {"inputs": [{"name": "TEXT", "datatype": "BYTES", "shape": [1], "data": ["hello"]}]}
        assert (await post(server.ready.http, "/v2/models/head%3Aready/infer", body)).json["outputs"][1]["data"] == ["odd"]
        names = [one["name"] for one in (await post(server.ready.http, "/v2/repository/index")).json]
        assert len(names) == len(set(names))
        assert {"ready", "head:ready", "mood"} <= set(names)
        code, message, _ = await fake_engine.refusal(infer(server, "moot", "hello"))
        assert (code, "mood" in message) == (grpc.StatusCode.NOT_FOUND, True)


async def test_a_head_that_came_with_its_encoder_has_a_slash_in_its_name(tmp_path):
    async with served(tmp_path / "home") as server:
        door_heads.bring(server, tmp_path / "artifact", "mood")
        assert tensors(await infer(server, "ready/mood", "hello"))["labels"].tolist() == ["long"]
        body = {"inputs": [{"name": "TEXT", "datatype": "BYTES", "shape": [1], "data": ["hello"]}]}
        for name in ("ready/mood", "ready%2Fmood", "ready/mood/versions/1"):
            reply = await post(server.ready.http, f"/v2/models/{name}/infer", body)
            assert reply.json["outputs"][1]["data"] == ["long"], name
            assert (await get(server.ready.http, f"/v2/models/{name}/ready")).status == 200
            assert (await get(server.ready.http, f"/v2/models/{name}")).json["properties"]["encoder"] == "ready"
        assert (await get(server.ready.http, "/v2/models/ready/nosuch/ready")).status == 400
        missing = await get(server.ready.http, "/v2/models/ready/nosuch")
        assert (missing.status, "ready/mood" in missing.json["error"]) == (404, True)


async def test_heads_describe_themselves_alike_on_both_wires(tmp_path):
    async with served(tmp_path) as server:
        assert "classification" in (await get(server.ready.http, "/v2")).json["extensions"]
        metadata = (await get(server.ready.http, "/v2/models/mood")).json
        assert metadata["inputs"] == [{"name": "TEXT", "datatype": "BYTES", "shape": [-1]}]
        assert metadata["outputs"] == [
            {"name": "probabilities", "datatype": "FP32", "shape": [-1, 3]},
            {"name": "labels", "datatype": "BYTES", "shape": [-1]},
        ]
        properties = metadata["properties"]
        assert json.loads(properties["labels"]) == list(door_heads.MOODS)
        assert (properties["task"], properties["encoder"], properties["fingerprint"]) == ("classification", "ready", "a" * 64)
        same = await called(server, "ModelMetadata", oip_pb2.ModelMetadataRequest(name="mood"))
        assert same == oip_pb2.ModelMetadataResponse(**metadata)
        config = (await get(server.ready.http, "/v2/models/mood/config")).json
        assert config["output"][1] == {"name": "labels", "data_type": "TYPE_STRING", "dims": [-1]}
        same = await called(server, "ModelConfig", oip_pb2.ModelConfigRequest(name="mood"))
        assert same.config == oip_pb2.ModelConfig(**config)
        answers = (await get(server.ready.http, "/v2/models/answer")).json
        assert answers["inputs"] == [{"name": "TEXT", "datatype": "BYTES", "shape": [-1, 2]}]
        for name in door_heads.HEADS:
            told = (await get(server.ready.http, f"/v2/models/head:{name}")).json
            text = asked(b"hello", b"a", model_name=f"head:{name}", shape=[1, 2] if name == "answer" else [2])
            reply = await called(server, "ModelInfer", text)
            assert [(one.name, one.datatype, len(one.shape)) for one in reply.outputs] == [
                (one["name"], one["datatype"], len(one["shape"])) for one in told["outputs"]
            ]


async def test_heads_are_listed_loaded_unloaded_and_counted(tmp_path):
    async with served(tmp_path) as server:

        async def reason(name):
            listed = (await post(server.ready.http, "/v2/repository/index")).json
            return next((one["state"], one["reason"]) for one in listed if one["name"] == name)

        assert await reason("mood") == ("READY", "on disk: its first request loads it")
        assert (await post(server.ready.http, "/v2/repository/models/mood/load")).status == 200
        assert await reason("mood") == await reason("ready") == ("READY", "")
        assert (
            await post(server.ready.http, "/v2/repository/models/mood/unload", {"parameters": {"unload_dependents": False}})
        ).status == 200
        assert (await reason("mood"))[1].startswith("on disk")
        assert await reason("ready") == ("READY", "")
        await called(server, "RepositoryModelLoad", oip_pb2.RepositoryModelLoadRequest(model_name="mood"))
        request = oip_pb2.RepositoryModelUnloadRequest(model_name="mood")
        request.parameters["unload_dependents"].bool_param = False
        await called(server, "RepositoryModelUnload", request)
        assert "ready" in server.engine.loaded
        request.parameters["unload_dependents"].bool_param = True
        await called(server, "RepositoryModelUnload", request)
        assert "ready" not in server.engine.loaded

        await infer(server, "mood", "hello", "a")
        await predicted(server, "mood", "hello")
        await fake_engine.refusal(infer(server, "mood", "bad"))
        (one,) = (await get(server.ready.http, "/v2/models/mood/stats")).json["model_stats"]
        assert (one["name"], one["inference_count"], one["execution_count"]) == ("mood", 3, 2)
        assert one["inference_stats"]["queue"] == {"count": 2, "ns": 1_000_000_000}
        assert one["inference_stats"]["fail"]["count"] == 1
        every = await called(server, "ModelStatistics", oip_pb2.ModelStatisticsRequest())
        assert {"ready", "mood", "head:ready"} <= {found.name for found in every.model_stats}


async def test_a_head_whose_encoder_is_not_there_is_not_ready(tmp_path):
    door_heads.publish(tmp_path, "tags", encoder="absent")
    door_heads.publish(tmp_path, "size", encoder="")
    async with fake_engine.served(tmp_path, http="127.0.0.1:0") as server:
        for name, word in (("tags", "absent does not serve"), ("size", "vectors")):
            assert (await get(server.ready.http, f"/v2/models/{name}/ready")).status == 400
            listed = (await post(server.ready.http, "/v2/repository/index")).json
            [one] = [one for one in listed if one["name"] == name]
            assert (one["state"], word in one["reason"]) == ("UNAVAILABLE", True)
            ready = (await post(server.ready.http, "/v2/repository/index", {"ready": True})).json
            assert name not in [one["name"] for one in ready]
        refused = await get(server.ready.http, "/v2/models/size")
        assert (refused.status, "topwork.v1.Heads/Predict" in refused.json["error"]) == (503, True)


async def test_a_stream_may_name_heads_and_encoders(tmp_path):
    async with served(tmp_path) as server:
        stream = streamed(server)
        await stream.write(asked(b"hello", model_name="mood"))
        await stream.write(asked(b"hello", model_name="nosuch"))
        await stream.write(asked(b"hello"))
        first, second, third = [(await stream.read()) for _ in range(3)]
        assert tensors(first.infer_response)["labels"].tolist() == ["long"]
        assert "nosuch" in second.error_message
        assert rows_of(third.infer_response)[0, 0] == 5
        assert server.engine.asked[0][0].wait
        stream.cancel()


async def test_outputs_of_heads_are_in_shared_memory(tmp_path):
    from multiprocessing.shared_memory import SharedMemory

    block = SharedMemory(create=True, size=4096)
    try:
        async with served(tmp_path, shared_memory=True) as server:
            request = oip_pb2.SystemSharedMemoryRegisterRequest(name="mine", key=block.name, byte_size=4096)
            await called(server, "SystemSharedMemoryRegister", request)
            ask = asked(b"hello", model_name="mood")
            output = ask.outputs.add(name="labels")
            output.parameters["shared_memory_region"].string_param = "mine"
            output.parameters["shared_memory_byte_size"].int64_param = 100
            reply = await called(server, "ModelInfer", ask)
            size = reply.outputs[0].parameters["shared_memory_byte_size"].int64_param
            assert elements(bytes(block.buf[:size])).tolist() == ["long"]
    finally:
        block.close()
        block.unlink()

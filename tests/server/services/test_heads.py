"""The Heads service over real gRPC: real sets, toy encoders and trainers; jobs run in this process."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import heads_harness
import numpy as np
import onnxruntime
import pytest
from fake_engine import refusal
from google.protobuf.struct_pb2 import Struct
from grpc import StatusCode as Code
from heads_harness import words
from passes import of_head
from topwork.v1 import heads_pb2 as pb
from topwork.v1 import heads_pb2_grpc, types_pb2
from topwork.v1.encoders_pb2 import Items
from topwork_server.access.gate import Gate
from topwork_server.app import OPTIONS
from topwork_server.heads.head_status import HeadState
from topwork_server.heads.head_types import Task
from topwork_server.heads.serving.predictor import Predictor
from topwork_server.services.convert import head_messages, item_messages
from topwork_server.services.heads import HeadsService
from topwork_server.services.interceptor import RequestInterceptor
from topwork_server.services.request_tracker import RequestTracker
from topwork_server.services.uploads import UploadStore
from topwork_server.types import FingerprintedTap

NAMES = ["others", "plosives", "vowels"]


@dataclass
class ServedHeads:
    parts: heads_harness.HeadsHarness
    stub: Any
    spool: UploadStore

    async def train(self, **fields: Any) -> pb.Head:
        made = await self.stub.Train(pb.TrainRequest(**{"set": "birds", "target": "label", **fields}))
        await self.parts.heads.wait_until_trained(of_head(made.name))
        return await self.stub.GetHead(pb.GetHeadRequest(name=made.name))

    async def predict(self, *heads: str, **fields: Any) -> pb.PredictResponse:
        settings = {name: fields.pop(name) for name in ("top", "features", "options", "skip_bad_items") if name in fields}
        settings = pb.PredictSettings(heads=heads or ["birds-label"], **settings)
        return await self.stub.Predict(pb.PredictRequest(settings=settings, **fields))


@asynccontextmanager
async def served(home: Path, **settings: Any) -> AsyncIterator[ServedHeads]:
    async with heads_harness.open_heads(home, **settings) as parts:
        requests = RequestTracker(Gate(home))
        server = grpc.aio.server(interceptors=[RequestInterceptor(requests)], options=OPTIONS)
        spool = UploadStore(home / "spool", parts.config.max_video_bytes)
        service = HeadsService(
            parts.heads,
            parts.sets,
            parts.trainers,
            Predictor(parts.engine, parts.catalog, parts.heads.store),
            parts.config,
            spool,  # type: ignore[arg-type]
            requests.stopping,
        )
        heads_pb2_grpc.add_HeadsServicer_to_server(service, server)  # type: ignore[no-untyped-call]
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        try:
            async with grpc.aio.insecure_channel(f"127.0.0.1:{port}", [("grpc.max_receive_message_length", -1)]) as channel:
                yield ServedHeads(parts, heads_pb2_grpc.HeadsStub(channel), spool)  # type: ignore[no-untyped-call]
        finally:
            await requests.cut()
            await server.stop(None)


def items(*texts: str) -> Items:
    return Items(items=[types_pb2.Item(text=text) for text in texts])


def struct(**values: Any) -> Struct:
    made = Struct()
    made.update(values)
    return made


def probabilities_of(reply: pb.PredictResponse, head: int = 0) -> np.ndarray:
    return item_messages.array(reply.predictions[head].probabilities)


def test_every_task_and_state_has_its_number():
    assert set(head_messages.TASKS.values()) == set(Task)
    assert set(head_messages.TASKS) == set(pb.Task.values()) - {0}
    assert set(head_messages.STATES) == set(HeadState)
    assert set(head_messages.STATES.values()) == set(pb.HeadState.values()) - {0}


async def test_trainers_are_listed_with_their_options(home):
    async with served(home) as w:
        trainers = {one.kind: one for one in (await w.stub.ListTrainers(pb.ListTrainersRequest())).trainers}
        assert sorted(trainers) == ["describes", "linear", "tunes"]
        linear = trainers["linear"]
        assert (linear.plugin, linear.description, linear.min_per_class) == ("tests 1.0", "the nearest mean of a class", 1)
        assert list(linear.tasks) == [pb.TASK_CLASSIFICATION, pb.TASK_TAGGING, pb.TASK_SEGMENTATION]
        [option] = linear.options
        assert (option.name, option.type, option.default, "drawn" in option.description) == ("shrinkage", "number", "0.0", True)
        assert [(one.needs_inputs, one.needs_descriptions) for _, one in sorted(trainers.items())] == [
            (False, True),
            (False, False),
            (True, False),
        ]


async def test_a_head_is_trained_described_and_dropped(home):
    async with served(home) as w:
        feature_set = await w.parts.fill()
        w.parts.jobs.gate.clear()
        begun = await w.stub.Train(pb.TrainRequest(set="birds", target="label", options=struct(shrinkage=0.25), seed=2**63))
        assert (begun.name, begun.state, begun.kind) == ("birds-label", pb.HEAD_STATE_TRAINING, "linear")
        assert (begun.set, begun.version, begun.target) == ("birds", feature_set.version, "label")
        assert (begun.task, begun.encoder, begun.tap, begun.pooling) == (pb.TASK_CLASSIFICATION, "letters", "mean", "row")
        assert (begun.job.kind, begun.job.subject, begun.seed) == ("train", "birds-label", 2**63)
        assert dict(begun.options) == {"shrinkage": 0.25}
        code, message, _ = await refusal(w.predict(items=items("aeiou")))
        assert (code, "in training" in message) == (Code.FAILED_PRECONDITION, True)
        w.parts.jobs.gate.set()
        await w.parts.heads.wait_until_trained(of_head("birds-label"))
        head = await w.stub.GetHead(pb.GetHeadRequest(name="birds-label"))
        assert (head.state, head.detail, list(head.names)) == (pb.HEAD_STATE_READY, "", NAMES)
        assert (head.estimate, head.labeled, head.server_version) == ("5-fold cross-validation over 30 items", 30, "1.2.3")
        assert [(f.name, f.value, f.low, f.high) for f in head.metrics] == [("accuracy", 0.9, 0.8, 0.95)]
        assert [(f.name, f.value) for f in head.baseline] == [("accuracy", 0.3)]
        assert dict(head.chosen) == {"shrinkage": 0.0}
        assert (head.temperature, list(head.warnings), head.pretrained) == (1.5, ["few items"], False)
        assert head.created > 1e9
        assert head.bytes > 0
        assert json.loads(head.job.result) == {"head": "birds-label"}
        [tap] = w.parts.taps("mean")
        assert head.fingerprint == tap.fingerprint
        assert [one.name for one in (await w.stub.ListHeads(pb.ListHeadsRequest(encoder="letters"))).heads] == ["birds-label"]
        await w.stub.DropHead(pb.DropHeadRequest(name="birds-label"))
        assert not (await w.stub.ListHeads(pb.ListHeadsRequest())).heads
        code, _, _ = await refusal(w.stub.GetHead(pb.GetHeadRequest(name="birds-label")))
        assert code is Code.NOT_FOUND


async def test_bad_trainings_are_refused(home):
    async with served(home) as w:
        await w.parts.fill()
        await w.train()
        for fields, code, words in [
            ({"set": ""}, Code.INVALID_ARGUMENT, "no feature set is named"),
            ({"set": "bords"}, Code.NOT_FOUND, "bords"),
            ({"target": ""}, Code.INVALID_ARGUMENT, "no target is named"),
            ({"target": "lable"}, Code.INVALID_ARGUMENT, "lable"),
            ({"task": 99}, Code.INVALID_ARGUMENT, "task 99"),
            ({"unlabeled": "guess"}, Code.INVALID_ARGUMENT, "'guess'"),
            ({"kind": "forest"}, Code.INVALID_ARGUMENT, "forest"),
            ({"kind": "tunes"}, Code.FAILED_PRECONDITION, "keeps no raw inputs"),
            ({}, Code.ALREADY_EXISTS, "birds-label"),
        ]:
            found, message, info = await refusal(w.train(**{"name": "" if not fields else "n", **fields}))
            assert (found, words in message) == (code, True), message
            assert info.metadata["remedy"], message
        for call in (w.stub.GetHead(pb.GetHeadRequest()), w.stub.DropHead(pb.DropHeadRequest())):
            code, message, _ = await refusal(call)
            assert (code, message) == (Code.INVALID_ARGUMENT, "no head is named")


async def test_reports_come_as_json_and_as_a_page(home):
    async with served(home) as w:
        await w.parts.fill()
        await w.train()
        report = await w.stub.GetReport(pb.GetReportRequest(name="birds-label", page=True))
        assert json.loads(report.json)["metrics"][0] == {"name": "accuracy", "value": 0.9, "low": 0.8, "high": 0.95}
        assert report.page.startswith("<!doctype html>")
        assert "birds-label" in report.page
        assert not (await w.stub.GetReport(pb.GetReportRequest(name="birds-label"))).page
        code, _, _ = await refusal(w.stub.GetReport(pb.GetReportRequest(name="bords")))
        assert code is Code.NOT_FOUND


async def test_items_vectors_and_stored_ids_say_the_same(home):
    async with served(home) as w:
        await w.parts.fill()
        await w.train()
        texts, classes = words(30)
        reply = await w.predict(items=items(*texts))
        [found] = reply.predictions
        assert (found.head, found.task, list(found.names)) == ("birds-label", pb.TASK_CLASSIFICATION, NAMES)
        probabilities = probabilities_of(reply)
        assert probabilities.shape == (30, 3)
        np.testing.assert_allclose(probabilities.sum(1), 1, rtol=1e-5)
        assert np.mean([NAMES[i] for i in probabilities.argmax(1)] == np.array(classes)) > 0.9
        assert found.fingerprint == w.parts.taps("mean")[0].fingerprint
        assert found.version.startswith("20")
        assert reply.timings.total >= reply.timings.compute > 0
        assert not reply.features
        by_ids = await w.predict(stored=pb.StoredItems(set="birds", ids=[f"i{text}" for text in texts]))
        np.testing.assert_allclose(probabilities_of(by_ids), probabilities, atol=1e-5)
        with_features = await w.predict(items=items(*texts), features=True)
        [rows] = with_features.features
        assert (rows.tap, rows.counts) == ("mean", [1] * 30)
        by_vectors = await w.predict(vectors=rows.rows, fingerprint=rows.fingerprint)
        np.testing.assert_allclose(probabilities_of(by_vectors), probabilities, atol=1e-5)


async def test_only_the_top_classes(home):
    async with served(home) as w:
        await w.parts.fill()
        await w.train()
        everything = probabilities_of(await w.predict(items=items("aeiou", "bdg")))
        reply = await w.predict(items=items("aeiou", "bdg"), top=2)
        best = item_messages.array(reply.predictions[0].best)
        assert best.dtype == np.int32
        assert best[:, 0].tolist() == [2, 1]
        np.testing.assert_array_equal(probabilities_of(reply), np.take_along_axis(everything, best, 1))
        assert (np.diff(probabilities_of(reply), axis=1) <= 0).all()
        assert probabilities_of(await w.predict(items=items("a"), top=9)).shape == (1, 3)


async def test_several_heads_share_one_pass(home):
    async with served(home) as w:
        await w.parts.fill()
        await w.train()
        await w.train(name="other", where="number < 20")
        calls = len(w.parts.engine.asked)
        reply = await w.predict("other", "birds-label", items=items("aeiou"))
        assert [one.head for one in reply.predictions] == ["other", "birds-label"]
        assert len(w.parts.engine.asked) == calls + 1
        options = await w.predict("other", items=items("AEIOU"), options=struct(case="lower"))
        np.testing.assert_allclose(probabilities_of(options), probabilities_of(reply), atol=1e-5)


async def test_bad_items_are_skipped_if_asked(home):
    async with served(home) as w:
        await w.parts.fill()
        await w.train()
        mixed = Items(items=[types_pb2.Item(), types_pb2.Item(text="aeiou"), types_pb2.Item(text=""), types_pb2.Item(text="b b")])
        code, _, info = await refusal(w.predict(items=mixed))
        assert (code, info.metadata["item"]) == (Code.INVALID_ARGUMENT, "0")
        reply = await w.predict(items=mixed, skip_bad_items=True, features=True, top=1)
        assert [failure.item for failure in reply.failures] == [0, 2]
        assert [bool(np.isnan(row).any()) for row in probabilities_of(reply)] == [True, False, True, False]
        assert list(reply.features[0].counts) == [0, 1, 0, 1]
        assert {note.item: dict(note.counts) for note in reply.notes} == {3: {"spaces": 1}}
        alone = await w.predict(items=items("aeiou", "b b"), top=1)
        np.testing.assert_allclose(probabilities_of(reply)[[1, 3]], probabilities_of(alone), atol=1e-6)
        nothing = await w.predict(items=Items(items=[types_pb2.Item()] * 2), skip_bad_items=True)
        assert (len(nothing.failures), probabilities_of(nothing).shape) == (2, (2, 3))


async def test_bad_predictions_are_refused(home):
    async with served(home, max_items=4) as w:
        await w.parts.fill()
        await w.train()
        rows = types_pb2.Tensor(dtype=types_pb2.DTYPE_FLOAT32, shape=(1, 7), data=np.ones((1, 7), np.float32).tobytes())
        whole = types_pb2.Tensor(dtype=types_pb2.DTYPE_FLOAT32, shape=(1, 8), data=np.ones((1, 8), np.float32).tobytes())
        numbers = types_pb2.Tensor(dtype=types_pb2.DTYPE_INT32, shape=(1, 8), data=np.ones((1, 8), np.int32).tobytes())
        for heads, fields, code, words in [
            ((), {}, Code.INVALID_ARGUMENT, "nothing to predict"),
            (("bords",), {"items": items("a")}, Code.NOT_FOUND, "bords"),
            (("letters/classes",), {"items": items("a")}, Code.NOT_FOUND, "letters/classes"),
            (("birds-label", "birds-label"), {"items": items("a")}, Code.INVALID_ARGUMENT, "twice"),
            ((), {"items": items()}, Code.INVALID_ARGUMENT, "no items"),
            ((), {"items": items(*"abcde")}, Code.INVALID_ARGUMENT, "5 items in one message"),
            ((), {"items": items("a"), "options": struct(kase="x")}, Code.INVALID_ARGUMENT, "kase"),
            ((), {"items": Items(items=[types_pb2.Item(image=b"\x89PNG")])}, Code.FAILED_PRECONDITION, "reads text"),
            ((), {"vectors": rows}, Code.INVALID_ARGUMENT, "[1, 7]"),
            ((), {"vectors": numbers}, Code.INVALID_ARGUMENT, "float32 or float16"),
            ((), {"vectors": whole, "fingerprint": "f" * 64}, Code.FAILED_PRECONDITION, "f" * 64),
            ((), {"stored": pb.StoredItems(set="birds")}, Code.INVALID_ARGUMENT, "0 ids"),
            ((), {"stored": pb.StoredItems(ids=["a"])}, Code.INVALID_ARGUMENT, "no feature set is named"),
            ((), {"stored": pb.StoredItems(set="birds", ids=["nobody"])}, Code.NOT_FOUND, "nobody"),
        ]:
            found, message, _ = await refusal(w.predict(*heads, **fields))
            assert (found, words in message) == (code, True), message
        code, message, _ = await refusal(w.stub.Predict(pb.PredictRequest(items=items("a"))))
        assert (code, "no head is named" in message) == (Code.INVALID_ARGUMENT, True)


async def test_large_replies_are_made_in_a_thread_and_too_large_ones_refused(home, monkeypatch):
    async with served(home) as w:
        await w.parts.fill()
        await w.train()
        monkeypatch.setattr("topwork_server.services.heads.LARGE", 0)
        assert probabilities_of(await w.predict(items=items("a"))).shape == (1, 3)
        monkeypatch.setattr("topwork_server.services.request_checks.MAX_MESSAGE", 100)
        code, _, info = await refusal(w.predict(items=items("a")))
        assert (code, info.reason) == (Code.RESOURCE_EXHAUSTED, "TooLarge")


async def test_a_stream_answers_in_order(home):
    async with served(home) as w:
        await w.parts.fill()
        await w.train()
        texts, _ = words(30)
        call = w.stub.PredictStream()
        await call.write(pb.PredictStreamRequest(settings=pb.PredictSettings(heads=["birds-label"])))
        for start in range(0, 30, 10):
            await call.write(pb.PredictStreamRequest(items=items(*texts[start : start + 10])))
        await call.done_writing()
        replies = [reply async for reply in call]
        whole = probabilities_of(await w.predict(items=items(*texts)))
        np.testing.assert_allclose(np.concatenate([probabilities_of(reply) for reply in replies]), whole, atol=1e-5)


async def test_a_stream_is_refused_before_its_items(home):
    async with served(home) as w:
        await w.parts.fill()
        w.parts.jobs.gate.clear()
        await w.stub.Train(pb.TrainRequest(set="birds", target="label"))
        for heads, code, words in [
            ([], Code.INVALID_ARGUMENT, "no head is named"),
            (["bords"], Code.NOT_FOUND, "bords"),
            (["birds-label"], Code.FAILED_PRECONDITION, "in training"),
        ]:
            call = w.stub.PredictStream()
            await call.write(pb.PredictStreamRequest(settings=pb.PredictSettings(heads=heads)))
            found, message, _ = await refusal(call.read())
            assert (found, words in message) == (code, True), message


async def test_parts_of_a_video_are_taken_and_forgotten(home):
    async with served(home) as w:
        await w.parts.fill()
        await w.train()
        call = w.stub.PredictStream()
        await call.write(pb.PredictStreamRequest(settings=pb.PredictSettings(heads=["birds-label"])))
        await call.write(pb.PredictStreamRequest(chunk=b"x" * 1000))
        await call.write(pb.PredictStreamRequest(items=Items(items=[types_pb2.Item(chunked_video=True)])))
        code, message, _ = await refusal(call.read())
        assert (code, "reads text, not video" in message) == (Code.FAILED_PRECONDITION, True)
        assert w.spool.used == 0


async def test_a_deadline_reaches_the_engine(home):
    async with served(home) as w:
        await w.parts.fill()
        await w.train()
        settings = pb.PredictSettings(heads=["birds-label"])
        call = w.stub.Predict(pb.PredictRequest(settings=settings, items=items("wait")), timeout=0.2)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call
        assert caught.value.code() is Code.DEADLINE_EXCEEDED


async def test_a_head_leaves_with_its_trunk_in_one_file(home, monkeypatch):
    async with served(home) as w:
        await w.parts.fill()
        await w.train()
        monkeypatch.setattr("topwork_server.services.heads.CHUNK_BYTES", 1000)
        parts = [part async for part in w.stub.ExportHead(pb.ExportHeadRequest(name="birds-label"))]
        data = b"".join(part.chunk for part in parts)
        assert len(parts) > 2
        assert {part.total for part in parts} == {len(data)}
        description = json.loads(parts[0].description)
        assert (description["head"], description["names"]) == ("birds-label", NAMES)
        assert not any(part.description for part in parts[1:])
        session = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])
        codes = np.frombuffer(b"aeiou", np.uint8).astype(np.int64)[None]
        outputs = dict(
            zip(
                [one.name for one in session.get_outputs()],
                session.run(None, {"codes": codes, "mask": np.ones((1, 5), np.float32)}),
                strict=True,
            )
        )
        np.testing.assert_allclose(outputs["probabilities"], probabilities_of(await w.predict(items=items("aeiou"))), atol=1e-5)
        code, _, _ = await refusal(w.stub.ExportHead(pb.ExportHeadRequest(name="bords")).read())
        assert code is Code.NOT_FOUND


async def test_a_head_of_vectors_or_of_another_trunk_cannot_leave(home):
    async with served(home) as w:
        [tap] = w.parts.taps("mean")
        for name, info, encoder in [("vectors", tap, ""), ("old", FingerprintedTap(tap.tap, "0" * 64), "letters")]:
            w.parts.sets.create(heads_harness.SetDefinition(name, (info,), encoder))
            await w.parts.write_vectors(name, 6, label=["a", "b"] * 3)
            await w.train(set=name)
        for name, words in [("vectors-label", "ready vectors of no encoder"), ("old-label", "0" * 64)]:
            code, message, _ = await refusal(w.stub.ExportHead(pb.ExportHeadRequest(name=name)).read())
            assert (code, words in message) == (Code.FAILED_PRECONDITION, True)
            code, message, _ = await refusal(w.predict(name, items=items("a")))
            assert (code, words in message) == (Code.FAILED_PRECONDITION, True)


async def test_a_probe_is_a_job(home):
    async with served(home) as w:
        await w.parts.fill()
        job = await w.stub.Probe(pb.ProbeRequest(sets=["birds"], target="label", folds=3))
        assert (job.kind, job.subject) == ("probe", "birds")
        await w.parts.jobs.wait(job.id)
        code, message, _ = await refusal(w.stub.Probe(pb.ProbeRequest(target="label")))
        assert (code, message) == (Code.INVALID_ARGUMENT, "no set is named")


async def test_a_caller_that_leaves_while_labels_are_read_trains_nothing(home):
    async with served(home) as w:
        await w.parts.fill()
        descriptions = dict.fromkeys(heads_harness.CLASSES, "wait")  # the engine holds what it is to embed
        call = w.stub.Train(pb.TrainRequest(set="birds", target="label", kind="describes", descriptions=descriptions))
        await w.parts.engine.until_asked(2)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        assert w.parts.jobs.started == []
        assert (await w.train()).state == pb.HEAD_STATE_READY


IDLE = """
import asyncio, sys
from pathlib import Path
import grpc
from topwork.v1 import heads_pb2, heads_pb2_grpc
from topwork_server.app import App
from topwork_server.config import Config
from topwork_server.models.catalog import Catalog
from topwork_server.plugin_api.plugin_registry import PluginRegistry

async def main(home):
    plugins = PluginRegistry.load()
    app = App(Catalog(plugins, home), Config(home=home, listen="127.0.0.1:0", provider="cpu"), plugins=plugins)
    ready = await app.start()
    async with grpc.aio.insecure_channel(ready.address) as channel:
        stub = heads_pb2_grpc.HeadsStub(channel)
        assert (await stub.ListTrainers(heads_pb2.ListTrainersRequest())).trainers
        [head] = (await stub.ListHeads(heads_pb2.ListHeadsRequest())).heads
        assert (head.name, head.labeled) == ("birds-label", 30), head
        assert (await stub.GetReport(heads_pb2.GetReportRequest(name="birds-label", page=True))).page
    heavy = "torch sklearn timm transformers onnxruntime onnx cv2 av PIL pyarrow faiss lance".split()
    print([name for name in heavy if name in sys.modules])
    await app.close()

asyncio.run(main(Path(sys.argv[1])))
"""


async def test_a_server_that_neither_trains_nor_predicts_loads_nothing_heavy(home):
    async with served(home) as w:
        await w.parts.fill()
        await w.train()
    (home / "artifacts").unlink()  # of encoders that this server does not know
    done = await asyncio.to_thread(
        subprocess.run, [sys.executable, "-c", IDLE, str(home)], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout.strip()) == (0, "[]"), done.stderr


async def test_every_verb_on_a_head_that_others_drop_is_answered_with_a_status(home):
    """Of a head that is dropped and trained again and again: it is there, or it is not, or it does not serve yet."""
    told: set[tuple[str, Code]] = set()
    words: list[str] = []

    async def call(name: str, verb: Any) -> None:
        try:
            await asyncio.wait_for(verb(), 60)
            told.add((name, Code.OK))
        except grpc.aio.AioRpcError as error:
            told.add((name, error.code()))
            words.append(error.details())

    async def again_and_again(name: str, verb: Any) -> None:
        while not done.is_set():
            await call(name, verb)

    done = asyncio.Event()
    async with served(home) as w:
        await w.parts.fill("birds")

        async def export() -> None:
            async for _ in w.stub.ExportHead(pb.ExportHeadRequest(name="birds-label")):
                pass

        verbs = {
            "predict": lambda: w.predict(items=items("aaa")),
            "get": lambda: w.stub.GetHead(pb.GetHeadRequest(name="birds-label")),
            "list": lambda: w.stub.ListHeads(pb.ListHeadsRequest()),
            "report": lambda: w.stub.GetReport(pb.GetReportRequest(name="birds-label")),
            "export": export,
            "train": lambda: w.stub.Train(pb.TrainRequest(set="birds", target="label")),
        }
        callers = [asyncio.create_task(again_and_again(name, verb)) for name, verb in verbs.items()]
        for _ in range(15):
            await call("train", lambda: w.train(replace=True))
            await call("drop", lambda: w.stub.DropHead(pb.DropHeadRequest(name="birds-label")))
        done.set()
        await asyncio.gather(*callers)
    allowed = {Code.OK, Code.NOT_FOUND, Code.FAILED_PRECONDITION, Code.ALREADY_EXISTS}
    assert {code for _, code in told} <= allowed, sorted(told, key=str)
    assert not [line for line in words if str(home) in line]

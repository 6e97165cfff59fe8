"""A server that speaks topwork.v1 and computes next to nothing: what the client's tests call.

Encoders: `letters` and `words` (text), `pictures` (image), `clips` (video), `sounds` (audio), `arrays` (tensor). A row tells
of its item, so that a test can see whose it is. A text "bad" is refused. Feature sets are in `fake_sets`, indexes and jobs in
`fake_indexes`, heads in `fake_heads_service`.
"""

from __future__ import annotations

import threading
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import grpc
import numpy as np
from google.protobuf.any_pb2 import Any as AnyMessage
from google.rpc import error_details_pb2, status_pb2
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_status import rpc_status
from topwork.v1 import encoders_pb2, encoders_pb2_grpc, types_pb2

DIM = 4
FINGERPRINT = "ab" * 32
TAPS = {
    "pooled": types_pb2.Tap(name="pooled", dim=DIM, granularity=types_pb2.GRANULARITY_ITEM, fingerprint=FINGERPRINT),
    "tokens": types_pb2.Tap(name="tokens", dim=DIM, granularity=types_pb2.GRANULARITY_TOKEN, fingerprint="cd" * 32),
    "cells": types_pb2.Tap(name="cells", dim=DIM, granularity=types_pb2.GRANULARITY_CELL, grid=(2, 2)),
}
MODALITIES = {
    "letters": types_pb2.MODALITY_TEXT,
    "words": types_pb2.MODALITY_TEXT,
    "pictures": types_pb2.MODALITY_IMAGE,
    "clips": types_pb2.MODALITY_VIDEO,
    "sounds": types_pb2.MODALITY_AUDIO,
    "arrays": types_pb2.MODALITY_TENSOR,
}
#: Methods of which each answer is checked by itself.
STREAMS = ("EmbedStream", "Write", "Read", "WatchJob", "PredictStream", "ExportHead")
VOCABULARY = ["bird", "whale", "stone"]


class Refusal(Exception):
    """A status to end a call with; `reason` as the server names its classes, none for a bare status."""

    def __init__(
        self,
        code: grpc.StatusCode,
        reason: str = "",
        message: str = "refused",
        remedy: str = "",
        item: int = -1,
        after: float = 0.0,
    ):
        super().__init__(message)
        self.after = after
        self.code, self.reason, self.message, self.remedy, self.item = code, reason, message, remedy, item

    def abort(self, context: grpc.ServicerContext) -> None:
        if not self.reason:
            context.abort(self.code, self.message)
        metadata = {"remedy": self.remedy} if self.remedy else {}
        metadata |= {"item": str(self.item)} if self.item >= 0 else {}
        packed = AnyMessage()
        packed.Pack(error_details_pb2.ErrorInfo(reason=self.reason, domain="topwork", metadata=metadata))
        status = status_pb2.Status(code=self.code.value[0], message=self.message, details=[packed])
        if self.after:
            retry = error_details_pb2.RetryInfo()
            retry.retry_delay.FromNanoseconds(int(self.after * 1e9))
            status.details.add().Pack(retry)
        answer = rpc_status.to_status(status)
        if self.reason == "TooLarge":  # as gRPC's retries know it: not again
            answer = answer._replace(trailing_metadata=(*answer.trailing_metadata, ("grpc-retry-pushback-ms", "-1")))
        context.abort_with_status(answer)


def bad_text(position: int) -> Refusal:
    return Refusal(grpc.StatusCode.INVALID_ARGUMENT, "InvalidInput", "a bad text", "send a good one", position)


def unavailable() -> Refusal:
    return Refusal(grpc.StatusCode.UNAVAILABLE, "Unavailable", "the server is stopping")


def overloaded() -> Refusal:
    return Refusal(grpc.StatusCode.RESOURCE_EXHAUSTED, "Overloaded", "the queue is full")


def shed() -> Refusal:
    """As gRPC's core does by itself, before any handler runs."""
    return Refusal(grpc.StatusCode.CANCELLED, message="CANCELLED")


def too_large() -> Refusal:
    return Refusal(grpc.StatusCode.RESOURCE_EXHAUSTED, "TooLarge", "it can never fit", "send less")


@dataclass
class FakeServer(encoders_pb2_grpc.EncodersServicer):
    """`plan` is asked before each answer: (method, try, answers so far) -> a Refusal to raise, or None."""

    plan: Callable[[str, int, int], Refusal | None] = lambda method, attempt, answers: None
    fingerprint: Callable[[int], str] = lambda attempt: FINGERPRINT
    tries: Counter[str] = field(default_factory=Counter)
    requests: list[Any] = field(default_factory=list)
    metadata: list[Any] = field(default_factory=list)
    timeouts: list[float | None] = field(default_factory=list)
    #: Replies of streams wait for it.
    gate: threading.Event = field(default_factory=threading.Event)
    cancelled: threading.Event = field(default_factory=threading.Event)

    #: How many samples an encoder says that it has computed.
    samples: Callable[[], int] = lambda: 0
    #: What `busy_with` says that an encoder does, by its name.
    doing: dict[str, str] = field(default_factory=dict)
    ended: threading.Event = field(default_factory=threading.Event)
    #: Of a server with TLS.
    credentials: grpc.ServerCredentials | None = None

    def __enter__(self) -> FakeServer:
        return self.open(0)

    def open(self, port: int) -> FakeServer:
        self.gate.set()
        options = [("grpc.max_receive_message_length", 64 << 20), ("grpc.max_send_message_length", -1)]
        self._server = grpc.server(ThreadPoolExecutor(8), options=options)
        encoders_pb2_grpc.add_EncodersServicer_to_server(self, self._server)  # type: ignore[no-untyped-call]
        self._health = health.HealthServicer()
        self._health.set("topwork.v1.Encoders", health_pb2.HealthCheckResponse.NOT_SERVING)
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        self._add_sets()
        place, secret = f"127.0.0.1:{port}", self.credentials
        bound = self._server.add_secure_port(place, secret) if secret else self._server.add_insecure_port(place)
        self.target = f"127.0.0.1:{bound}"
        self._server.start()
        return self

    def _add_sets(self) -> None:
        import fake_heads_service
        import fake_indexes
        import fake_sets
        from topwork.v1 import heads_pb2_grpc, indexes_pb2_grpc, jobs_pb2_grpc, sets_pb2_grpc

        self.sets = fake_sets.FakeSets(self)
        self.jobs = fake_indexes.FakeJobs(self)
        indexes = fake_indexes.FakeIndexes(self, self.sets, self.jobs)
        self.heads = fake_heads_service.FakeHeads(self, self.sets, self.jobs)
        sets_pb2_grpc.add_FeatureSetsServicer_to_server(self.sets, self._server)  # type: ignore[no-untyped-call]
        jobs_pb2_grpc.add_JobsServicer_to_server(self.jobs, self._server)  # type: ignore[no-untyped-call]
        indexes_pb2_grpc.add_IndexesServicer_to_server(indexes, self._server)  # type: ignore[no-untyped-call]
        heads_pb2_grpc.add_HeadsServicer_to_server(self.heads, self._server)  # type: ignore[no-untyped-call]

    def __exit__(self, *exception: object) -> None:
        self.gate.set()
        self.ended.set()
        self._server.stop(None).wait()

    def busy_with(self, encoder: str, detail: str) -> None:
        """As an encoder in its first use: it says what it does, and answers nothing."""
        self.doing[encoder] = detail
        self.ended.wait(30)

    @property
    def chunks(self) -> list[int]:
        """How many items each message of items brought."""
        sent = [r for r in self.requests if isinstance(r, encoders_pb2.EmbedStreamRequest)]
        return [len(r.items.items) for r in sent if r.HasField("items")]

    def ListEncoders(self, request: Any, context: Any) -> encoders_pb2.ListEncodersResponse:  # noqa: N802
        self._enter("ListEncoders", request, context)
        return encoders_pb2.ListEncodersResponse(encoders=[describe(name) for name in MODALITIES])

    def GetEncoder(self, request: Any, context: Any) -> encoders_pb2.Encoder:  # noqa: N802
        self._enter("GetEncoder", request, context)
        if request.name not in MODALITIES:
            Refusal(grpc.StatusCode.NOT_FOUND, "NotFound", f"no encoder {request.name!r}", "see `topwork encoders`").abort(
                context
            )
        found = describe(request.name)
        found.counters["samples"] = self.samples()
        if request.name in self.doing:
            found.state, found.detail = encoders_pb2.ENCODER_STATE_EXPORTING, self.doing[request.name]
        return found

    def Embed(self, request: Any, context: Any) -> encoders_pb2.EmbedResponse:  # noqa: N802
        attempt = self._enter("Embed", request, context)
        return self._answer(request.settings, request.items, attempt, context, b"")

    def EmbedStream(self, requests: Iterator[Any], context: Any) -> Iterator[encoders_pb2.EmbedResponse]:  # noqa: N802
        context.add_callback(self.cancelled.set)
        settings = next(requests).settings
        attempt = self._enter("EmbedStream", settings, context)
        upload, answers = b"", 0
        for message in requests:
            self.requests.append(message)
            if message.WhichOneof("message") == "chunk":
                upload += message.chunk
                continue
            self.gate.wait()
            self._check("EmbedStream", attempt, answers, context)
            yield self._answer(settings, message.items.items, attempt, context, upload)
            upload, answers = b"", answers + 1

    def NearestWords(self, request: Any, context: Any) -> encoders_pb2.NearestWordsResponse:  # noqa: N802
        self._enter("NearestWords", request, context)
        for position, item in enumerate(request.items):
            if item.text == "bad":
                bad_text(position).abort(context)
        words = [encoders_pb2.Word(word=word, score=1 - i / 8) for i, word in enumerate(VOCABULARY[: request.k])]
        return encoders_pb2.NearestWordsResponse(results=[encoders_pb2.Words(words=words) for _ in request.items])

    def Fill(self, request: Any, context: Any) -> encoders_pb2.FillResponse:  # noqa: N802
        self._enter("Fill", request, context)
        words = [encoders_pb2.FillWord(word=word, probability=1 / 2**i) for i, word in enumerate(VOCABULARY[: request.k], 1)]
        gaps = [encoders_pb2.FilledGaps(gaps=[encoders_pb2.FilledGap(start=0, end=1, words=words)]) for _ in request.items]
        return encoders_pb2.FillResponse(results=gaps, head="mlm")

    def _enter(self, method: str, request: Any, context: Any) -> int:
        self.requests.append(request)
        self.metadata.append(dict(context.invocation_metadata()))
        self.timeouts.append(context.time_remaining())
        self.tries[method] += 1
        if method not in STREAMS:
            self._check(method, self.tries[method], 0, context)
        return self.tries[method]

    def _check(self, method: str, attempt: int, answers: int, context: Any) -> None:
        refusal = self.plan(method, attempt, answers)
        if refusal:
            refusal.abort(context)

    def _answer(
        self, settings: Any, items: Sequence[types_pb2.Item], attempt: int, context: Any, upload: bytes
    ) -> encoders_pb2.EmbedResponse:
        if not items:
            Refusal(grpc.StatusCode.INVALID_ARGUMENT, "InvalidInput", "there are no items", "send at least one").abort(context)
        bad = [i for i, item in enumerate(items) if item.text == "bad" or not item.WhichOneof("content")]
        if bad and not settings.skip_bad_items:
            bad_text(bad[0]).abort(context)
        rows = [np.zeros((0, DIM), np.float32) if i in bad else row_of(item, upload) for i, item in enumerate(items)]
        taps = settings.taps or ["pooled"]
        return encoders_pb2.EmbedResponse(
            features=[self._features(settings, tap, items, rows, attempt) for tap in taps],
            notes=[encoders_pb2.Note(item=i, counts={"letters": len(t.text)}) for i, t in enumerate(items) if t.text == "noted"],
            failures=[encoders_pb2.Failure(item=i, code=3, message="a bad text", remedy="send a good one") for i in bad],
            numerics=types_pb2.Numerics(provider="fake", precision="fp32", parity=1.0, max_abs_error=0.0),
            timings=encoders_pb2.Timings(preprocess=0.25, queue=0.5, compute=1.0, total=2.0),
        )

    def _features(
        self, settings: Any, tap: str, items: Sequence[types_pb2.Item], rows: list[np.ndarray[Any, Any]], attempt: int
    ) -> types_pb2.TapFeatures:
        counts = [len(r) for r in rows]
        spans = None
        if tap == "tokens":  # a row a word
            words = [item.text.split() for item in items]
            counts = [len(w) for w in words]
            rows = [np.repeat(r[:1], n, 0) for r, n in zip(rows, counts, strict=True)]
            spans = character_spans(words)
        values, dtype, scales = shaped(np.concatenate(rows), settings.dtype)
        return types_pb2.TapFeatures(
            tap=tap,
            fingerprint=self.fingerprint(attempt),
            granularity=TAPS[tap].granularity,
            rows=types_pb2.Tensor(dtype=dtype, shape=(sum(counts), DIM), data=values.tobytes()),
            scales=scales,
            counts=counts,
            spans=spans,
        )


def describe(name: str) -> encoders_pb2.Encoder:
    return encoders_pb2.Encoder(
        name=name,
        modality=MODALITIES[name],
        taps=TAPS.values(),
        default_tap="pooled",
        parameters=22_700_000,
        trained_on="nothing",
        license="Apache-2.0",
        source="test:",
        description="a toy",
        state=encoders_pb2.ENCODER_STATE_READY,
        numerics=types_pb2.Numerics(provider="fake", precision="fp32", parity=0.99999, max_abs_error=1e-6),
        options=[encoders_pb2.Option(name="truncate", type="bool", default="false", description="cut what is too long")],
        plugin="tests 1",
        has_vocabulary=name == "words",
        devices=[
            _device("fast", "bf16", 3000, ["pooled"], 0.998, "tokens has a parity of 0.99800, below 0.999"),
            _device("plain", "fp32", 1000, ["tokens"], 1.0, ""),
        ],
    )


def _device(provider: str, precision: str, speed: float, taps: list[str], worst: float, detail: str) -> encoders_pb2.Device:
    return encoders_pb2.Device(
        numerics=types_pb2.Numerics(provider=provider, precision=precision, parity=0.9995, max_abs_error=1e-3),
        invariance=0.99998,
        samples_per_second=speed,
        taps=taps,
        parity={"pooled": 0.9995, "tokens": worst},
        detail=detail,
    )


def row_of(item: types_pb2.Item, upload: bytes) -> np.ndarray[Any, Any]:
    """(1, DIM): what came and how much of it. For a number as text: that number first."""
    kind = item.WhichOneof("content")
    content = {
        "text": item.text.encode(),
        "text_pair": f"{item.text_pair.text}|{item.text_pair.pair}".encode(),
        "image": item.image,
        "video": item.video,
        "audio": item.audio,
        "tensor": item.tensor.data,
        "chunked_video": upload,
        "chunked_audio": upload,
    }[kind]
    first = float(item.text) if item.text.isdecimal() else len(content)
    return np.array([[first, len(content), zlib.crc32(content) % 1000, ord(kind[0])]], np.float32)


def character_spans(words: list[list[str]]) -> types_pb2.Spans:
    values = [(0, len(word)) for item in words for word in item]
    return types_pb2.Spans(
        kind=types_pb2.SPAN_KIND_CHARACTERS,
        values=types_pb2.Tensor(
            dtype=types_pb2.DTYPE_FLOAT32, shape=(len(values), 2), data=np.array(values, "<f4").reshape(-1, 2).tobytes()
        ),
        parts=types_pb2.Tensor(dtype=types_pb2.DTYPE_INT32, shape=(len(values),), data=np.zeros(len(values), "<i4").tobytes()),
    )


def shaped(rows: np.ndarray[Any, Any], dtype: int) -> tuple[np.ndarray[Any, Any], Any, types_pb2.Tensor | None]:
    match dtype:
        case types_pb2.DTYPE_FLOAT16:
            return rows.astype("<f2"), dtype, None
        case types_pb2.DTYPE_BINARY:
            return np.packbits(rows > 10, axis=1), dtype, None
        case types_pb2.DTYPE_INT8:
            scales = (np.abs(rows).max(1) / 127).astype("<f4")
            packed = types_pb2.Tensor(dtype=types_pb2.DTYPE_FLOAT32, shape=scales.shape, data=scales.tobytes())
            return np.rint(rows / scales[:, None]).astype("|i1"), dtype, packed
    return rows.astype("<f4"), types_pb2.DTYPE_FLOAT32, None

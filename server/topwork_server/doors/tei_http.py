"""The HTTP routes of text-embeddings-inference, so that its clients and InferenceClient of huggingface_hub find a model here.

The path /rerank is in rerank.py: TEI's body has `texts`, others' `documents`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import grpc
import msgspec
from starlette.responses import RedirectResponse, Response

from topwork_server import __version__
from topwork_server.blocking_calls import together
from topwork_server.doors import http_errors
from topwork_server.doors.calls import FINGERPRINT, Call
from topwork_server.doors.json_calls import Operation, decoded
from topwork_server.doors.json_reply import json_reply
from topwork_server.doors.request_body import SlowBody
from topwork_server.doors.tei import BRIEF, TeiCalls
from topwork_server.doors.tei_messages import (
    Cost,
    DecodeRequest,
    EmbedAllRequest,
    EmbedRequest,
    EmptyInput,
    ModelInfo,
    Rank,
    RerankRequest,
    SimilarityRequest,
    TokenizeRequest,
)
from topwork_server.doors.tei_predict import PredictRequest, TeiPredict, is_batch
from topwork_server.errors import InvalidInput, TooLarge, TopworkError, Unavailable
from topwork_server.services.in_threads import in_thread_if
from topwork_server.types import Token

#: TEI's kind of an error and its status, None where the status is HTTP's own.
_BY_CLASS: tuple[tuple[type[TopworkError], str, int | None], ...] = (
    (EmptyInput, "Empty", 400),
    (TooLarge, "Validation", None),
    (SlowBody, "Validation", None),
    (http_errors.WrongMethod, "Validation", None),
)
_BY_CODE: Mapping[grpc.StatusCode, tuple[str, int | None]] = {
    grpc.StatusCode.INVALID_ARGUMENT: ("Validation", 422),
    grpc.StatusCode.NOT_FOUND: ("Validation", None),
    grpc.StatusCode.UNAUTHENTICATED: ("Unauthorized", None),
    grpc.StatusCode.PERMISSION_DENIED: ("Unauthorized", None),
    grpc.StatusCode.RESOURCE_EXHAUSTED: ("Overloaded", None),
    grpc.StatusCode.DEADLINE_EXCEEDED: ("Overloaded", None),
    grpc.StatusCode.UNAVAILABLE: ("Unhealthy", 503),
}
_OTHERS = ("Backend", 424)
#: The labels of a model with one score, as transformers names those of a model that names none.
ONE_LABEL = {"id2label": {"0": "LABEL_0"}, "label2id": {"LABEL_0": 0}}


class VertexRequest(msgspec.Struct):
    """Vertex AI's envelope: several requests."""

    instances: list[EmbedRequest]


class TeiDoor:
    """Answers TEI's routes. `why_not_ready` tells why an encoder, or the server for "", would not answer now; "" where it
    would."""

    def __init__(self, calls: TeiCalls, predict: TeiPredict, why_not_ready: Callable[[str], Awaitable[str]]) -> None:
        self._calls, self._predict, self._why_not_ready = calls, predict, why_not_ready

    def operations(self) -> list[Operation]:
        by_kind = "Embed, classify or rank texts, as the model does"
        return [
            Operation("/embed", "Tei.Embed", "Embed texts", self.embed, EmbedRequest),
            *(Operation(path, "Tei.ByKind", by_kind, self.by_kind, EmbedRequest, raw=True) for path in ("/", "/invocations")),
            Operation("/predict", "Tei.Predict", "Classify texts and pairs of texts", self.predict, PredictRequest),
            Operation("/embed_all", "Tei.EmbedAll", "Embed each token of texts", self.embed_all, EmbedAllRequest),
            Operation("/embed_sparse", "Tei.EmbedSparse", "Embed texts as sparse rows", self.embed_sparse, EmbedAllRequest),
            Operation("/similarity", "Tei.Similarity", "Compare texts with one", self.similarity, SimilarityRequest),
            Operation("/tokenize", "Tei.Tokenize", "Tell the tokens of texts", self.tokenize, TokenizeRequest),
            Operation("/decode", "Tei.Decode", "Tell the text of token ids", self.decode, DecodeRequest),
            Operation("/vertex", "Tei.Vertex", "Embed texts, as Vertex AI asks", self.vertex, VertexRequest),
            Operation("/info", "Tei.Info", "Describe the encoder", self.info),
            *(Operation(path, "Tei.Health", "Tell whether it serves", self.health) for path in ("/health", "/ping")),
            Operation("/", "Tei.Health", "Tell whether it serves; browsers are sent to /docs", self.root),
        ]

    async def embed(self, call: Call[EmbedRequest]) -> Response:
        rows, cost = await self._calls.embed(call)
        return await in_thread_if(rows.size > BRIEF, _reply, rows, cost)

    async def by_kind(self, call: Call[Any]) -> Response:
        if await self._predict.head(call):
            return await self.predict(replace(call, body=await decoded(call.body, _PREDICT)))
        if await self._calls.ranks(call):
            return await self.rerank(replace(call, body=await decoded(call.body, _RERANK)))
        return await self.embed(replace(call, body=await decoded(call.body, _EMBED)))

    async def predict(self, call: Call[PredictRequest]) -> Response:
        found = await self._predict.predict(call)
        ranked = await in_thread_if(found.scores.size > BRIEF, found.ranked)
        body = ranked if is_batch(call.body.inputs) else ranked[0]
        return await in_thread_if(found.scores.size > BRIEF, _reply, body, found.cost)

    async def embed_all(self, call: Call[EmbedAllRequest]) -> Response:
        rows, cost = await self._calls.embed_all(call)
        return await in_thread_if(sum(one.size for one in rows) > BRIEF, _reply, rows, cost)

    async def embed_sparse(self, call: Call[EmbedAllRequest]) -> Response:
        return _reply(*await self._calls.embed_sparse(call))

    async def similarity(self, call: Call[SimilarityRequest]) -> Response:
        return _reply(*await self._calls.similarity(call))

    async def rerank(self, call: Call[RerankRequest]) -> Response:
        found, cost = await self._calls.rerank(call)
        return _reply([_rank(one) for one in found], cost)

    async def tokenize(self, call: Call[TokenizeRequest]) -> Response:
        found = await self._calls.tokenize(call)
        return await in_thread_if(sum(map(len, found)) > BRIEF, _tokens, found)

    async def decode(self, call: Call[DecodeRequest]) -> Response:
        return json_reply(await self._calls.decode(call))

    async def vertex(self, call: Call[Any]) -> Response:
        instances, most = call.body.instances, self._calls.config.max_items
        if not 0 < len(instances) <= most:
            raise InvalidInput(f"{len(instances):,} instances", remedy=f"send 1 to {most:,}")
        found = await together([self._calls.embed(replace(call, body=one)) for one in instances])
        return await asyncio.to_thread(json_reply, {"predictions": [rows for rows, _ in found]})

    async def info(self, call: Call[None]) -> Response:
        found, config = await self._predict.describe(call), self._calls.config
        body = {
            "model_id": found.name,
            "model_sha": found.fingerprint,
            "model_dtype": found.dtype,
            "served_model_name": found.name,
            "model_type": _model_type(found),
            "max_concurrent_requests": config.queue,
            "max_input_length": found.max_tokens,
            "max_batch_tokens": found.max_batch_tokens,
            "max_batch_requests": None,
            "max_client_batch_size": config.max_items,
            "auto_truncate": False,
            "tokenization_workers": config.threads,
            "version": __version__,
            "sha": None,
            "docker_label": None,
        }
        return json_reply(body, headers={FINGERPRINT: found.fingerprint})

    async def root(self, call: Call[None]) -> Response:
        """The health of the server, and for people its page: its address is what the server prints when it is ready."""
        if "text/html" in call.headers.get("accept", ""):
            return RedirectResponse("/docs")
        return await self.health(call)

    async def health(self, call: Call[None]) -> Response:
        if reason := await self._why_unhealthy(call):
            raise Unavailable(reason, remedy="try again; `GetEncoder(NAME)` and `GetHead(NAME)` tell the state of a model")
        return Response()

    async def _why_unhealthy(self, call: Call[None]) -> str:
        model = call.model or self._calls.config.default_encoder
        try:
            head = await self._predict.head(call) if model else None
        except TopworkError as error:
            return str(error)
        reasons = [await self._why_not_ready(encoder) for encoder in (head.encoders if head else (model,))]
        return next(filter(None, reasons), "")


_EMBED, _PREDICT, _RERANK = (msgspec.json.Decoder(kind) for kind in (EmbedRequest, PredictRequest, RerankRequest))


def error_form(error: TopworkError) -> Response:
    """{error, error_type}, with TEI's statuses where it has one."""
    of_class = next(((kind, status) for one, kind, status in _BY_CLASS if isinstance(error, one)), None)
    kind, status = of_class or _BY_CODE.get(error.code, _OTHERS)
    return json_reply({"error": str(error), "error_type": kind}, status or http_errors.status(error), http_errors.headers(error))


def _model_type(found: ModelInfo) -> dict[str, Any]:
    if not found.labels:
        return {"reranker": ONE_LABEL} if found.ranks else {"embedding": {"pooling": found.pooling}}
    by_id = {str(i): label for i, label in enumerate(found.labels)}
    return {"classifier": {"id2label": by_id, "label2id": {label: i for i, label in enumerate(found.labels)}}}


def _reply(body: Any, cost: Cost) -> Response:
    """The body, and in the headers what it took, in whole milliseconds as TEI tells it."""
    times = {"total": cost.total, "tokenization": cost.tokenization, "queue": cost.queue, "inference": cost.inference}
    told = {
        "x-compute-type": cost.provider,
        "x-compute-time": round(cost.total * 1000),
        "x-compute-characters": cost.characters,
        "x-compute-tokens": cost.tokens,
        **{f"x-{name}-time": round(seconds * 1000) for name, seconds in times.items()},
        FINGERPRINT: cost.fingerprint,
    }
    return json_reply(body, headers={name: str(value) for name, value in told.items()})


def _rank(one: Rank) -> dict[str, Any]:
    text = {} if one.text is None else {"text": one.text}
    return {"index": one.index, **text, "score": one.score}


def _tokens(found: Sequence[Sequence[Token]]) -> Response:
    return json_reply([[_token(one) for one in tokens] for tokens in found])


def _token(one: Token) -> dict[str, Any]:
    start, stop = one.chars or (None, None)
    return {"id": one.id, "text": one.text, "special": one.chars is None, "start": start, "stop": stop}

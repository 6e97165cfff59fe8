"""The gRPC services of text-embeddings-inference, `tei.v1`, on the port of our own services."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeAlias

import grpc
from google.protobuf.message import Message

from topwork_server import __version__
from topwork_server.doors import tei_messages
from topwork_server.doors.calls import FINGERPRINT, Call, call_of
from topwork_server.doors.protocols import tei_pb2
from topwork_server.doors.tei import BRIEF, TeiCalls
from topwork_server.doors.tei_predict import Predictions, PredictRequest, TeiPredict
from topwork_server.doors.tei_rerank_stream import RerankStream
from topwork_server.errors import InvalidInput, TopworkError
from topwork_server.services.answer_stream import AnswerStream
from topwork_server.services.in_threads import in_thread_if
from topwork_server.services.request_checks import Context, add_trailing_metadata, check_reply_size
from topwork_server.services.streaming import until_stopped
from topwork_server.types import Array, Token

#: Codes of failures of the model itself, such as an export that failed: TEI's backend, for which it has FAILED_PRECONDITION.
OF_BACKEND = (grpc.StatusCode.INTERNAL, grpc.StatusCode.DATA_LOSS)
SERVICES = ("tei.v1.Info", "tei.v1.Embed", "tei.v1.Predict", "tei.v1.Rerank", "tei.v1.Tokenize")
DIRECTIONS: Mapping[int, str] = {tei_pb2.TRUNCATION_DIRECTION_RIGHT: "right", tei_pb2.TRUNCATION_DIRECTION_LEFT: "left"}

#: Answers the message that is the body of a call, with the fingerprint of the rows, "" where there are none; True waits for
#: room in the queue.
Answer: TypeAlias = Callable[[Call[Any], bool], Awaitable[tuple[Message, str]]]


class TeiGrpcDoor:
    """Answers the methods. Streams take no more requests once `stopping` is set."""

    def __init__(self, calls: TeiCalls, predict: TeiPredict, stopping: asyncio.Event) -> None:
        self._calls, self._predict, self._stopping = calls, predict, stopping

    def handlers(self) -> list[grpc.GenericRpcHandler]:
        """The tables of the services' methods."""
        tables = (
            {"Info": self._unary(self._info, tei_pb2.InfoRequest)},
            {
                **self._both("Embed", self._embed, tei_pb2.EmbedRequest),
                **self._both("EmbedSparse", self._embed_sparse, tei_pb2.EmbedSparseRequest),
                **self._both("EmbedAll", self._embed_all, tei_pb2.EmbedAllRequest),
            },
            {
                **self._both("Predict", self._predict_text, tei_pb2.PredictRequest),
                **self._both("PredictPair", self._predict_pair, tei_pb2.PredictPairRequest),
            },
            {
                "Rerank": self._unary(self._rerank, tei_pb2.RerankRequest),
                "RerankStream": grpc.stream_unary_rpc_method_handler(
                    self._rerank_stream, tei_pb2.RerankStreamRequest.FromString, _bytes_of
                ),
            },
            {
                **self._both("Tokenize", self._tokenize, tei_pb2.EncodeRequest),
                **self._both("Decode", self._decode, tei_pb2.DecodeRequest),
            },
        )
        return [grpc.method_handlers_generic_handler(name, table) for name, table in zip(SERVICES, tables, strict=True)]

    def _both(self, name: str, answer: Answer, kind: Any) -> dict[str, grpc.RpcMethodHandler]:
        return {name: self._unary(answer, kind), f"{name}Stream": self._stream(answer, kind)}

    def _unary(self, answer: Answer, kind: Any) -> grpc.RpcMethodHandler:
        async def call(request: Any, context: Context) -> Message:
            return await _answered(answer, call_of(context, context.peer()), request, context, wait=False)

        return grpc.unary_unary_rpc_method_handler(call, kind.FromString, _bytes_of)

    def _stream(self, answer: Answer, kind: Any) -> grpc.RpcMethodHandler:
        async def call(requests: Any, context: Context) -> None:
            opened = call_of(context, object())

            async def one(request: Any) -> Message:
                return await _answered(answer, opened, request, context, wait=True)

            await AnswerStream(one, self._stopping).run(requests, context.write)

        return grpc.stream_stream_rpc_method_handler(call, kind.FromString, _bytes_of)

    async def _embed(self, call: Call[Any], wait: bool) -> tuple[Message, str]:
        message = call.body
        request = tei_messages.EmbedRequest(
            **_settings(message),
            normalize=message.normalize if message.HasField("normalize") else True,
            dimensions=message.dimensions if message.HasField("dimensions") else None,
        )
        rows, cost = await self._calls.embed(replace(call, body=request), wait=wait)
        return tei_pb2.EmbedResponse(embeddings=rows[0].tolist(), metadata=_metadata(cost)), cost.fingerprint

    async def _embed_sparse(self, call: Call[Any], wait: bool) -> tuple[Message, str]:
        await self._calls.embed_sparse(replace(call, body=tei_messages.EmbedAllRequest(**_settings(call.body))))
        return tei_pb2.EmbedSparseResponse(), ""

    async def _embed_all(self, call: Call[Any], wait: bool) -> tuple[Message, str]:
        request = tei_messages.EmbedAllRequest(**_settings(call.body))
        [rows], cost = await self._calls.embed_all(replace(call, body=request), wait=wait)
        reply = await in_thread_if(rows.size > BRIEF, _token_rows, rows, cost)
        return check_reply_size(reply, "send a shorter text"), cost.fingerprint

    async def _predict_text(self, call: Call[Any], wait: bool) -> tuple[Message, str]:
        return await self._predicted(call, call.body.inputs, wait)

    async def _predict_pair(self, call: Call[Any], wait: bool) -> tuple[Message, str]:
        given = list(call.body.inputs)
        if len(given) != 2:
            raise InvalidInput(f"{len(given)} texts of a pair", remedy="send two, or ask for Predict")
        return await self._predicted(call, [given], wait)

    async def _predicted(self, call: Call[Any], inputs: Any, wait: bool) -> tuple[Message, str]:
        message = call.body
        request = PredictRequest(inputs=inputs, raw_scores=message.raw_scores, **_truncation(message))
        found = await self._predict.predict(replace(call, body=request), wait=wait)
        return await in_thread_if(found.scores.size > BRIEF, _predictions, found), found.cost.fingerprint

    async def _rerank(self, call: Call[Any], wait: bool) -> tuple[Message, str]:
        request = _rerank_settings(call.body, texts=list(call.body.texts))
        return _ranks(*await self._calls.rerank(replace(call, body=request)))

    async def _rerank_stream(self, requests: AsyncIterator[Any], context: Context) -> Message:
        stream = RerankStream(self._calls, call_of(context, object()))
        try:
            async for one in until_stopped(requests, self._stopping):
                await stream.add(one.query, one.text, _rerank_settings(one))
            reply, fingerprint = _ranks(*await stream.finish())
        except TopworkError as error:
            raise _with_teis_code(error, error.item) from error
        add_trailing_metadata(context, (FINGERPRINT, fingerprint))
        return reply

    async def _tokenize(self, call: Call[Any], wait: bool) -> tuple[Message, str]:
        message = call.body
        request = tei_messages.TokenizeRequest(message.inputs, message.add_special_tokens, message.prompt_name or None)
        [tokens] = await self._calls.tokenize(replace(call, body=request))
        return await in_thread_if(len(tokens) > BRIEF, _tokens, tokens), ""

    async def _decode(self, call: Call[Any], wait: bool) -> tuple[Message, str]:
        request = tei_messages.DecodeRequest([list(call.body.ids)], call.body.skip_special_tokens)
        [text] = await self._calls.decode(replace(call, body=request))
        return tei_pb2.DecodeResponse(text=text), ""

    async def _info(self, call: Call[Any], wait: bool) -> tuple[Message, str]:
        found, config = await self._predict.describe(call), self._calls.config
        reply = tei_pb2.InfoResponse(
            version=__version__,
            model_id=found.name,
            model_sha=found.fingerprint,
            model_dtype=found.dtype,
            model_type=_model_type(found),
            max_concurrent_requests=config.queue,
            max_input_length=found.max_tokens,
            max_batch_tokens=found.max_batch_tokens,
            max_client_batch_size=config.max_items,
            tokenization_workers=config.threads,
        )
        return reply, found.fingerprint


async def _answered(answer: Answer, call: Call[None], request: Any, context: Context, *, wait: bool) -> Message:
    """The reply. The rows' fingerprint goes into the trailing metadata."""
    try:
        reply, fingerprint = await answer(replace(call, body=request), wait)
    except TopworkError as error:
        several = isinstance(request, tei_pb2.RerankRequest)  # any other message has one text
        raise _with_teis_code(error, error.item if several else None) from error
    if fingerprint:
        add_trailing_metadata(context, (FINGERPRINT, fingerprint))
    return reply


def _with_teis_code(error: TopworkError, item: int | None) -> TopworkError:
    """A copy of the error that blames that item, with the code that TEI has for its kind."""
    found = error.at(item)
    if found.code in OF_BACKEND:
        found.code = grpc.StatusCode.FAILED_PRECONDITION
    return found


def _bytes_of(reply: Message) -> bytes:
    return reply.SerializeToString()


def _settings(message: Any) -> dict[str, Any]:
    """The fields that all messages have which ask for rows."""
    return {"inputs": message.inputs, "prompt_name": message.prompt_name or None, **_truncation(message)}


def _truncation(message: Any) -> dict[str, Any]:
    if message.truncation_direction not in DIRECTIONS:
        raise InvalidInput(f"truncation_direction is {message.truncation_direction}", remedy="set it to 0 (right) or 1 (left)")
    return {"truncate": message.truncate, "truncation_direction": DIRECTIONS[message.truncation_direction]}


def _rerank_settings(message: Any, texts: list[str] | None = None) -> tei_messages.RerankRequest:
    """The request that a message is, of `texts`."""
    return tei_messages.RerankRequest(
        query=message.query,
        texts=texts,
        raw_scores=message.raw_scores,
        return_text=message.return_text,
        **_truncation(message),
    )


def _ranks(found: Sequence[tei_messages.Rank], cost: tei_messages.Cost) -> tuple[tei_pb2.RerankResponse, str]:
    """The reply, and the fingerprint of its scores."""
    rendered = [tei_pb2.Rank(index=one.index, text=one.text, score=one.score) for one in found]
    reply = tei_pb2.RerankResponse(ranks=rendered, metadata=_metadata(cost))
    return check_reply_size(reply, "rank fewer texts, or leave return_text out"), cost.fingerprint


def _model_type(found: tei_messages.ModelInfo) -> tei_pb2.ModelType:
    if found.labels:
        return tei_pb2.MODEL_TYPE_CLASSIFIER
    return tei_pb2.MODEL_TYPE_RERANKER if found.ranks else tei_pb2.MODEL_TYPE_EMBEDDING


def _metadata(cost: tei_messages.Cost) -> tei_pb2.Metadata:
    return tei_pb2.Metadata(
        compute_chars=cost.characters,
        compute_tokens=cost.tokens,
        total_time_ns=round(cost.total * 1e9),
        tokenization_time_ns=round(cost.tokenization * 1e9),
        queue_time_ns=round(cost.queue * 1e9),
        inference_time_ns=round(cost.inference * 1e9),
    )


def _predictions(found: Predictions) -> tei_pb2.PredictResponse:
    [ranked] = found.ranked()
    return tei_pb2.PredictResponse(predictions=[tei_pb2.Prediction(**one) for one in ranked], metadata=_metadata(found.cost))


def _token_rows(rows: Array, cost: tei_messages.Cost) -> tei_pb2.EmbedAllResponse:
    rendered = [tei_pb2.TokenEmbedding(embeddings=row) for row in rows.tolist()]
    return tei_pb2.EmbedAllResponse(token_embeddings=rendered, metadata=_metadata(cost))


def _tokens(tokens: Sequence[Token]) -> tei_pb2.EncodeResponse:
    return tei_pb2.EncodeResponse(tokens=[_token(one) for one in tokens])


def _token(one: Token) -> tei_pb2.SimpleToken:
    start, stop = one.chars or (None, None)
    return tei_pb2.SimpleToken(id=one.id, text=one.text, special=one.chars is None, start=start, stop=stop)

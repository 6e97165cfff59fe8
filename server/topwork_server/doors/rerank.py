"""Ranks documents by a query with a cross-encoder, as Cohere, Jina, Infinity and TEI ask for it at /rerank, and vLLM at /score.

A score is the sigmoid of what the cross-encoder's head gives (0 to 1), or that itself where `raw_scores` is true.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Sequence
from typing import Any

import msgspec
import numpy as np
from starlette.responses import Response

from topwork_server.doors.embedding import Embedder, one_row_each
from topwork_server.doors.json_calls import FINGERPRINT, Call, Operation
from topwork_server.doors.json_reply import json_reply
from topwork_server.errors import InvalidInput
from topwork_server.features import EmbedResult
from topwork_server.types import Array, TextItem

#: Pairs of one request.
MOST_PAIRS = 2048


class Document(msgspec.Struct):
    """A document as an object: its text."""

    text: str


class RerankRequest(msgspec.Struct):
    """`documents` are ranked, or `texts` in the form of TEI, whose reply is a list. Texts that are too long are cut, in TEI's
    form only where `truncate` is true. `raw_scores`, `tap` and `options` may be set in either form."""

    query: str
    documents: list[str | Document] | None = None
    texts: list[str] | None = None
    model: str = ""
    top_n: int | None = None
    return_documents: bool = False
    return_text: bool = False
    max_tokens_per_doc: int | None = None
    truncate: bool | None = None
    raw_scores: bool = False
    relevant_spans: Any = None
    tap: str = ""
    options: dict[str, Any] = msgspec.field(default_factory=dict)


class ScoreRequest(msgspec.Struct):
    """One query and many documents, or as many of both, which make pairs; each may have either of its names."""

    queries: str | list[str] | None = None
    documents: str | list[str] | None = None
    text_1: str | list[str] | None = None
    text_2: str | list[str] | None = None
    model: str = ""
    truncate: bool = True
    raw_scores: bool = False
    tap: str = ""
    options: dict[str, Any] = msgspec.field(default_factory=dict)


class RerankDoor:
    """Answers /rerank and /score."""

    def __init__(self, embedder: Embedder) -> None:
        self._embedder = embedder

    def operations(self) -> list[Operation]:
        ranks = [
            Operation(path, "Rerank.Rerank", "Rank documents by a query", self.rerank, RerankRequest)
            for path in ("/rerank", "/v1/rerank", "/v2/rerank")
        ]
        scores = [
            Operation(path, "Rerank.Score", "Score pairs of texts", self.score, ScoreRequest) for path in ("/score", "/v1/score")
        ]
        return [*ranks, *scores]

    async def rerank(self, call: Call[RerankRequest]) -> Response:
        body = call.body
        texts = _ranked_texts(body)
        of_tei = body.texts is not None
        options = _options(body, truncate=body.truncate if body.truncate is not None else not of_tei)
        if body.max_tokens_per_doc is not None:
            options["pair_tokens"] = body.max_tokens_per_doc
        encoder, result, scores = await self._scored(call, [(body.query, text) for text in texts], options)
        best = np.argsort(-scores, kind="stable")[: body.top_n].tolist()
        headers = {FINGERPRINT: result.taps[0].tap.fingerprint}
        if of_tei:
            shown = [{"text": texts[i]} if body.return_text else {} for i in best]
            ranks = [{"index": i, "score": scores[i], **text} for i, text in zip(best, shown, strict=True)]
            return json_reply(ranks, headers=headers)
        shown = [{"document": {"text": texts[i]}} if body.return_documents else {} for i in best]
        results = [{"index": i, "relevance_score": scores[i], **document} for i, document in zip(best, shown, strict=True)]
        usage = {"prompt_tokens": result.cost, "total_tokens": result.cost}
        meta = {"api_version": {"version": "2"}, "tokens": {"input_tokens": result.cost}}
        reply = {"id": str(uuid.uuid4()), "model": encoder, "results": results, "usage": usage, "meta": meta}
        return json_reply(reply, headers=headers)

    async def score(self, call: Call[ScoreRequest]) -> Response:
        body = call.body
        encoder, result, scores = await self._scored(call, _pairs(body), _options(body, truncate=body.truncate))
        usage = {"prompt_tokens": result.cost, "total_tokens": result.cost}
        data = [{"index": i, "object": "score", "score": score} for i, score in enumerate(scores)]
        reply = {"id": f"score-{uuid.uuid4().hex}", "object": "list", "created": int(time.time()), "model": encoder}
        return json_reply({**reply, "data": data, "usage": usage}, headers={FINGERPRINT: result.taps[0].tap.fingerprint})

    async def _scored(
        self, call: Call[Any], pairs: Sequence[tuple[str, str]], options: dict[str, Any]
    ) -> tuple[str, EmbedResult, Array]:
        """The encoder's name, what it gave, and a score for each pair."""
        encoder = self._embedder.name(call, call.body.model)
        if not 0 < len(pairs) <= MOST_PAIRS:
            raise InvalidInput(f"{len(pairs)} documents", remedy=f"send 1 to {MOST_PAIRS:,}")
        items = [TextItem(query, document) for query, document in pairs]
        result = await self._embedder.embed(call, encoder, items, tap=call.body.tap, options=options)
        return encoder, result, _scores(encoder, result, raw=call.body.raw_scores)


def _ranked_texts(body: RerankRequest) -> list[str]:
    if (body.documents is None) == (body.texts is None):
        what = "there are no documents" if body.documents is None else "documents and texts are both set"
        raise InvalidInput(what, remedy="set `documents`, or `texts` as TEI has it")
    if body.relevant_spans:
        raise InvalidInput("relevant_spans are not told here", remedy="leave it out")
    for name, number in (("top_n", body.top_n), ("max_tokens_per_doc", body.max_tokens_per_doc)):
        if number is not None and number < 1:
            raise InvalidInput(f"{name} is {number}", remedy="ask for 1 or more, or leave it out")
    if body.texts is not None:
        return body.texts
    return [given if isinstance(given, str) else given.text for given in body.documents or ()]


def _pairs(body: ScoreRequest) -> list[tuple[str, str]]:
    queries = _either("queries", body.queries, "text_1", body.text_1)
    documents = _either("documents", body.documents, "text_2", body.text_2)
    if len(queries) == 1:
        queries *= len(documents)
    if len(queries) != len(documents):
        raise InvalidInput(
            f"{len(queries)} queries and {len(documents)} documents", remedy="send one query, or as many as documents"
        )
    return list(zip(queries, documents, strict=True))


def _either(name: str, given: str | list[str] | None, other_name: str, other: str | list[str] | None) -> list[str]:
    if (given is None) == (other is None):
        what = f"neither {name} nor {other_name} is" if given is None else f"{name} and {other_name} are both"
        raise InvalidInput(f"{what} set", remedy="set one of them")
    found = given if given is not None else other
    return [found] if isinstance(found, str) else list(found or ())


def _options(body: RerankRequest | ScoreRequest, *, truncate: bool) -> dict[str, Any]:
    """The encoder's options of a request."""
    return {**({"truncate": True} if truncate else {}), **body.options}


def _scores(encoder: str, result: EmbedResult, *, raw: bool) -> Array:
    """One float64 a pair. InvalidInput where the tap gives no single number."""
    rows = one_row_each(result)
    if rows.tap.tap.dim != 1:
        raise InvalidInput(
            f"{encoder} ranks nothing: its tap {rows.tap.tap.name} gives {rows.tap.tap.dim} numbers for a pair of texts, not one",
            remedy="name a cross-encoder with one score as `model`, or compare rows of /v1/embeddings",
        )
    logits = rows.rows[:, 0].astype(np.float64)
    scores: Array = logits if raw else np.exp(-np.logaddexp(0, -logits))
    return scores

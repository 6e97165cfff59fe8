"""Ranks documents by a query with a cross-encoder, as Cohere, Jina, Infinity and TEI ask for it at /rerank, and vLLM at /score.

A score is the sigmoid of what the cross-encoder's head gives (0 to 1), or that itself where `raw_scores` is true.
"""

from __future__ import annotations

import re
import time
import uuid
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import msgspec
from starlette.responses import Response

from topwork_server.doors import cohere, tei_http, tei_messages
from topwork_server.doors.calls import FINGERPRINT, Call
from topwork_server.doors.embedding import Embedder
from topwork_server.doors.json_calls import ErrorForm, Operation
from topwork_server.doors.json_reply import json_reply
from topwork_server.doors.ranking import Pair, PairScores, Ranker, ranked
from topwork_server.errors import InvalidInput

#: Pairs of one request.
MOST_PAIRS = 2048
#: TEI has this path alone; the others are Cohere's and Jina's.
SHARED_PATH = "/rerank"
#: The names that tell the forms apart, as keys of a body.
_KEYS = re.compile(rb'"(texts|documents)"\s*:')

#: Answers TEI's form.
TeiRerank = Callable[[Call[Any]], Awaitable[Response]]


class Document(msgspec.Struct):
    """A document as an object: its text."""

    text: str


class RankingRequest(tei_messages.RerankRequest, kw_only=True):
    """`documents` are ranked, or `texts` in the form of TEI, whose reply is a list. Texts that are too long are cut, in TEI's
    form only where `truncate` is true. `raw_scores`, `top_n`, `tap` and `options` may be set in either form."""

    documents: list[str | Document] | None = None
    model: str = ""
    return_documents: bool = False
    max_tokens_per_doc: int | None = None
    relevant_spans: Any = None


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
    """Answers /rerank and /score; `of_tei` answers what comes in TEI's form."""

    def __init__(self, embedder: Embedder, ranker: Ranker, of_tei: TeiRerank) -> None:
        self._embedder, self._ranker, self._of_tei = embedder, ranker, of_tei

    def operations(self) -> list[Operation]:
        ranks = [
            Operation(path, "Rerank.Rerank", "Rank documents by a query", self.rerank, RankingRequest, error_form_of=form)
            for path, form in ((SHARED_PATH, _shared_form), ("/v1/rerank", _own_form), ("/v2/rerank", _own_form))
        ]
        scores = [
            Operation(path, "Rerank.Score", "Score pairs of texts", self.score, ScoreRequest) for path in ("/score", "/v1/score")
        ]
        return [*ranks, *scores]

    async def rerank(self, call: Call[RankingRequest]) -> Response:
        body = call.body
        documents = _documents(body)
        if documents is None:
            return await self._of_tei(replace(call, model=body.model or call.model))
        longest = {} if body.max_tokens_per_doc is None else {"pair_tokens": body.max_tokens_per_doc}
        pairs = [(body.query, document) for document in documents]
        encoder, scored = await self._scored(call, pairs, truncate=body.truncate is not False, options=longest)
        best = ranked(scored.scores, body.top_n)
        shown = [{"document": {"text": documents[i]}} if body.return_documents else {} for i in best]
        results = [{"index": i, "relevance_score": scored.scores[i], **document} for i, document in zip(best, shown, strict=True)]
        meta = {"api_version": {"version": "2"}, "tokens": {"input_tokens": scored.result.cost}}
        reply = {"id": str(uuid.uuid4()), "model": encoder, "results": results, "usage": _usage(scored), "meta": meta}
        return json_reply(reply, headers={FINGERPRINT: scored.fingerprint})

    async def score(self, call: Call[ScoreRequest]) -> Response:
        body = call.body
        encoder, scored = await self._scored(call, _pairs(body), truncate=body.truncate)
        data = [{"index": i, "object": "score", "score": score} for i, score in enumerate(scored.scores)]
        reply = {"id": f"score-{uuid.uuid4().hex}", "object": "list", "created": int(time.time()), "model": encoder}
        return json_reply({**reply, "data": data, "usage": _usage(scored)}, headers={FINGERPRINT: scored.fingerprint})

    async def _scored(
        self, call: Call[Any], pairs: Sequence[Pair], *, truncate: bool, options: Mapping[str, Any] | None = None
    ) -> tuple[str, PairScores]:
        """The encoder's name, and a score for each pair. `options` are set beside those of the body."""
        body = call.body
        encoder = self._embedder.name(call, body.model)
        if not 0 < len(pairs) <= MOST_PAIRS:
            raise InvalidInput(f"{len(pairs)} documents", remedy=f"send 1 to {MOST_PAIRS:,}")
        cuts = truncate and await self._embedder.takes(encoder, "truncate")
        chosen = {**({"truncate": True} if cuts else {}), **body.options, **(options or {})}
        return encoder, await self._ranker.score(call, encoder, pairs, chosen, tap=body.tap, raw=body.raw_scores)


def _own_form(body: bytes) -> ErrorForm:
    """The form of errors at Cohere's paths: Cohere's, unless the body is TEI's."""
    return tei_http.error_form if _first_key(body) == b"texts" else cohere.error_form


def _shared_form(body: bytes) -> ErrorForm:
    """The form of errors at the path of both: TEI's, unless the body is Cohere's."""
    return cohere.error_form if _first_key(body) == b"documents" else tei_http.error_form


def _first_key(body: bytes) -> bytes:
    found = _KEYS.search(body)
    return found[1] if found else b""


def _documents(body: RankingRequest) -> list[str] | None:
    """What is to be ranked in Cohere's form, None where the body is TEI's. InvalidInput where it has no meaning."""
    if (body.documents is None) == (body.texts is None):
        what = "there are no documents" if body.documents is None else "documents and texts are both set"
        raise InvalidInput(what, remedy="set `documents`, or `texts` as TEI has it")
    if body.relevant_spans:
        raise InvalidInput("relevant_spans are not told here", remedy="leave it out")
    if body.max_tokens_per_doc is not None and body.max_tokens_per_doc < 1:
        raise InvalidInput(f"max_tokens_per_doc is {body.max_tokens_per_doc}", remedy="ask for 1 or more, or leave it out")
    if body.documents is None:
        return None
    return [given if isinstance(given, str) else given.text for given in body.documents]


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


def _usage(scored: PairScores) -> dict[str, int]:
    return {"prompt_tokens": scored.result.cost, "total_tokens": scored.result.cost}

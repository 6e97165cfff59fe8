"""Answers what the protocol of text-embeddings-inference asks of an encoder of texts, whichever wire it comes by."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from topwork_server.config import Config
from topwork_server.doors.calls import Call
from topwork_server.doors.embedding import Embedder, one_row_each
from topwork_server.doors.ranking import Pair, PairScores, Ranker, ranked
from topwork_server.doors.tei_messages import (
    Cost,
    DecodeRequest,
    EmbedAllRequest,
    EmbedRequest,
    EmptyInput,
    ModelInfo,
    Rank,
    RerankRequest,
    Settings,
    SimilarityRequest,
    TokenizeRequest,
)
from topwork_server.doors.text_inputs import as_list, dimensions, each, token_ids
from topwork_server.errors import InvalidInput, NotReady, TooLarge
from topwork_server.features import EmbedResult
from topwork_server.inference.output_format import OutputFormat, format_rows
from topwork_server.plugin_api import options as request_options
from topwork_server.plugin_api.encoder import Encoder
from topwork_server.services.in_threads import in_thread_if
from topwork_server.services.message_budget import MAX_MESSAGE
from topwork_server.types import Array, FingerprintedTap, Granularity, Item, TextItem, Token

#: The tap of token rows, where an encoder has several.
TOKENS = "tokens"
#: Characters, or token ids, of one request that asks for tokens, or for the text of some: each becomes an object.
MOST_TOKENIZED = 1 << 18
#: Numbers that are formatted on the event loop.
BRIEF = 1 << 14
#: TEI's words for precisions.
DTYPES: Mapping[str, str] = {"fp32": "float32", "fp16": "float16", "bf16": "bfloat16"}

T = TypeVar("T")


class TeiCalls:
    """Answers requests of either wire."""

    def __init__(self, embedder: Embedder, ranker: Ranker, config: Config) -> None:
        self._embedder, self._ranker, self.config = embedder, ranker, config

    def model(self, call: Call[Any]) -> str:
        """The name of the model that a request is for."""
        return self._embedder.name(call)

    async def embed(self, call: Call[EmbedRequest], *, wait: bool = False) -> tuple[Array, Cost]:
        """A row for each input: (inputs, dim) float32. `wait` waits for room in the encoder's queue."""
        wanted = OutputFormat(normalize=call.body.normalize, dimensions=dimensions(call.body.dimensions))
        result, cost = await self._embedded(call, as_list(call.body.inputs), call.body, wait=wait)
        rows = one_row_each(result).rows
        return (await in_thread_if(rows.size > BRIEF, format_rows, rows, wanted)).values, cost

    async def embed_all(self, call: Call[EmbedAllRequest], *, wait: bool = False) -> tuple[list[Array], Cost]:
        """The rows of the tokens of each input: (tokens, dim) float32. Special tokens have none."""
        tap = await self._token_tap(self._embedder.name(call))
        result, cost = await self._embedded(call, as_list(call.body.inputs), call.body, [tap], wait=wait)
        if result.taps[0].rows.nbytes > MAX_MESSAGE:
            raise TooLarge(
                f"the reply would have {result.taps[0].rows.nbytes:,} bytes of rows, and may have {MAX_MESSAGE:,}",
                remedy="send fewer or shorter inputs at a time",
            )
        return [item.rows for item in result.taps[0].split()], cost

    async def embed_sparse(self, call: Call[EmbedAllRequest]) -> tuple[Any, Cost]:
        """Refuse: rows here are dense."""
        raise NotReady(f"{self._embedder.name(call)} has no sparse rows", remedy="ask for /embed or Embed")

    async def similarity(self, call: Call[SimilarityRequest]) -> tuple[Array, Cost]:
        """The cosine of each sentence with the source: (sentences,) float32."""
        given = call.body.inputs
        if not given.sentences:
            raise EmptyInput("there are no sentences", remedy="send at least one")
        texts = [given.source_sentence, *given.sentences]
        result, cost = await self._embedded(call, texts, call.body.parameters or Settings())
        rows = format_rows(one_row_each(result).rows, OutputFormat(normalize=True)).values
        return rows[1:] @ rows[0], cost

    async def rerank(self, call: Call[RerankRequest]) -> tuple[list[Rank], Cost]:
        """The texts, or the `top_n` best of them, with their scores, the best first."""
        body, began = call.body, time.monotonic()
        texts = self.checked(body.texts or [])
        scored = await self.score(call, [(body.query, text) for text in texts], body)
        characters = len(body.query) * len(texts) + sum(map(len, texts))
        cost = cost_of(scored.result, characters, began)
        return ranks(scored.scores, body.top_n, texts if body.return_text else None), cost

    async def score(self, call: Call[Any], pairs: Sequence[Pair], body: RerankRequest, *, wait: bool = False) -> PairScores:
        """A score for each pair. `wait` waits for room in the encoder's queue."""
        encoder = self._embedder.name(call)
        options = {**await self.options(encoder, body), **body.options}
        return await self._ranker.score(call, encoder, pairs, options, tap=body.tap, raw=body.raw_scores, wait=wait)

    async def tokenize(self, call: Call[TokenizeRequest]) -> list[Sequence[Token]]:
        """The tokens of each text, with its prompt."""
        body = call.body
        texts = self.checked([body.inputs] if isinstance(body.inputs, str) else body.inputs)
        _check_sizes(texts, "characters")
        encoder = self._embedder.name(call)
        options, role = await self._embedder.prompt(encoder, body.prompt_name or "")

        def tokens(opened: Encoder, chosen: Any) -> list[Sequence[Token]]:
            found = each(texts, lambda text: opened.tokenize(text, chosen))
            return found if body.add_special_tokens else [[one for one in tokens if one.chars] for tokens in found]

        return await self._embedder.ask(call, encoder, len(texts), tokens, options, role)

    async def decode(self, call: Call[DecodeRequest]) -> list[str]:
        """The text of each list of token ids."""
        lists = each(self.checked(as_list(call.body.ids)), lambda ids: token_ids(ids).tolist())
        _check_sizes(lists, "token ids")
        special = not call.body.skip_special_tokens

        def texts(encoder: Encoder, chosen: Any) -> list[str]:
            return each(lists, lambda ids: encoder.detokenize(ids, special=special))

        return await self._embedder.ask(call, self._embedder.name(call), len(lists), texts, {})

    async def describe(self, call: Call[Any]) -> ModelInfo:
        """Describe the encoder, which is loaded for it."""
        name = self._embedder.name(call)
        longest, budget = await self._embedder.ask(call, name, 0, lambda encoder, _: (encoder.max_tokens, encoder.budget), {})
        numerics = self._embedder.numerics(await self._embedder.entry(name))
        found = await self._embedder.usual_tap(name)
        precision = DTYPES.get(numerics.precision, numerics.precision) if numerics else "float32"
        return ModelInfo(name, found.fingerprint, precision, found.tap.name, longest, budget, _ranks(found))

    async def ranks(self, call: Call[Any]) -> bool:
        """Tell whether the encoder gives a score for a pair of texts, in place of a row for a text."""
        return _ranks(await self._embedder.usual_tap(self._embedder.name(call)))

    async def _embedded(
        self, call: Call[Any], inputs: Sequence[Any], settings: Settings, taps: Sequence[str] = (), *, wait: bool = False
    ) -> tuple[EmbedResult, Cost]:
        began, encoder = time.monotonic(), self._embedder.name(call)
        items = each(self.checked(inputs), _item)
        options, role = await self._embedder.prompt(encoder, settings.prompt_name or "")
        options |= await self._truncation(encoder, settings)
        result = await self._embedder.embed_taps(call, encoder, items, taps, options, role, wait=wait)
        return result, cost_of(result, sum(len(item.text) for item in items if isinstance(item, TextItem)), began)

    async def options(self, encoder: str, settings: Settings) -> dict[str, Any]:
        """The encoder's own options, of requests without a role."""
        named = {"prompt_name": settings.prompt_name} if settings.prompt_name else {}
        return {**named, **await self._truncation(encoder, settings)}

    async def _truncation(self, encoder: str, settings: Settings) -> dict[str, Any]:
        """The encoder's options that cut texts. One that cuts nothing, since it has no limit, is not asked to."""
        declared = request_options.declared_by(await self._embedder.spec(encoder))
        names = {field.name for field in dataclasses.fields(declared)}
        found: dict[str, Any] = {}
        if settings.truncate and "truncate" in names:
            found["truncate"] = True
            if settings.truncation_direction.lower() == "left":
                if "truncation_direction" not in names:
                    raise InvalidInput(
                        f"{encoder} cuts texts at their end, and truncation_direction is left",
                        remedy="leave truncation_direction out, or cut the texts before you send them",
                    )
                found["truncation_direction"] = "left"
        return found

    async def _token_tap(self, encoder: str) -> str:
        taps = await self._embedder.taps(encoder)
        of_tokens = [info.tap.name for info in taps if info.tap.granularity is Granularity.TOKEN]
        if taps and not of_tokens:
            raise NotReady(f"{encoder} has no rows of tokens", remedy="ask for /embed or Embed: a row a text")
        return of_tokens[0] if of_tokens and TOKENS not in of_tokens else TOKENS

    def checked(self, inputs: Sequence[T]) -> Sequence[T]:
        """The inputs. EmptyInput where there are none, InvalidInput where there are too many."""
        if not inputs:
            raise EmptyInput("there are no inputs", remedy="send at least one")
        if len(inputs) > self.config.max_items:
            raise InvalidInput(f"{len(inputs):,} inputs", remedy=f"send at most {self.config.max_items:,} at a time")
        return inputs


def ranks(scores: Array, most: int | None, texts: Sequence[str] | None) -> list[Rank]:
    """The `most` best of texts with their scores (texts,), the best first; with the texts themselves where they are given."""
    return [Rank(i, float(scores[i]), texts[i] if texts else None) for i in ranked(scores, most)]


def cost_of(result: EmbedResult, characters: int, began: float) -> Cost:
    """The cost of a request of so many characters that began at `began` in time.monotonic()."""
    return Cost(
        characters,
        result.cost,
        time.monotonic() - began,
        result.timings.preprocess,
        result.timings.queue,
        result.timings.compute,
        result.numerics.provider,
        result.taps[0].tap.fingerprint,
    )


def _ranks(usual: FingerprintedTap) -> bool:
    return usual.tap.dim == 1


def _item(given: str | list[int]) -> Item:
    return TextItem(given) if isinstance(given, str) else token_ids(given)


def _check_sizes(given: Sequence[str | Sequence[int]], what: str) -> None:
    size = sum(map(len, given))
    if size > MOST_TOKENIZED:
        raise InvalidInput(f"{size:,} {what} in one request", remedy=f"send at most {MOST_TOKENIZED:,} at a time")

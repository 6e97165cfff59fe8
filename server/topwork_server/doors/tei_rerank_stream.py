"""Ranks the texts of a stream of requests as one, as RerankStream of text-embeddings-inference does."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Sequence
from typing import Any

import msgspec
import numpy as np

from topwork_server.doors.calls import Call
from topwork_server.doors.ranking import Pair
from topwork_server.doors.tei import TeiCalls, cost_of, ranks
from topwork_server.doors.tei_messages import Cost, EmptyInput, Rank, RerankRequest
from topwork_server.errors import InvalidInput, TopworkError
from topwork_server.types import Array

#: Texts of one stream.
MOST_STREAMED = 1 << 16
#: What of a cost adds up.
SUMS = ("characters", "tokens", "tokenization", "queue", "inference")


class RerankStream:
    """Ranks texts that come one by one, each with its query: as many as one request may have are scored at a time. Whether scores
    are raw and texts are returned is as the first one's settings have it."""

    def __init__(self, calls: TeiCalls, call: Call[Any]) -> None:
        self._calls, self._call, self._began = calls, call, time.monotonic()
        self._settings: RerankRequest | None = None
        self._pairs: list[Pair] = []
        self._scores: list[Array] = []
        self._texts: list[str] = []
        self._costs: list[Cost] = []
        self._count = 0

    async def add(self, query: str, text: str, settings: RerankRequest) -> None:
        if self._settings is None:
            self._settings = settings
        elif len(self._pairs) == self._calls.config.max_items or settings.truncation != self._settings.truncation:
            await self._score()
            self._settings = msgspec.structs.replace(
                self._settings, truncate=settings.truncate, truncation_direction=settings.truncation_direction
            )
        self._pairs.append((query, text))
        if self._settings.return_text:
            self._texts.append(text)
        if self._count + len(self._pairs) > MOST_STREAMED:
            raise InvalidInput(f"more than {MOST_STREAMED:,} texts in one stream", remedy="rank them in several streams")

    async def finish(self) -> tuple[list[Rank], Cost]:
        """All texts with their scores, the best first, and what they cost together."""
        if self._settings is None:
            raise EmptyInput("there are no texts", remedy="send at least one")
        await self._score()
        return ranks(np.concatenate(self._scores), None, self._texts), _together(self._costs, self._began)

    async def _score(self) -> None:
        assert self._settings is not None
        began, pairs, self._pairs = time.monotonic(), self._pairs, []
        try:
            scored = await self._calls.score(self._call, pairs, self._settings, wait=True)
        except TopworkError as error:
            raise error if error.item is None else error.at(self._count + error.item) from None
        self._count += len(pairs)
        self._scores.append(scored.scores)
        self._costs.append(cost_of(scored.result, sum(len(query) + len(text) for query, text in pairs), began))


def _together(costs: Sequence[Cost], began: float) -> Cost:
    """The cost of requests of one encoder that make one, which began at `began`."""
    sums = {name: sum(getattr(cost, name) for cost in costs) for name in SUMS}
    return dataclasses.replace(costs[0], **{**sums, "total": time.monotonic() - began})

"""Scores pairs of texts with a cross-encoder, for all doors that rank."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from topwork_server.doors.calls import Call
from topwork_server.doors.embedding import Embedder, one_row_each
from topwork_server.errors import InvalidInput, NotReady
from topwork_server.features import EmbedResult
from topwork_server.types import Array, TextItem

#: A query and a document.
Pair = tuple[str, str]


@dataclass(frozen=True, slots=True)
class PairScores:
    """A score for each pair, (pairs,) float64, and what it was made of."""

    scores: Array
    result: EmbedResult

    @property
    def fingerprint(self) -> str:
        return self.result.taps[0].tap.fingerprint


class Ranker:
    """Scores pairs for doors."""

    def __init__(self, embedder: Embedder) -> None:
        self._embedder = embedder

    async def score(
        self,
        call: Call[Any],
        encoder: str,
        pairs: Sequence[Pair],
        options: Mapping[str, Any],
        *,
        tap: str = "",
        raw: bool = False,
        wait: bool = False,
    ) -> PairScores:
        """A score for each pair: the sigmoid of what the cross-encoder's head gives (0 to 1), or that itself where `raw`. `wait`
        waits for room in the encoder's queue. NotReady where the tap gives no single number."""
        items = [TextItem(query, document) for query, document in pairs]
        result = await self._embedder.embed_taps(call, encoder, items, (tap,) if tap else (), options, wait=wait)
        rows = one_row_each(result)
        if rows.tap.tap.dim != 1:
            raise NotReady(
                f"{encoder} ranks nothing: its tap {rows.tap.tap.name} gives {rows.tap.tap.dim} numbers for a pair of texts, not"
                " one",
                remedy="name a cross-encoder with one score as the model, or compare rows of /v1/embeddings",
            )
        logits = rows.rows[:, 0].astype(np.float64)
        return PairScores(logits if raw else np.exp(-np.logaddexp(0, -logits)), result)


def ranked(scores: Array, most: int | None) -> list[int]:
    """The positions of the best `most` scores, or of all of them, the best first; equal ones in their order. InvalidInput where
    `most` is less than 1."""
    if most is not None and most < 1:
        raise InvalidInput(f"top_n is {most}", remedy="ask for 1 or more, or leave it out")
    found: list[int] = np.argsort(-scores, kind="stable")[:most].tolist()
    return found

"""Items of a message that nobody knows yet go through their encoder: each content once, in one call a message."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Hashable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from topwork_server.errors import TopworkError
from topwork_server.feature_sets.set_types import SetDefinition
from topwork_server.inference.engine import EmbedParams, Engine
from topwork_server.ingest import deduplication, validation
from topwork_server.ingest.deduplication import DeduplicatedItems
from topwork_server.ingest.feature_cache import FeatureCache
from topwork_server.ingest.in_flight import Claim, InFlight
from topwork_server.types import Item, Priority


@dataclass(frozen=True, slots=True)
class EncodeParams:
    """For which set, until when (time.monotonic(), None for ever), whether a bad item is left out or ends it all, and which flow
    takes turns with others at the encoder, and how urgently."""

    definition: SetDefinition
    deadline: float | None
    skip_bad_items: bool
    client: Hashable = None
    priority: Priority = Priority.NORMAL

    def embed_params(self) -> EmbedParams:
        return EmbedParams(
            encoder=self.definition.encoder,
            taps=tuple(info.tap.name for info in self.definition.taps),
            options=self.definition.options,
            deadline=self.deadline,
            wait=True,
            skip_bad_items=self.skip_bad_items,
            client=self.client,
            priority=self.priority,
        )


class MessageEncoder:
    """All encoding for sets. On the event loop; `in_thread` runs what blocks."""

    def __init__(self, engine: Engine, cache: FeatureCache, in_thread: Callable[..., Coroutine[Any, Any, Any]]) -> None:
        self._engine, self._cache, self._in_thread = engine, cache, in_thread
        self._in_flight = InFlight()

    async def encode(
        self, items: Sequence[Item], deduplicated: DeduplicatedItems, params: EncodeParams
    ) -> tuple[int, dict[int, TopworkError]]:
        """Encode what is not known and not in the works. Gives how many items were, and the bad ones by position."""
        encoded, failures = 0, dict[int, TopworkError]()
        while missing := [i for i in deduplicated.missing_positions() if i not in failures]:
            keys = [deduplication.item_key(params.definition, deduplicated.content_hashes[i]) for i in missing]
            with self._in_flight.claim(missing, keys) as claim:
                if claim.owned:
                    await self._embed(claim, items, deduplicated, params)
            results = {i: future.result() for i, future in claim.futures.items()}
            encoded += sum(result is not None and result.error is None for result in results.values())
            for i, future in claim.others.items():
                results[i] = await asyncio.shield(future)  # of several who wait; None where its encoder gave up
            failures |= deduplicated.add_results(results)
            if failures and not params.skip_bad_items:  # of another stream, which skips: it is bad in this one too
                first = min(failures)
                raise failures[first].at(first)
        return encoded, failures

    async def _embed(self, claim: Claim, items: Sequence[Item], deduplicated: DeduplicatedItems, params: EncodeParams) -> None:
        """The items that were claimed, in one call; what comes of it is kept for other sets before it is written to this one, so
        that who is interrupted between the two need not encode again."""
        definition = params.definition
        with map_item_positions(claim.owned):
            features = await self._engine.embed(params.embed_params(), [items[i] for i in claim.owned])
        for found, info in zip(features.taps, definition.taps, strict=True):
            validation.check_fingerprint(found.tap.fingerprint, info, definition.name)
        for position, result in zip(claim.owned, deduplication.split_results(features), strict=True):
            claim.resolve(position, result)
        contents = [deduplicated.content_hashes[i] for i in claim.owned]
        await self._in_thread(deduplication.cache_features, self._cache, definition, contents, features)


@contextmanager
def map_item_positions(positions: Sequence[int]) -> Iterator[None]:
    """Errors that blame one of some items are said of its position among all."""
    try:
        yield
    except TopworkError as error:
        if error.item is None:
            raise
        raise error.at(positions[error.item]) from error

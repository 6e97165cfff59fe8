"""Encodes the items of a message that are not known yet: each content once, in one call per message.

Equal content that arrives on any stream while it is being encoded waits for the result.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Hashable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from topwork_server.access.passes import encoder_pass
from topwork_server.errors import TopworkError
from topwork_server.feature_sets.set_types import SetDefinition
from topwork_server.inference.engine import EmbedParams, Engine
from topwork_server.ingest import deduplication, validation
from topwork_server.ingest.deduplication import DeduplicatedItems, EncodeResult
from topwork_server.ingest.feature_cache import FeatureCache
from topwork_server.types import Item, Priority

#: None: the stream that was encoding it gave up.
PendingResult = asyncio.Future[EncodeResult | None]


@dataclass(slots=True)
class Claim:
    """Positions of some contents: `owned` are to be encoded by the claimer, `others` are being encoded already (also by itself,
    where a content is there twice)."""

    owned: list[int] = field(default_factory=list)
    others: dict[int, PendingResult] = field(default_factory=dict)
    futures: dict[int, PendingResult] = field(default_factory=dict)

    def resolve(self, position: int, result: EncodeResult) -> None:
        self.futures[position].set_result(result)


class InFlight:
    """Encodings in progress, by key of content and of all that decides its features. On the event loop."""

    def __init__(self) -> None:
        self._pending: dict[bytes, PendingResult] = {}

    @contextmanager
    def claim(self, positions: Sequence[int], keys: Sequence[bytes]) -> Iterator[Claim]:
        """Claim contents to encode. Streams that wait encode themselves what is not resolved when the context ends."""
        claim = Claim()
        for position, key in zip(positions, keys, strict=True):
            if key in self._pending:
                claim.others[position] = self._pending[key]
            else:
                self._pending[key] = claim.futures[position] = asyncio.get_running_loop().create_future()
                claim.owned.append(position)
        named = dict(zip(positions, keys, strict=True))
        try:
            yield claim
        finally:
            for position, future in claim.futures.items():
                del self._pending[named[position]]
                if not future.done():
                    future.set_result(None)


@dataclass(frozen=True, slots=True)
class EncodeParams:
    """The parameters of an encoding: for which set, until when (time.monotonic(), None for ever), whether a bad item is left
    out or ends it all, and which flow takes turns with others at the encoder, and how urgently."""

    definition: SetDefinition
    deadline: float | None
    skip_bad_items: bool
    client: Hashable = None
    priority: Priority = Priority.NORMAL

    def embed_params(self) -> EmbedParams:
        return EmbedParams(
            encoder=encoder_pass(self.definition.encoder),
            taps=tuple(info.tap.name for info in self.definition.taps),
            options=self.definition.options,
            deadline=self.deadline,
            wait=True,
            skip_bad_items=self.skip_bad_items,
            client=self.client,
            priority=self.priority,
        )


class MessageEncoder:
    """The encoder of all writes to sets. It runs on the event loop; `in_thread` runs what blocks."""

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
                results[i] = await asyncio.shield(future)  # of several that wait; None where its encoder gave up
            failures |= deduplicated.add_results(results)
            if failures and not params.skip_bad_items:  # of another stream, which skips: it is bad in this one too
                first = min(failures)
                raise failures[first].at(first)
        return encoded, failures

    async def _embed(self, claim: Claim, items: Sequence[Item], deduplicated: DeduplicatedItems, params: EncodeParams) -> None:
        """The items that were claimed, in one call; what comes of it is kept for other sets before it is written to this one, so
        that a caller that is interrupted between the two need not encode again."""
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
    """Map an error's item from a subset to its position among all items."""
    try:
        yield
    except TopworkError as error:
        if error.item is None:
            raise
        raise error.at(positions[error.item]) from error

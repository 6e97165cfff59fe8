"""What is being encoded now, of all streams: equal content that comes meanwhile waits for it, and is not encoded again."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from topwork_server.errors import TopworkError
from topwork_server.ingest.item_features import ItemFeatures
from topwork_server.types import Numerics


@dataclass(frozen=True, slots=True)
class EncodeResult:
    """One item's features, a piece a tap, and what computed them; or what is wrong with it."""

    features: tuple[ItemFeatures, ...] = ()
    numerics: Numerics | None = None
    error: TopworkError | None = None


#: None: whoever was encoding it gave up.
PendingResult = asyncio.Future[EncodeResult | None]


@dataclass(slots=True)
class Claim:
    """Of some contents: `mine` are positions of those to be encoded by who claims, `others` are in the works (also of his own,
    where a content is there twice)."""

    owned: list[int] = field(default_factory=list)
    others: dict[int, PendingResult] = field(default_factory=dict)
    futures: dict[int, PendingResult] = field(default_factory=dict)

    def resolve(self, position: int, result: EncodeResult) -> None:
        self.futures[position].set_result(result)


class InFlight:
    """By key of content and of all that decides its features. On the event loop."""

    def __init__(self) -> None:
        self._pending: dict[bytes, PendingResult] = {}

    @contextmanager
    def claim(self, positions: Sequence[int], keys: Sequence[bytes]) -> Iterator[Claim]:
        """What is not given when the context ends, others encode themselves."""
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

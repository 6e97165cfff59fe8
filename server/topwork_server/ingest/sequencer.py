"""The places of one stream's messages: work on them overlaps, and their writes keep the order of the stream."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence


class Sequencer:
    """Hands out places in the order in which it is asked. On the event loop."""

    def __init__(self) -> None:
        self._last: asyncio.Event | None = None
        self._claims: dict[str, SequencerSlot] = {}
        self.items = 0

    def next_slot(self, ids: Sequence[str]) -> SequencerSlot:
        """To be taken before anything is awaited."""
        self.items += len(ids)
        place = SequencerSlot(self._claims, ids, self._last, self.items)
        self._last = place.submitted
        return place


class SequencerSlot:
    """One message's. `watermark` counts the items of the stream up to and with it.

    A message that fails never says `submitted`: those behind it wait until their stream is cancelled, and write nothing.
    """

    def __init__(
        self, claims: dict[str, SequencerSlot], ids: Sequence[str], before: asyncio.Event | None, watermark: int
    ) -> None:
        self.watermark = watermark
        self.submitted = asyncio.Event()
        self._before = before
        self._done = asyncio.Event()
        self._claims, self._ids = claims, ids
        self._earlier = {claims[id] for id in ids if id in claims}
        claims.update(dict.fromkeys(ids, self))

    async def wait_for_earlier_ids(self) -> None:
        """Until earlier messages with any of these ids are done: only then does the set know what these ids hold."""
        for place in self._earlier:
            await place._done.wait()

    async def wait_for_turn(self) -> None:
        """Until the write of the message before was submitted."""
        if self._before:
            await self._before.wait()

    def release(self) -> None:
        """The message is done, or given up."""
        self._done.set()
        for id in self._ids:
            if self._claims.get(id) is self:
                del self._claims[id]

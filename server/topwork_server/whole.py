"""Work that is not left half done when its caller leaves."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")

log = logging.getLogger(__name__)


async def whole(work: Coroutine[Any, Any, T]) -> T:
    """Run it to its end, also where the caller leaves meanwhile: the caller's turn ends with the work."""
    task = asyncio.ensure_future(work)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait({task})
        if not task.cancelled() and (error := task.exception()):
            log.warning("what a caller began who has left failed: %s", error)
        raise

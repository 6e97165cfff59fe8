"""Work that is done on the event loop where there is little of it, and else in a thread: the loop goes on serving others."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")


async def in_thread_if(much: bool, work: Callable[P, T], *arguments: P.args, **named: P.kwargs) -> T:
    return await asyncio.to_thread(work, *arguments, **named) if much else work(*arguments, **named)

"""Samples of sound to windows, a block at a time, so that a long recording needs the memory of one window."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
from topwork_server import Array, InvalidInput


@dataclass(frozen=True, slots=True)
class Window:
    """Consecutive samples, (n,) float32, and the place of the first in the recording."""

    samples: Array
    start: int


class _Held:
    """Samples that were decoded and are still needed; `start` is the place of the first in the recording."""

    def __init__(self) -> None:
        self._blocks: list[Array] = []
        self._skipped = 0
        self.start, self.count = 0, 0

    def add(self, block: Array) -> None:
        skipped = min(self._skipped, len(block))
        self._skipped -= skipped
        self._blocks.append(block[skipped:])
        self.count += len(block) - skipped

    def first(self, count: int) -> Array:
        self._blocks = [np.concatenate(self._blocks)]
        return self._blocks[0][:count]

    def drop(self, count: int) -> None:
        """Drop as many of the first, and what is missing of them when it comes."""
        self._blocks = [self.first(self.count)[count:]]
        self.start, self._skipped = self.start + count, max(0, count - self.count)
        self.count = len(self._blocks[0])


def windows(blocks: Iterable[Array], length: int, stride: int, least: int, *, drop_last: bool = False) -> Iterator[Window]:
    """Windows of `length` samples that begin every `stride`, until every sample was in one (or between two).

    The last may be shorter; one of which fewer than `least` samples are new is left out, and so is with `drop_last` any that is
    not full, unless it is the only one. InvalidInput for a recording of fewer than `least` samples.
    """
    held, complete = _Held(), 0
    for block in blocks:
        held.add(block)
        while held.count >= length:
            yield Window(held.first(length), held.start)
            held.drop(stride)
            complete += 1
    new = held.count - (max(0, length - stride) if complete else 0)
    if not complete and new < least:
        raise InvalidInput(f"the recording has {new} samples, and {least} at least are needed", remedy="send a longer one")
    if not complete or (new >= least and not drop_last):
        yield Window(held.first(length), held.start)

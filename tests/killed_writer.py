"""A process that writes to the set `birds` until it is killed, and prints the number of each operation that was acknowledged.

    python -m killed_writer FOLDER FIRST

Operation n writes an item of its own, `own<n>`, and one that is written again and again, `i<n % 7>`; every fifth deletes
the latter.
"""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Iterable
from concurrent.futures import Future
from itertools import count
from pathlib import Path
from typing import Any

from passes import of_set
from sample_batches import POOLED, rows
from topwork_server.feature_sets.feature_set import FeatureSet
from topwork_server.feature_sets.set_registry import FeatureSets
from topwork_server.feature_sets.set_types import Column, ColumnType, ItemBatch

IN_FLIGHT = 4


def deletes(number: int) -> bool:
    return number % 5 == 4


def apply(birds: FeatureSet, number: int) -> Future[Any]:
    if deletes(number):
        return birds.delete([f"i{number % 7}"])
    taps = rows(POOLED, [1, 1])
    taps.rows[:] = number
    return birds.write(
        ItemBatch([f"own{number}", f"i{number % 7}"], (taps,), (Column("number", ColumnType.INT, [number, number]),))
    )


def state(numbers: Iterable[int]) -> dict[str, int]:
    """By id, the number of its last write, after those operations."""
    items: dict[str, int] = {}
    for number in numbers:
        if deletes(number):
            items.pop(f"i{number % 7}", None)
        else:
            items[f"own{number}"] = items[f"i{number % 7}"] = number
    return items


def main() -> None:
    birds = FeatureSets(Path(sys.argv[1])).get(of_set("birds"))
    waiting: deque[tuple[int, Future[Any]]] = deque()
    for number in count(int(sys.argv[2])):
        waiting.append((number, apply(birds, number)))
        if len(waiting) == IN_FLIGHT:
            first, future = waiting.popleft()
            future.result()
            print(first, flush=True)


if __name__ == "__main__":
    main()

"""The most that the machine could do: the same graph on the same device in a process of its own, and nothing else.

`best`, `rate`: samples are prepared before the clock starts, sorted by length, and cut into batches by the best of several
budgets. `single`: one item at a time, from the item to its row. `pipeline`: all items from the item to the row, prepared in
threads (as many as are best) while the session runs. `preparing`: the items' preprocessing alone. Run by the harness
(`benchmarks/processes.py`).
"""

from __future__ import annotations

import itertools
import os
import statistics
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from topwork_server.config import usable_cores
from topwork_server.models.artifacts import graph_for
from topwork_server.runtime.providers import PLAIN, Device
from topwork_server.runtime.session_factory import open_session
from topwork_server.types import Array, Sample

from benchmarks import models
from benchmarks.measure import rate
from benchmarks.processes import answerer, questions
from benchmarks.serving.parts import PARTS, wrapped
from benchmarks.serving.peers import Item, Rows

#: Times the encoder's own budget of a batch.
BUDGETS = (0.25, 0.5, 1.0, 2.0)
#: Items that the pipeline prepares before it sorts them and cuts its next batches.
CHUNK = 256


class Ceiling:
    """An encoder in process."""

    def __init__(self, encoder: str, part: str, items: list[Item], device: Device = PLAIN) -> None:
        entry, folder, self.encoder = models.opened(encoder)
        self._tap = [entry.spec.default_tap]
        self.session = open_session(graph_for(folder, self._tap, self._tap[0]), device, usable_cores())
        self.budget = self.encoder.budget
        self._items = [wrapped(item, part) for item in items]
        self._samples: list[Sample] = []
        self._threads = usable_cores()

    def rows(self, count: int) -> Rows:
        """Return the rows of the first items, one item at a time: (rows, dim)."""
        samples = [sample for item in self._items[:count] for sample in self._prepared(item)]
        return np.concatenate([self._run([sample]) for sample in samples]).astype(np.float32)

    def best(self, seconds: float) -> dict[str, float]:
        """Rows a second at each budget; the best is kept for `rate`."""
        found: dict[str, float] = {}
        for scale in BUDGETS:
            self.budget = max(1, int(self.encoder.budget * scale))
            found[str(self.budget)] = self.rate(seconds / len(BUDGETS))
        self.budget = int(max(found, key=lambda budget: found[budget]))
        speeds = {threads: self.preparing(seconds / 8, threads) for threads in {1, usable_cores()}}
        self._threads = max(speeds, key=lambda threads: speeds[threads])
        return found

    def rate(self, seconds: float) -> float:
        """Rows a second of prepared batches."""
        self._samples = self._samples or [sample for item in self._items for sample in self._prepared(item)]
        batches: list[tuple[int, Any]] = [(len(batch), self.encoder.collate(batch)) for batch in self._batches(self._samples)]
        # In any order, not by size: a short measurement sees all sizes.
        order: Iterator[int] = itertools.cycle(np.random.default_rng().permutation(len(batches)).tolist())

        def work() -> int:
            count, feeds = batches[next(order)]
            self._session_run(feeds)
            return count

        work()
        return rate(work, seconds)

    def single(self, seconds: float) -> dict[str, float]:
        """Medians in milliseconds of one item at a time: the session's alone, and from the item to its rows."""
        session, call, end = [], [], time.perf_counter() + seconds
        for item in itertools.cycle(self._items):
            began = time.perf_counter()
            computed = 0.0
            for sample in self._prepared(item):
                feeds = self.encoder.collate([sample])
                before = time.perf_counter()
                self._session_run(feeds)
                computed += time.perf_counter() - before
            call.append(time.perf_counter() - began)
            session.append(computed)
            if time.perf_counter() > end:
                break
        return {"session_ms": 1e3 * statistics.median(session), "call_ms": 1e3 * statistics.median(call)}

    def pipeline(self, seconds: float) -> float:
        """Rows a second, from items on."""
        began, count = time.perf_counter(), 0
        with ThreadPoolExecutor(self._threads) as pool:
            for chunk in self._chunks(pool, began + seconds):
                for batch in self._batches(chunk):
                    count += len(self._run(batch))
        return count / (time.perf_counter() - began)

    def preparing(self, seconds: float, threads: int = 0) -> float:
        """Rows a second of preprocessing alone."""
        began, count = time.perf_counter(), 0
        with ThreadPoolExecutor(threads or self._threads) as pool:
            for chunk in self._chunks(pool, began + seconds):
                count += len(chunk)
        return count / (time.perf_counter() - began)

    def _chunks(self, pool: ThreadPoolExecutor, end: float) -> Iterator[list[Sample]]:
        """Prepared samples, a chunk ahead of their reader."""
        size = min(CHUNK, max(2 * usable_cores(), len(self._items) // 4))
        waiting: list[Any] = []
        for start in itertools.count(0, size):
            items = [self._items[(start + i) % len(self._items)] for i in range(size)]
            share = -(-size // (2 * usable_cores()))
            waiting.append([pool.submit(self._prepare_all, items[i : i + share]) for i in range(0, size, share)])
            if len(waiting) > 1:
                yield [sample for future in waiting.pop(0) for sample in future.result()]
            if time.perf_counter() > end:
                return

    def _prepare_all(self, items: list[Any]) -> list[Sample]:
        found: list[Sample] = []
        for samples in self.encoder.preprocess_many(items, self.encoder.options()):
            if isinstance(samples, Exception):
                raise samples
            found += samples
        return found

    def _prepared(self, item: Any) -> list[Sample]:
        return list(self.encoder.preprocess(item, self.encoder.options()))

    def _batches(self, samples: list[Sample]) -> list[list[Sample]]:
        return models.batches_by_length(self.encoder, samples, self.budget)

    def _run(self, samples: list[Sample]) -> Array:
        return self._session_run(self.encoder.collate(samples))

    def _session_run(self, feeds: dict[str, Array]) -> Array:
        return self.session.run(self._tap, feeds)[0]


def device(name: str) -> Device:
    """ "openvino bf16" as a Device."""
    provider, _, precision = name.partition(" ")
    return Device(provider, precision or "fp32")


def main(part: str, device_name: str) -> int:
    answer = answerer()
    chosen = PARTS[part]
    ceiling: Ceiling | None = None
    for asked in questions():
        try:
            ceiling = ceiling or Ceiling(chosen.encoder, part, chosen.items(), device(device_name))
            answer(_answer(ceiling, asked))
        except Exception as error:
            answer(error)
    os._exit(0)  # nothing of the runtime's threads is waited for


def _answer(ceiling: Ceiling, asked: dict[str, Any]) -> Any:
    match asked["question"]:
        case "rows":
            np.save(asked["path"], rows := ceiling.rows(asked["count"]))
            return list(rows.shape)
        case "best" | "rate" | "single" | "pipeline" | "preparing" as name:
            return getattr(ceiling, name)(asked["seconds"])
        case other:
            raise ValueError(f"no question {other}")


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))

"""Clients that write, delete and search while their server is killed, and that know what must be true afterwards."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import topwork
from topwork import Client, Unavailable

SET, DIM, IDS = "crash", 16, 400


def vector(item: str, value: int) -> Any:
    """(DIM,) float32, another for each value of each item."""
    number = int(item.rpartition("-")[2])
    return np.random.default_rng([number, value]).standard_normal(DIM).astype(np.float32)


def write(client: Client, values: Mapping[str, int]) -> None:
    vectors = np.stack([vector(item, value) for item, value in values.items()])
    client.write(SET, vectors=vectors, ids=list(values), metadata=[{"value": value} for value in values.values()])


@dataclass
class Unsure:
    """A request that was not answered: all of it happened, or nothing of it. None stands for an item that is not there."""

    before: dict[str, int | None]
    after: dict[str, int | None]


@dataclass
class Writer:
    """One client's part of the set: nobody else writes its ids. `sure` is what was acknowledged."""

    number: int
    rng: np.random.Generator
    sure: dict[str, int | None] = field(default_factory=dict)
    unsure: Unsure | None = None
    failure: BaseException | None = None
    writes: int = 0
    deletes: int = 0
    searches: int = 0
    has_done_all: threading.Event = field(default_factory=threading.Event)

    def work(self, address: str, stop: threading.Event) -> None:
        """Until the server is gone, or `stop` is set."""
        try:
            with Client(address, retry_for=0, timeout=60) as client:
                while not stop.is_set():
                    self._step(client)
        except Unavailable:
            pass
        except topwork.errors.Cancelled:
            pass
        except BaseException as error:
            self.failure = error

    def _step(self, client: Client) -> None:
        kind = self.rng.random()
        if kind < 0.6:
            self._write(client)
        elif kind < 0.75:
            self._delete(client)
        else:
            self._search(client)
        if self.writes and self.deletes and self.searches:
            self.has_done_all.set()

    def _write(self, client: Client) -> None:
        chosen = self._some()
        values: dict[str, int] = {item: int(self.rng.integers(1 << 30)) for item in chosen}
        self.unsure = Unsure({item: self.sure.get(item) for item in chosen}, dict(values))
        write(client, values)
        self._settle()
        self.writes += 1

    def _delete(self, client: Client) -> None:
        chosen = self._some()
        self.unsure = Unsure({item: self.sure.get(item) for item in chosen}, dict.fromkeys(chosen))
        client.delete(SET, chosen)
        self._settle()
        self.deletes += 1

    def _settle(self) -> None:
        assert self.unsure
        self.sure |= self.unsure.after
        self.unsure = None

    def _search(self, client: Client) -> None:
        """What was acknowledged is found by the next search, and what was deleted is not."""
        alive = [item for item, value in self.sure.items() if value is not None]
        if not alive:
            return
        item = alive[int(self.rng.integers(len(alive)))]
        value = self.sure[item]
        assert value is not None
        hits = client.search(SET, vectors=vector(item, value), k=5)
        assert hits.ids[0] == item, f"{item} was acknowledged with {value} and not found: {hits.ids}"
        gone = {name for name, now in self.sure.items() if now is None} & set(hits.ids)
        assert not gone, f"{gone} were deleted and found"
        self.searches += 1

    def _some(self) -> list[str]:
        count = int(self.rng.integers(1, 40))
        numbers = self.rng.choice(IDS, count, replace=False)
        return [f"w{self.number}-{number}" for number in numbers]

    def check(self, found: Mapping[str, int]) -> None:
        """Compare with what the set holds of this writer after a restart; what it holds of an unanswered request is sure now."""
        unsure = self.unsure
        for item, value in self.sure.items():
            if unsure is None or item not in unsure.before:
                assert found.get(item) == value, f"{item}: acknowledged {value}, found {found.get(item)}"
        if unsure:
            held = {item: found.get(item) for item in unsure.before}
            assert held in (unsure.before, unsure.after), f"half of an unanswered request is there: {_differing(held, unsure)}"
            self.sure |= held
            self.unsure = None
        strangers = {item for item in found if item.startswith(f"w{self.number}-")} - set(self.sure)
        assert not strangers, f"never written: {strangers}"


def _differing(held: Mapping[str, int | None], unsure: Unsure) -> Iterable[str]:
    return [f"{item}: {unsure.before[item]} -> {unsure.after[item]}, held {value}" for item, value in held.items()]

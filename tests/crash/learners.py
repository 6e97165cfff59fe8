"""A client that trains small heads while its server is killed, and that knows what must be true afterwards."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import topwork
from topwork import Client, HeadInfo, JobFailed, Unavailable

SET, DIM, ITEMS, CLASSES = "training-items", 8, 30, ("emu", "owl", "wren")
NAMES, KINDS = ("one", "two", "three"), ("prototype", "linear")


def rows() -> Any:
    """(ITEMS, DIM) float32, whose classes nobody can mistake."""
    noise = np.random.default_rng(0).normal(scale=0.01, size=(ITEMS, DIM))
    return (noise + 5 * np.eye(DIM)[np.arange(ITEMS) % len(CLASSES)]).astype(np.float32)


def labels() -> list[str]:
    return [CLASSES[i % len(CLASSES)] for i in range(ITEMS)]


def write(client: Client) -> None:
    client.write(SET, vectors=rows(), ids=[f"item-{i}" for i in range(ITEMS)], metadata={"label": labels()})


@dataclass
class Learner:
    """Trains a few names again and again, and drops some. `ready` are those that serve whatever happens: acknowledged, and not
    asked to go since; `gone` those that were dropped."""

    rng: np.random.Generator
    ready: dict[str, HeadInfo] = field(default_factory=dict)
    gone: set[str] = field(default_factory=set)
    unsure: str = ""  # being dropped
    failure: BaseException | None = None
    trained: int = 0
    has_trained: threading.Event = field(default_factory=threading.Event)
    dropped: int = 0

    def work(self, address: str, stop: threading.Event) -> None:
        """Until the server is gone, or `stop` is set."""
        try:
            with Client(address, retry_for=0, timeout=60) as client:
                while not stop.is_set():
                    self._step(client)
        except (Unavailable, topwork.errors.Cancelled):
            pass
        except BaseException as error:
            self.failure = error

    def _step(self, client: Client) -> None:
        name = str(self.rng.choice(NAMES))
        if name in self.ready and self.rng.random() < 0.2:
            self._drop(client, name)
            return
        self.gone.discard(name)
        kind = str(self.rng.choice(KINDS))
        try:
            self.ready[name] = client.train(SET, target="label", name=name, kind=kind, replace=True)
        except JobFailed as error:
            raise AssertionError(f"{name}: {error}") from error
        self.trained += 1
        self.has_trained.set()

    def _drop(self, client: Client, name: str) -> None:
        self.unsure = name
        del self.ready[name]
        client.drop_head(name)
        self.unsure = ""
        self.gone.add(name)
        self.dropped += 1

    def check(self, client: Client, home: Path) -> None:
        """After a restart: every head is whole and right, or is reported as failed; nothing else is left."""
        found = {head.name: head for head in client.heads()}
        lost = set(self.ready) - {name for name, head in found.items() if head.state == "ready"}
        assert not lost, f"acknowledged, and gone: {[(name, found.get(name)) for name in lost]}"
        assert not self.gone & set(found), f"dropped, and there: {self.gone & set(found)}"
        for head in found.values():
            assert head.state in ("ready", "failed"), f"{head} is not reported truthfully: nothing trains it"
            assert head.state == "ready" or "the server ended while it ran" in head.detail, head
            assert head.job is None or not head.job.running, head
        whole = [head for head in found.values() if head.state == "ready"]
        for head in whole:
            self._check_whole(client, head)
        held = {pin for version in client.versions(SET) for pin in version.pins}
        assert held == {f"head-{head.name}" for head in whole}, "pins were left behind, or are missing"
        leftovers = [*(home / "heads").glob("**/.*.part"), *(home / "trainings").glob("*.part")]
        assert not leftovers, leftovers
        self.ready, self.unsure = {head.name: head for head in whole}, ""

    def _check_whole(self, client: Client, head: HeadInfo) -> None:
        before = self.ready.get(head.name)
        assert before is None or head.created is None or before.created is None or head.created >= before.created, "an older one"
        predictions = client.predict(head.name, vectors=rows())
        assert predictions.labels == labels(), head
        assert client.report(head.name).labeled == ITEMS, head

"""Every verb on a set or an index that other callers drop and make meanwhile: answered, and with a status that says so."""

from __future__ import annotations

import re
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import real_server
import topwork
from topwork_server.plugin_api.plugin_registry import PluginRegistry
from toys import FakePlugins

ROWS = np.random.default_rng(0).normal(size=(40, 8)).astype(np.float32)
IDS = [f"r{i}" for i in range(40)]
LABELS = [{"label": "even" if i % 2 == 0 else "odd"} for i in range(40)]
Verbs = dict[str, Callable[[topwork.Client], Any]]
#: Rounds of dropping and making, and of each verb at least.
ROUNDS = 8
#: A call that has no answer after so many seconds will never have one.
SECONDS = 60.0
#: What a caller may be told of a thing that another caller drops or makes at the same time.
TRUE = (topwork.NotFound, topwork.AlreadyExists)


class OnlyRealKinds(FakePlugins):
    """No encoder: the sets are of ready vectors. Jobs find the kinds by themselves, in their own processes."""

    real = PluginRegistry.load()

    def indexes(self) -> Any:
        return self.real.indexes()

    def index(self, kind: str) -> Any:
        return self.real.index(kind)

    def trainers(self) -> Any:
        return self.real.trainers()

    def trainer(self, kind: str) -> Any:
        return self.real.trainer(kind)


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with real_server.served(tmp_path_factory.mktemp("home"), OnlyRealKinds()) as address:
        yield address


class Callers:
    """Threads that each call one verb again and again until the droppers are done; what they were told."""

    def __init__(self, target: str) -> None:
        self.target = target
        self.told: Counter[str] = Counter()
        self.wrong: list[str] = []
        self.done = threading.Event()

    def call(self, name: str, verb: Callable[[], Any]) -> None:
        try:
            verb()
            self.told[f"{name} OK"] += 1
        except TRUE as error:
            self.told[f"{name} {type(error).__name__}"] += 1
            if "/" in re.sub(r"birds/\S*", "", str(error)):
                self.wrong.append(f"{name}: a path in {error}")
        except BaseException as error:
            self.wrong.append(f"{name}: {type(error).__name__}: {error}")

    def repeat(self, verbs: Verbs) -> None:
        with topwork.Client(self.target, retry_for=0, timeout=SECONDS) as client:
            while not self.done.is_set():
                for name, verb in verbs.items():
                    self.call(name, lambda verb=verb: verb(client))

    def run(self, groups: list[Verbs], cycle: Verbs) -> None:
        threads = [threading.Thread(target=self.repeat, args=(group,)) for group in groups]
        for thread in threads:
            thread.start()
        try:
            with topwork.Client(self.target, retry_for=0, timeout=SECONDS) as client:
                for _ in range(ROUNDS):
                    for name, verb in cycle.items():
                        self.call(f"cycle {name}", lambda verb=verb: verb(client))
        finally:
            self.done.set()
            for thread in threads:
                thread.join()


def write(client: topwork.Client) -> None:
    client.write("birds", vectors=ROWS, ids=IDS, metadata=LABELS)


SETS: Verbs = {
    "write": write,
    "set": lambda c: c.set("birds"),
    "sets": lambda c: c.sets(),
    "read": lambda c: c.read("birds"),
    "delete": lambda c: c.delete("birds", where="id > 'r9'"),
    "delete ids": lambda c: c.delete("birds", ids=IDS[:3]),
}
VERSIONS: Verbs = {
    "versions": lambda c: c.versions("birds"),
    "pin": lambda c: c.pin("birds", "kept"),
    "unpin": lambda c: c.unpin("birds", "kept"),
    "prune": lambda c: c.prune("birds", older_than=0),
}
METADATA: Verbs = {
    "count": lambda c: c.count("birds", "id > 'r2'"),
    "update": lambda c: c.update("birds", IDS[:2], {"seen": 1}),
    "add column": lambda c: c.add_column("birds", "more", "int"),
    "rename column": lambda c: c.rename_column("birds", "more", "most"),
    "drop column": lambda c: c.drop_column("birds", "most"),
}
INDEXES: Verbs = {
    "create": lambda c: c.create_index("birds", kind="flat", wait=False),
    "rebuild": lambda c: c.rebuild_index("birds", wait=False),
    "index": lambda c: c.index("birds"),
    "indexes": lambda c: c.indexes("birds"),
    "all indexes": lambda c: c.indexes(),
}
SEARCHES: Verbs = {
    "search": lambda c: c.search("birds", vectors=ROWS[:2], k=3),
    "search where": lambda c: c.search("birds", vectors=ROWS[:2], k=3, where="id > 'r2'", with_vectors=True),
    "search ids": lambda c: c.search("birds", stored=IDS[10:12], k=3),
    "drop index": lambda c: c.drop_index("birds", "vectors"),
}


def test_a_set_that_is_dropped(target):
    callers = Callers(target)
    cycle = {"write": write, "create": INDEXES["create"], "drop": lambda client: client.drop_set("birds")}
    callers.run([SETS, VERSIONS, METADATA, INDEXES, INDEXES, SEARCHES], cycle)
    assert not callers.wrong
    assert {name for name in callers.told if name.startswith("cycle drop")} == {"cycle drop OK"}


def test_a_training_whose_set_was_dropped_and_made_again_says_so(target):
    """Two of a kind: the second waits for the first, so that its set is dropped before it reads."""
    with topwork.Client(target, retry_for=0, timeout=SECONDS) as client:
        write(client)
        many = np.random.default_rng(0).normal(size=(4000, 64)).astype(np.float32)
        client.write("fish", vectors=many, ids=range(4000), metadata=[{"label": str(i % 9)} for i in range(4000)])
        first = client.train("fish", target="label", kind="mlp", name="first", replace=True, wait=False)
        second = client.train("birds", target="label", kind="mlp", name="second", replace=True, wait=False)
        assert second.job.state == "waiting"
        client.drop_set("birds")
        write(client)
        client.cancel_job(first.job.id)
        *_, ended = client.watch_job(second.job.id)
        assert ended.state == "failed"
        assert "the feature set 'birds' was dropped" in ended.error
        assert "/" not in ended.error
        client.drop_head("second")

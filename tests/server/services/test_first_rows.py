"""A new set: it is not seen before its first rows, and many may write the first rows at once."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import real_server
import topwork
from toys import FakePlugins

ROWS = np.random.default_rng(0).normal(size=(6, 8)).astype(np.float32)
WRITERS = 6


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="module")
def target(home: Path) -> Iterator[str]:
    with real_server.served(home, FakePlugins()) as address:
        yield address


def write(client: topwork.Client, name: str, writer: int = 0) -> None:
    ids = [f"{writer}-{i}" for i in range(len(ROWS))]
    client.write(name, vectors=ROWS, ids=ids, metadata=[{"label": "x"}] * len(ROWS))


class Watcher:
    """Asks for sets again and again until it is stopped; what was seen that no caller should see."""

    def __init__(self, target: str, names: list[str]) -> None:
        self.wrong: list[str] = []
        self._names, self._target = names, target
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Watcher:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()

    def _run(self) -> None:
        with topwork.Client(self._target, retry_for=0) as client:
            while not self._done.is_set():
                self.wrong += [f"{one.name} is empty" for one in client.sets() if not one.items]
                for name in self._names:
                    self._ask(name, lambda name=name: client.read(name, where="label = 'x'").ids)

    def _ask(self, name: str, call: Callable[[], list[str]]) -> None:
        try:
            if not call():
                self.wrong.append(f"{name} has no rows")
        except topwork.NotFound as error:
            if f"did you mean {name}?" in error.remedy or f" {name} or" in error.remedy:
                self.wrong.append(f"{name}: {error}")


def test_a_set_is_seen_with_its_first_rows(target: str) -> None:
    names = [f"shelf-{i}" for i in range(8)]
    with Watcher(target, names) as watcher, topwork.Client(target) as client:
        for name in names:
            write(client, name)
    assert not watcher.wrong


def test_many_first_writes_at_once(target: str) -> None:
    start = threading.Barrier(WRITERS)

    def first(writer: int) -> None:
        with topwork.Client(target) as client:
            client.sets()
            start.wait()
            write(client, "crowd", writer)

    with ThreadPoolExecutor(WRITERS) as pool, Watcher(target, ["crowd"]) as watcher:
        list(pool.map(first, range(WRITERS)))
    assert not watcher.wrong
    with topwork.Client(target) as client:
        assert sorted(client.read("crowd").ids) == sorted(f"{w}-{i}" for w in range(WRITERS) for i in range(len(ROWS)))


def test_first_rows_that_are_refused_leave_nothing(target: str, home: Path) -> None:
    with topwork.Client(target) as client:
        with pytest.raises(topwork.InvalidInput):
            client.write("refused", vectors=np.full((2, 8), np.nan, np.float32), ids=["a", "b"])
        with pytest.raises(topwork.NotFound):
            client.set("refused")
    assert not [path for path in (home / "sets").iterdir() if path.name.startswith(".")]


@pytest.mark.parametrize("make", [lambda path: path.write_bytes(b""), os.mkfifo, lambda path: path.symlink_to("nowhere")])
def test_what_is_in_the_way_of_a_set_is_named(make: Callable[[Path], None], target: str, home: Path) -> None:
    path = home / "sets" / "blocked.lance"
    make(path)
    with topwork.Client(target) as client:
        for call in (lambda: write(client, "blocked"), lambda: client.read("blocked"), lambda: client.drop_set("blocked")):
            with pytest.raises(topwork.NotReady) as caught:
                call()
            assert str(path) in caught.value.message
        path.unlink()
        write(client, "blocked")
        client.drop_set("blocked")

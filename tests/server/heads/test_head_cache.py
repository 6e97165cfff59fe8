"""Heads in memory follow the store."""

from __future__ import annotations

import threading
from dataclasses import dataclass

import numpy as np
import pytest
import sample_heads
from topwork_server.errors import NotReady
from topwork_server.heads.head_store import HeadStore
from topwork_server.heads.serving.head_cache import HeadCache

ROWS = np.random.default_rng(0).normal(size=(5, 4)).astype(np.float32)


@dataclass
class Clock:
    now: float = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def store(tmp_path):
    return HeadStore(tmp_path / "heads")


def publish(store, name="birds", seed=0, **fields):
    head = sample_heads.head(name, **fields)
    store.publish(head, sample_heads.graph(head, seed), None)
    return head


def finder(store, name="birds"):
    return lambda: store.find(name)


def expected(seed=0):
    weight, bias = sample_heads.numbers(sample_heads.head(), seed)
    return ROWS @ weight.T + bias


def test_a_head_that_is_replaced_serves_at_once_and_a_holder_of_the_old_one_keeps_it(store):
    publish(store)
    live = HeadCache()
    old = live.open(finder(store))
    publish(HeadStore(store.folder), seed=1)
    new = live.open(finder(store))
    np.testing.assert_allclose(new.predict(ROWS)[0], expected(1), rtol=1e-5)
    np.testing.assert_allclose(old.predict(ROWS)[0], expected(0), rtol=1e-5)
    assert live.names() == ["birds"]


def test_what_is_long_unused_is_dropped_without_another_call(store):
    publish(store)
    clock = Clock()
    live = HeadCache(clock=clock)
    live.open(finder(store))
    live.drop_idle()
    assert live.names() == ["birds"]
    clock.now = 1000.0
    live.drop_idle()
    assert live.names() == []


def test_a_head_that_is_replaced_while_it_is_opened(store):
    publish(store)
    looks = []

    def find():
        looks.append(store.find("birds"))
        if len(looks) == 1:
            publish(store, seed=1)
        return looks[-1]

    np.testing.assert_allclose(HeadCache().open(find).predict(ROWS)[0], expected(1), rtol=1e-5)


def test_idle_heads_are_closed(store):
    publish(store)
    publish(store, "fish")
    clock = Clock()
    live = HeadCache(idle_seconds=10, clock=clock)
    first = live.open(finder(store))
    clock.now = 9
    assert live.open(finder(store)) is first
    live.open(finder(store, "fish"))
    clock.now = 18
    live.open(finder(store, "fish"))
    assert sorted(live.names()) == ["birds", "fish"]
    clock.now = 20
    live.open(finder(store, "fish"))
    assert live.names() == ["fish"]


def test_damaged_graphs_are_named(store):
    publish(store)
    graph = store.graph("birds")
    graph.write_bytes(b"no graph")
    with pytest.raises(NotReady, match=r"head\.onnx is not the file that was written"):
        HeadCache().open(finder(store))
    graph.unlink()
    with pytest.raises(NotReady, match="is gone"):
        HeadCache().open(finder(store))


def test_threads_share_a_head(store):
    publish(store)
    live, errors = HeadCache(), []

    def one():
        try:
            np.testing.assert_allclose(live.open(finder(store)).predict(ROWS)[0], expected(), rtol=1e-5)
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=one) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []

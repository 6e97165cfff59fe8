"""Heads of ready vectors, through the client and a real server: what a data scientist brings along."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import real_server
import topwork
from topwork_server.plugins import Plugins


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[topwork.Client]:
    with real_server.served(tmp_path_factory.mktemp("home"), Plugins.load()) as address, topwork.Client(address) as client:
        yield client


def test_copies_in_other_bytes_do_not_tell_their_labels(client: topwork.Client) -> None:
    """60 vectors with random labels, each written twice: as it is, in float16, or multiplied."""
    random = np.random.default_rng(0)
    once, labels = random.normal(size=(60, 32)).astype(np.float32), random.integers(0, 3, 60).astype(str).tolist()
    twice = once.copy()
    twice[20:40] = once[20:40].astype(np.float16)
    twice[40:] = 2.5 * once[40:]
    rows = [{"label": label} for label in labels * 2]
    client.write("copies", vectors=np.concatenate([once, twice]), ids=[f"c{i}" for i in range(120)], metadata=rows)
    head = client.train("copies", target="label", kind="knn", options={"k": 5})
    assert head.metric is not None
    assert head.metric.value < 0.55
    assert "60 groups" in head.estimate


def test_numbers_keep_their_digits_whatever_their_offset(client: topwork.Client) -> None:
    """1e9 + x has seven digits before the first that float32 cannot hold."""
    random = np.random.default_rng(0)
    rows = random.normal(size=(120, 6)).astype(np.float32)
    numbers = 1e9 + rows @ np.arange(1.0, 7.0) + 0.1 * random.normal(size=120)
    metadata = [{"number": float(number)} for number in numbers]
    client.write("numbers", vectors=rows, ids=[f"n{i}" for i in range(120)], metadata=metadata)
    head = client.train("numbers", target="number")
    assert head.metric is not None
    assert (head.metric.name, head.metric.value > 0.99) == ("R2", True)
    found = client.predict(head.name, vectors=rows)
    assert found.values is not None
    assert found.values.dtype == np.float64
    np.testing.assert_allclose(found.values, numbers, rtol=0, atol=0.6)
    assert 0.05 < found.interval < 0.6
    assert str(found[0]).startswith(f"{numbers[0]:.0f}"[:9])
    [worst] = client.report(head.name).wrong[:1]
    assert worst.truth != worst.predicted

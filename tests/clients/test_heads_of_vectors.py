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

"""The parts of the peers that need no peer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from benchmarks.serving.peers import environments, found
from benchmarks.serving.peers.framing import pack, rows_of, unpack
from benchmarks.serving.peers.http_peer import HttpPeer
from benchmarks.serving.peers.servers.handler import PADDING, ByLength


def test_items_and_rows_come_back_as_they_were() -> None:
    assert list(unpack(pack(["größe", b"", b"\x00\xff"]))) == ["größe".encode(), b"", b"\x00\xff"]
    rows = np.arange(6, dtype=np.float32).reshape(2, 3)
    assert np.array_equal(rows_of(rows.tobytes(), 2), rows)


def test_groups_of_like_length_pad_little_and_give_rows_in_the_order_of_items() -> None:
    lengths = np.random.default_rng(0).permutation(np.r_[np.full(40, 10), np.full(20, 11), np.full(4, 500)])
    groups: list[list[int]] = []

    def handler(items: Sequence[bytes]) -> Any:
        groups.append([len(item) for item in items])
        return np.array([[len(item)] for item in items], np.float32)

    rows = ByLength(handler)([b"x" * length for length in lengths])
    assert rows[:, 0].tolist() == lengths.tolist()
    assert len(groups) == 2
    assert all(sum(group) >= (1 - PADDING) * len(group) * max(group) for group in groups)


@pytest.mark.parametrize("kind", [kind for kind in found().values() if issubclass(kind, HttpPeer)], ids=lambda kind: kind.name)
def test_every_peer_names_an_environment_that_is_made_for_it(kind: type[HttpPeer]) -> None:
    pinned = {wanted.partition("==")[0].partition("[")[0] for wanted in environments.REQUIREMENTS[kind.environment]}
    assert kind.packages[0] in pinned

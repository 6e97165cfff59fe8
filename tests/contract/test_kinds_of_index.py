"""The contract over every kind of index that is registered, and some that are adopted."""

from __future__ import annotations

from topwork_server.plugins import Plugins
from topwork_server.testing_indexes import IndexContract


class TestFlat(IndexContract):
    kind = "flat"


class TestHnsw(IndexContract):
    kind = "hnsw"


class TestIvf(IndexContract):
    kind = "ivf"


class TestIvfSq8(IndexContract):
    kind = "ivf-sq8"


class TestIvfPq(IndexContract):
    kind = "ivf-pq"


class TestFactoryString(IndexContract):
    kind = "IVF16,Flat"


class TestFactoryStringWithARotation(IndexContract):
    kind = "RR32,HNSW16"


def test_every_registered_kind_is_held_to_it() -> None:
    registered = set(Plugins.load().indexes())
    assert "flat" in registered
    assert registered <= {contract.kind for contract in IndexContract.__subclasses__()}

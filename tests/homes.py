"""A home that holds one of everything a server keeps, made once with toys, and served from copies that a test may damage."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import grpc
import numpy as np
import pytest
import real_server
import sets_harness
import topwork
from grpc_health.v1 import health_pb2, health_pb2_grpc
from heads_harness import words
from topwork_server.models.catalog import Catalog
from topwork_server.plugin_api.plugin_registry import PluginRegistry, Registered, RegisteredIndex, RegisteredTrainer
from topwork_server.plugin_api.sources import SourceUri
from topwork_server.plugin_api.trainer import TrainerSpec
from topwork_server.plugin_api.vector_index import IndexSpec
from toys import FakePlugins, letters_spec

TEXTS, LABELS = words(24)
FISH = np.arange(12, dtype=np.float32).reshape(4, 3)


class HomePlugins(FakePlugins):
    """Toy encoders, the real indexes and trainers, and a family that reads every file as letters."""

    def resolve_source(self, name: str, source: SourceUri) -> Registered | None:
        return Registered(replace(letters_spec(name, seed=3), source=str(source)), "tests", "tests")

    def indexes(self) -> dict[str, RegisteredIndex]:
        return PluginRegistry.load().indexes()

    def index(self, kind: str) -> IndexSpec:
        return PluginRegistry.load().index(kind)

    def trainers(self) -> dict[str, RegisteredTrainer]:
        return PluginRegistry.load().trainers()

    def trainer(self, kind: str) -> TrainerSpec:
        return PluginRegistry.load().trainer(kind)


def plugins() -> HomePlugins:
    return HomePlugins(sets_harness.SPECS)


def fill(home: Path) -> None:
    """Encoders `letters`, `second` and `pulled`; sets `birds` (with a pin, a deletion, an index and a head) and `fish`."""
    sets_harness.export(home)
    weights = home.parent / "weights.bin"
    weights.write_bytes(b"weights")
    Catalog(plugins(), home).add(f"file:{weights}", "pulled")  # type: ignore[arg-type]
    with served(home) as client:
        client.write("birds", TEXTS, [f"b{i}" for i in range(24)], [{"label": label} for label in LABELS], encoder="letters")
        client.pin("birds", "first")
        client.delete("birds", ids=["b0"])
        client.write("fish", vectors=FISH, ids=["a", "b", "c", "d"])
        client.create_index("birds", kind="flat")
        client.train("birds", target="label", kind="prototype", name="kinds")
        client.search("birds", TEXTS[:1], k=3)


@contextmanager
def served(home: Path) -> Iterator[topwork.Client]:
    with real_server.served(home, plugins()) as address, topwork.Client(address) as client:
        yield client


def copied(home: Path, place: Path) -> Path:
    """A home of the test's own. Lance's names of sets and heads' paths are relative to it, or not looked at."""
    shutil.rmtree(place, ignore_errors=True)
    return Path(shutil.copytree(home, place, symlinks=True))


def lost(call: Callable[[], object]) -> topwork.DataLoss:
    """The DATA_LOSS that a call ends with."""
    with pytest.raises(topwork.DataLoss) as caught:
        call()
    return caught.value


def serving(client: topwork.Client, service: str) -> bool:
    """Ask health whether a service, an encoder, a set or an index is SERVING."""
    with grpc.insecure_channel(client._connection.target) as channel:
        question = health_pb2.HealthCheckRequest(service=service)
        return bool(health_pb2_grpc.HealthStub(channel).Check(question).status == health_pb2.HealthCheckResponse.SERVING)

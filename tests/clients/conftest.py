"""A small server that answers like Topwork's, over real gRPC, and both clients behind one factory."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest
import topwork
from both_clients import ClientFactory, EitherClient
from fake_server import FakeServer
from topwork._transport import retry


@pytest.fixture
def server() -> Iterator[FakeServer]:
    with FakeServer() as server:
        yield server


@pytest.fixture
def client(server: FakeServer) -> Iterator[topwork.Client]:
    with topwork.Client(server.target) as client:
        yield client


@pytest.fixture(params=["Client", "AsyncClient"])
def factory(request: pytest.FixtureRequest, server: FakeServer, runner: asyncio.Runner) -> Iterator[ClientFactory]:
    factory = ClientFactory(request.param == "AsyncClient", server.target, runner)
    yield factory
    factory.close()


@pytest.fixture
def both(factory: ClientFactory) -> EitherClient:
    """The client of either kind with its default settings."""
    return factory.open()


@pytest.fixture(scope="session")
def real_target(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a real server with toy encoders and the packaged indexes and trainers: one for all tests of a worker."""
    import real_server  # it loads the server, which most tests of the client do without

    with real_server.with_toys(tmp_path_factory) as address:
        yield address


@pytest.fixture
def real_client(real_target: str) -> Iterator[topwork.Client]:
    with topwork.Client(real_target) as client:
        yield client
        _empty(client)


@pytest.fixture(params=["Client", "AsyncClient"])
def real_both(request: pytest.FixtureRequest, real_target: str, runner: asyncio.Runner) -> Iterator[EitherClient]:
    """The client of either kind on a real server."""
    factory = ClientFactory(request.param == "AsyncClient", real_target, runner)
    client = factory.open()
    yield client
    _empty(client)
    factory.close()


def _empty(client: Any) -> None:
    for head in client.heads():
        client.drop_head(head.name)
    for info in client.sets():
        client.drop_set(info.name)


@pytest.fixture
def _briskly(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tries follow each other without the pauses that a server needs."""
    monkeypatch.setattr(retry, "FIRST_PAUSE", 0.01)
    monkeypatch.setattr(retry, "LONGEST_PAUSE", 0.02)

"""A small server that answers like Topwork's, over real gRPC, and both clients behind one door."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest
import topwork
from doors import Door, OpenDoor
from fake_server import FakeServer


@pytest.fixture
def server() -> Iterator[FakeServer]:
    with FakeServer() as server:
        yield server


@pytest.fixture
def client(server: FakeServer) -> Iterator[topwork.Client]:
    with topwork.Client(server.target) as client:
        yield client


@pytest.fixture(params=["Client", "AsyncClient"])
def door(request: pytest.FixtureRequest, server: FakeServer, runner: asyncio.Runner) -> Iterator[Door]:
    door = Door(request.param == "AsyncClient", server.target, runner)
    yield door
    door.close()


@pytest.fixture
def both(door: Door) -> OpenDoor:
    """The client of either kind with its default settings."""
    return door.open()

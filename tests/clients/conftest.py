"""A small server that answers like Topwork's, over real gRPC, and both clients behind one door."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Iterator

import pytest
import topwork
from doors import Door, OpenDoor
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
def door(request: pytest.FixtureRequest, server: FakeServer, runner: asyncio.Runner) -> Iterator[Door]:
    door = Door(request.param == "AsyncClient", server.target, runner)
    yield door
    door.close()


@pytest.fixture
def both(door: Door) -> OpenDoor:
    """The client of either kind with its default settings."""
    return door.open()


@pytest.fixture
def _briskly(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tries follow each other without the pauses that a server needs."""
    monkeypatch.setattr(retry, "FIRST_PAUSE", 0.01)
    monkeypatch.setattr(retry, "LONGEST_PAUSE", 0.02)


@pytest.fixture
def _interruptible() -> Iterator[None]:
    """A test run in the background ignores SIGINT, and so would the commands that it starts."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)

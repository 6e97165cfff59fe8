"""The real server for a client's tests: on an event loop in a thread of its own, with toy encoders."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import sets_harness
from topwork_server.app import App, ReadyMessage
from topwork_server.config import Config
from topwork_server.models.catalog import Catalog
from topwork_server.plugin_api.plugin_registry import PluginRegistry, RegisteredTrainer
from topwork_server.plugin_api.trainer import TrainerSpec
from topwork_server.telemetry import OFF, Telemetry
from toys import FakePlugins


class ToyEncoders(FakePlugins):
    """Toy encoders beside the packaged kinds of index and trainers: a training finds those by itself, in its own process."""

    def __init__(self) -> None:
        self._packaged = PluginRegistry.load()
        super().__init__(sets_harness.SPECS, [found.spec for found in self._packaged.indexes().values()])

    def trainers(self) -> dict[str, RegisteredTrainer]:
        return self._packaged.trainers()

    def trainer(self, kind: str) -> TrainerSpec:
        return self._packaged.trainer(kind)


@contextmanager
def with_toys(folders: pytest.TempPathFactory) -> Iterator[str]:
    """Yield the address of a server with `ToyEncoders`."""
    home = sets_harness.lent(folders.mktemp("home") / "home", sets_harness.export(folders.mktemp("exported")))
    with served(home, ToyEncoders()) as address:
        yield address


@contextmanager
def with_toys_over_http(folders: pytest.TempPathFactory, telemetry: Telemetry = OFF) -> Iterator[ReadyMessage]:
    """Yield what a server with `ToyEncoders` says of itself, which listens for HTTP too."""
    home = sets_harness.lent(folders.mktemp("home") / "home", sets_harness.export(folders.mktemp("exported")))
    with started(home, ToyEncoders(), telemetry, http="127.0.0.1:0") as ready:
        yield ready


@contextmanager
def served(home: Path, plugins: Any) -> Iterator[str]:
    """Yields its address."""
    with started(home, plugins) as ready:
        yield ready.address


@contextmanager
def started(home: Path, plugins: Any, telemetry: Telemetry = OFF, **settings: Any) -> Iterator[ReadyMessage]:
    """Yields what it says of itself."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()

    async def start() -> tuple[App, ReadyMessage]:
        config = Config(home=home, listen="127.0.0.1:0", provider="cpu", **settings)
        app = App(Catalog(plugins, home), config, plugins=plugins, telemetry=telemetry)
        return app, await app.start()

    app, ready = asyncio.run_coroutine_threadsafe(start(), loop).result(60)
    try:
        yield ready
    finally:
        asyncio.run_coroutine_threadsafe(app.close(), loop).result(60)
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()

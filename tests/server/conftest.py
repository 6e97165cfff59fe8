"""The toys of the server's tests, exported once."""

from __future__ import annotations

from pathlib import Path

import pytest
import sets_harness


@pytest.fixture(scope="session")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return sets_harness.export(tmp_path_factory.mktemp("exported"))


@pytest.fixture
def home(tmp_path: Path, exported: Path) -> Path:
    """A home of the test's own, with the toys ready."""
    return sets_harness.lent(tmp_path / "home", exported)

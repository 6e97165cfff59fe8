"""A home for sets, and one set in it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from made_blocks import wanted
from topwork_server.sets.sets import FeatureSets
from topwork_server.sets.store import FeatureSet


@pytest.fixture
def sets(tmp_path: Path) -> Iterator[FeatureSets]:
    opened = FeatureSets(tmp_path / "sets")
    yield opened
    opened.close()


@pytest.fixture
def birds(sets: FeatureSets) -> FeatureSet:
    return sets.create(wanted())

"""A home for sets, and one set in it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from sample_batches import wanted
from topwork_server.feature_sets.feature_set import FeatureSet
from topwork_server.feature_sets.set_registry import FeatureSets


@pytest.fixture
def sets(tmp_path: Path) -> Iterator[FeatureSets]:
    opened = FeatureSets(tmp_path / "sets")
    yield opened
    opened.close()


@pytest.fixture
def birds(sets: FeatureSets) -> FeatureSet:
    return sets.create(wanted())

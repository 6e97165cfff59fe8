"""Tiny audio models are held to the contract of encoders, as the server runs them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
import tiny_sounds as tiny
from one_other_process import SharesProcess, exported_here
from topwork_server import Item
from topwork_server.models.catalog import Catalog

NAMES = ("wav2vec2", "whisper")


@pytest.fixture(scope="module")
def tiny_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("contract")
    return exported_here(place / "home", {name: tiny.write(tiny.random_model(name), name, place / name) for name in NAMES})


class Tiny(SharesProcess):
    names = NAMES

    @pytest.fixture(scope="class")
    @classmethod
    def home(cls, tiny_home: Path) -> Path:  # type: ignore[override]
        return tiny_home

    @classmethod
    def items(cls, catalog: Catalog) -> Sequence[Item]:
        return [tiny.item(tiny.sound(seconds, seed)) for seed, seconds in enumerate((0.5, 1.2, 0.5, 2.6))]


class TestSamples(Tiny):
    """Items of several lengths; two share a batch."""

    encoder = "wav2vec2"


class TestSpectrograms(Tiny):
    """Items of one window and, the last, of two."""

    encoder = "whisper"

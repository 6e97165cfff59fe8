"""Tiny audio models are held to the contract of encoders, as the server runs them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
import tiny_sounds as tiny
from topwork_server import Item
from topwork_server.models.catalog import Catalog
from topwork_server.plugin_api.plugin_registry import PluginRegistry
from topwork_server.testing import EncoderContract


class Tiny(EncoderContract):
    @pytest.fixture(scope="class")
    @classmethod
    def home(cls, tmp_path_factory: pytest.TempPathFactory) -> Path:  # type: ignore[override]
        place = tmp_path_factory.mktemp(cls.encoder)
        folder = tiny.write(tiny.random_model(cls.encoder), cls.encoder, place / "model")
        Catalog(PluginRegistry.load(), place / "home").add(f"file:{folder}", cls.encoder)
        return place / "home"

    @classmethod
    def items(cls, catalog: Catalog) -> Sequence[Item]:
        return [tiny.item(tiny.sound(seconds, seed)) for seed, seconds in enumerate((0.5, 1.2, 0.5, 2.6))]


class TestSamples(Tiny):
    """Items of several lengths; two share a batch."""

    encoder = "wav2vec2"


class TestSpectrograms(Tiny):
    """Items of one window and, the last, of two."""

    encoder = "whisper"

"""A tiny decoder and a tiny encoder of an architecture without tests of its own are held to the contract of encoders."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
import tiny_berts
from topwork_server import Item, TextItem
from topwork_server.models.catalog import Catalog
from topwork_server.plugin_api.plugin_registry import PluginRegistry
from topwork_server.testing import EncoderContract

TEXTS = ("A small bird sings.", "Bread", "The train to the coast leaves at seven, and the last carriage is the quiet one.")


class Tiny(EncoderContract):
    @pytest.fixture(scope="class")
    @classmethod
    def home(cls, tmp_path_factory: pytest.TempPathFactory) -> Path:  # type: ignore[override]
        place = tmp_path_factory.mktemp(cls.encoder)
        folder = tiny_berts.write(place / "model", cls.encoder)
        Catalog(PluginRegistry.load(), place / "home").add(f"file:{folder}", cls.encoder)
        return place / "home"

    @classmethod
    def items(cls, catalog: Catalog) -> Sequence[Item]:
        return [*map(TextItem, TEXTS), TextItem("Who sings?", "A small bird.")]


class TestDecoder(Tiny):
    """A decoder: each token sees those before it alone."""

    encoder = "llama"


class TestGeneric(Tiny):
    """An encoder whose taps no test compares with transformers."""

    encoder = "roformer"

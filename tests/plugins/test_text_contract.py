"""A tiny decoder and a tiny encoder of an architecture without tests of its own are held to the contract of encoders."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
import tiny_berts
from one_other_process import SharesProcess, exported_here
from topwork_server import Item, TextItem
from topwork_server.models.catalog import Catalog

NAMES = ("llama", "roformer")
TEXTS = ("A small bird sings.", "Bread", "The train to the coast leaves at seven, and the last carriage is the quiet one.")


@pytest.fixture(scope="module")
def tiny_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("contract")
    return exported_here(place / "home", {name: tiny_berts.write(place / name, name) for name in NAMES})


class Tiny(SharesProcess):
    names = NAMES

    @pytest.fixture(scope="class")
    @classmethod
    def home(cls, tiny_home: Path) -> Path:  # type: ignore[override]
        return tiny_home

    @classmethod
    def items(cls, catalog: Catalog) -> Sequence[Item]:
        return [*map(TextItem, TEXTS), TextItem("Who sings?", "A small bird.")]


class TestDecoder(Tiny):
    """A decoder: each token sees those before it alone."""

    encoder = "llama"


class TestGeneric(Tiny):
    """An encoder whose taps no test compares with transformers."""

    encoder = "roformer"

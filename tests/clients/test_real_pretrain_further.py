"""A language model that is trained further on a real server: a new encoder beside the old one, with the head that it lacked."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import real_server
import tiny_berts
from topwork import Client
from topwork_server.models.catalog import Catalog
from topwork_server.plugin_api.plugin_registry import PluginRegistry


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """With a tiny BERT, which has no head over its vocabulary."""
    folder = tiny_berts.write(tmp_path / "tiny")
    Catalog(PluginRegistry.load(), tmp_path / "home").add(f"file:{folder}", "tiny")
    return tmp_path / "home"


@pytest.fixture
def client(home: Path) -> Iterator[Client]:
    with real_server.served(home, PluginRegistry.load()) as address, Client(address) as client:
        yield client


def test_a_language_model_is_trained_further_and_fills_gaps(client: Client, home: Path) -> None:
    texts = [f"{text} {number}" for number in range(40) for text in tiny_berts.corpus()[:2]]
    options = {"epochs": 1, "tokens": 16}
    made = client.pretrain("mlm", texts, encoder="tiny", name="tiny-further", options=options, source="two sentences")
    loss, *_ = made.measures
    assert (made.made_from, loss.name) == ("tiny", "held-out loss")
    assert loss.before is not None
    info = client.encoder("tiny-further")
    assert info.trained_on.endswith("; then 80 texts of two sentences")
    assert "tiny, trained further" in info.description
    assert made.fingerprint == client.embed("tiny-further", "alice").fingerprint
    assert len(client.fill("tiny-further", ["alice [MASK]"], k=3)[0].words) == 3
    assert (home / "encoders" / "tiny-further" / "tokenizer.json").is_file()

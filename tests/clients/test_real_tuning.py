"""Tuning of a trunk on a real server, from the client: several targets at once, whose heads share a new encoder."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import real_server
import tiny_berts
from fine_tuning_tasks import WORDS
from topwork import AlreadyExists, Client, InvalidInput, NotReady
from topwork_server.models.catalog import Catalog
from topwork_server.plugin_api.plugin_registry import PluginRegistry

COUNT = 40
TEST = "n >= 30"
QUICK = {"epochs": 4, "learning_rate": 1e-3, "head_learning_rate": 0.02, "adapter": "lora"}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("home")
    Catalog(PluginRegistry.load(), home).add(f"file:{tiny_berts.write(tmp_path_factory.mktemp('models') / 'tiny')}", "tiny")
    return home


@pytest.fixture(scope="module")
def client(home: Path) -> Iterator[Client]:
    with real_server.served(home, PluginRegistry.load()) as address, Client(address) as client:
        random = np.random.default_rng(0)
        items = [" ".join(random.choice(WORDS[n % 2], 4)) for n in range(COUNT)]
        rows = [{"side": "ab"[n % 2], "number": n % 2 + 0.1 * (n % 5) if n % 3 else None, "n": n} for n in range(COUNT)]
        client.write("words", items, [str(n) for n in range(COUNT)], rows, encoder="tiny", keep_inputs=True)
        yield client


def test_targets_that_are_learned_together_are_heads_of_one_new_encoder(client: Client, home: Path) -> None:
    side = client.train(
        "words", target="side", name="both", kind="fine-tune", also={"number": 0.5}, options=QUICK, test_where=TEST
    )
    number = client.head("both-number")
    assert (side.task, number.task) == ("classification", "regression")
    assert side.encoder == number.encoder
    assert side.encoder.startswith("both-")
    assert number.labeled < side.labeled  # a third has no number
    predictions = client.predict(["both", "both-number"], ["alice book", "five states"])
    assert {name: len(found) for name, found in predictions.items()} == {"both": 2, "both-number": 2}
    adapter = home / "encoders" / f"{side.encoder}.safetensors"
    assert adapter.stat().st_size == side.chosen["adapter_bytes"] < side.chosen["trunk_bytes"]
    with pytest.raises(AlreadyExists, match="both-number"):
        client.train("words", target="number", name="both-number", kind="linear")
    with pytest.raises(NotReady, match="both-number"):
        client.drop_head("both")
    client.drop_head("both-number")
    client.drop_head("both")
    assert not adapter.exists()


@pytest.mark.parametrize(
    ("also", "changes", "words"),
    [
        ({"number": 1}, {"test_where": ""}, "test_where"),
        ({"number": 1}, {"kind": "linear", "options": {}}, "linear learns one target"),
        ({"number": 1}, {"kind": "contrastive", "options": {}}, "contrastive learns one target"),
        ({"side": 1}, {}, "'side'"),
        ({"number": 0}, {}, "'number'"),
        ({"number": float("nan")}, {}, "'number'"),
        ({"nothing": 1}, {}, "'nothing'"),
    ],
)
def test_what_cannot_be_learned_together_is_refused_before(
    client: Client, also: dict[str, float], changes: dict[str, Any], words: str
) -> None:
    wanted = {"target": "side", "name": "refused", "kind": "fine-tune", "options": QUICK, "test_where": TEST, "also": also}
    with pytest.raises(InvalidInput, match=words):
        client.train("words", **(wanted | changes))
    assert "refused" not in [head.name for head in client.heads()]

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
from topwork_plugins.cuda_device import DRIVERS
from topwork_server.models.catalog import Catalog
from topwork_server.plugin_api.plugin_registry import PluginRegistry

COUNT = 40
TEST = "n >= 30"
QUICK = {"epochs": 4, "learning_rate": 1e-3, "head_learning_rate": 0.02, "adapter": "lora"}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("home")
    source = tiny_berts.write(tmp_path_factory.mktemp("models") / "tiny", kind="AutoModelForMaskedLM")
    Catalog(PluginRegistry.load(), home).add(f"file:{source}", "tiny")
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
    with pytest.raises(InvalidInput, match="was fine-tuned") as caught:
        client.fill(side.encoder, ["the [MASK]"])
    assert "tiny" in caught.value.remedy
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
        ({"nothing": 1}, {"test_where": ""}, "no metadata column 'nothing'.*number"),
        ({"nothing": 1}, {"target": "numb"}, "no metadata column 'numb'"),
        ({"nothing": 1}, {"task": "detection"}, "no metadata column 'nothing'"),
    ],
)
def test_what_cannot_be_learned_together_is_refused_before(
    client: Client, also: dict[str, float], changes: dict[str, Any], words: str
) -> None:
    wanted = {"target": "side", "name": "refused", "kind": "fine-tune", "options": QUICK, "test_where": TEST, "also": also}
    with pytest.raises(InvalidInput, match=words):
        client.train("words", **(wanted | changes))
    assert "refused" not in [head.name for head in client.heads()]


@pytest.mark.parametrize(
    ("kind", "options", "words"),
    [
        ("fine-tune", {"adapter": "lora", "target_modules": "query,valeu"}, "'valeu'"),
        ("contrastive", {"adapter": "lora", "target_modules": "qkv"}, "'qkv'"),
        ("fine-tune", {"flip": True}, "flip"),
        ("contrastive", {"windows": 3}, "windows"),
        ("linear", {"model": "ridge", "class_weight": "balanced"}, "ridge"),
        ("prototype", {"prior": 7.5}, "prior"),
    ],
)
def test_options_that_cannot_be_trained_with_begin_no_job(client: Client, kind: str, options: dict[str, Any], words: str) -> None:
    with pytest.raises(InvalidInput, match=words) as caught:
        client.train("words", target="side", name="refused", kind=kind, options=options, wait=False)
    assert caught.value.remedy
    assert client.jobs("train", "refused") == []


@pytest.mark.skipif(any(driver.exists() for driver in DRIVERS), reason="there is a CUDA device here")
def test_a_device_that_is_not_there_begins_no_job(client: Client) -> None:
    for kind in ("fine-tune", "contrastive"):
        with pytest.raises(InvalidInput, match="no CUDA device"):
            client.train("words", target="side", name="refused", kind=kind, options={"device": "cuda"}, wait=False)
    with pytest.raises(InvalidInput, match="fp16"):
        client.train("words", target="side", name="refused", kind="fine-tune", options={"precision": "fp16"}, wait=False)
    with pytest.raises(InvalidInput, match="no CUDA device") as caught:
        client.pretrain("mlm", ["a", "b"], name="other", encoder="tiny", options={"device": "cuda"}, wait=False)
    assert "encoder" not in str(caught.value.remedy)  # it is not the encoder that is wrong
    assert client.jobs("train", "refused") == client.jobs("pretrain", "other") == []


@pytest.mark.parametrize(
    ("kind", "texts", "options", "words"),
    [
        ("mlm", ["one text"], {}, "one text alone"),
        ("mlm", ["equal", "equal"], {}, "all 2 texts are equal"),
        ("words", ["a red owl"] * 500, {}, "all 500 texts are equal"),
        ("mlm", ["one", "two"], {"tokens": 5000}, "tokens is 5,000"),
        ("words", ["owl", "bird"], {}, "two different words"),
    ],
)
def test_texts_that_cannot_be_learned_from_begin_no_job(
    client: Client, kind: str, texts: list[str], options: dict[str, Any], words: str
) -> None:
    encoder = "tiny" if kind == "mlm" else ""
    with pytest.raises(InvalidInput, match=words):
        client.pretrain(kind, texts, name="other", encoder=encoder, options=options, wait=False)
    assert client.jobs("pretrain", "other") == []


PAIRED = {"target": "alike", "test_where": "n >= 50"}


@pytest.fixture(scope="module")
def pairs(client: Client) -> Client:
    random, rows, items = np.random.default_rng(1), [], []
    for n in range(2 * COUNT):
        a, b = random.integers(0, 2, 2)
        items.append(tuple(" ".join(random.choice(WORDS[which], 4)) for which in (a, b)))
        rows.append({"alike": float(a == b) * 0.8 + 0.1 * (n % 3), "same": int(a == b), "n": n})
    client.write("pairs", items, [str(n) for n in range(2 * COUNT)], rows, encoder="tiny", taps=["tokens"], keep_inputs=True)
    return client


def test_a_trunk_is_tuned_to_the_similarity_of_pairs(pairs: Client) -> None:
    options = {"epochs": 12, "learning_rate": 1e-3, "batch": 8}
    head = pairs.train("pairs", kind="contrastive", name="alike", options=options, **PAIRED)
    assert (head.task, head.pooling) == ("regression", "cosine")
    found = {metric.name: metric for metric in head.metrics}
    before, after = found["Spearman correlation before tuning"], found["Spearman correlation"]
    assert before.low <= before.value <= before.high
    assert before.value < 0.7 < after.value
    texts = ["alice book sister", "sister bank", "five states pictures"]
    found = pairs.predict("alike", [(texts[0], texts[1]), (texts[0], texts[2])])
    assert found.values[0] > found.values[1]


def test_pairs_that_cannot_be_compared_are_refused(pairs: Client) -> None:
    with pytest.raises(InvalidInput, match="no pairs"):
        pairs.train("words", target="number", kind="contrastive", name="refused")
    with pytest.raises(InvalidInput, match="one pooling"):
        pairs.train("pairs", target="alike", kind="contrastive", name="refused", poolings=["mean", "cosine"])
    with pytest.raises(InvalidInput, match="the pooling mean"):
        pairs.train("pairs", target="alike", kind="contrastive", name="refused", poolings=["mean"])
    with pytest.raises(InvalidInput, match="the pooling two-tower"):
        pairs.train("pairs", target="same", task="classification", kind="contrastive", name="refused", poolings=["two-tower"])

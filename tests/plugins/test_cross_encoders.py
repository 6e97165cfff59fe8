"""Cross-encoders of random weights against transformers: their scores are a tap, by default, at any length and in any batch."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_berts
import transformers
from tiny_berts import DIM, Exported
from topwork import cli
from topwork_plugins.bert.plugin import BertEncoder
from topwork_server import InvalidInput, TextItem, Trunk
from topwork_server.models.catalog import Catalog
from topwork_server.plugin_api.plugin_registry import PluginRegistry
from topwork_server.runtime.parity import difference
from topwork_server.types import Array

TOLERANCE = 1e-5
PAIRS = [
    TextItem("Who sings at night?", "A small bird sings."),
    TextItem("Bread", "The train to the coast leaves at seven, and the last carriage is the quiet one."),
    TextItem("a", "b"),
    TextItem("Naïve café 漢字 😀!", "Bread"),
]
ARCHITECTURES = ("bert", "roberta", "deberta-v2", "modernbert", "qwen3")


def cross_encoder(folder: Path, model_type: str = "bert", labels: int = 1, **changes: Any) -> Path:
    """A folder of random weights; `changes` go into its config.json."""
    source = tiny_berts.write(folder, model_type, kind="AutoModelForSequenceClassification", num_labels=labels)
    path = source / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    return source


def logits(source: Path, items: list[TextItem]) -> Array:
    """What transformers makes of the same pairs, in one batch."""
    import torch

    tokenizer = transformers.AutoTokenizer.from_pretrained(source, padding_side="right")
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    model = transformers.AutoModelForSequenceClassification.from_pretrained(source).eval()
    texts, pairs = [item.text for item in items], [item.pair for item in items]
    with torch.no_grad():
        found: Array = model(**tokenizer(texts, pairs, padding=True, return_tensors="pt")).logits.numpy()
    return found


def opened(source: Path, **settings: Any) -> Trunk:
    """What the plugin gives to the exporter."""
    out = source.with_name("out")
    out.mkdir(exist_ok=True)
    return BertEncoder.export(tiny_berts.spec_of(source, **settings), source, out)


@pytest.fixture(scope="module", params=ARCHITECTURES)
def exported(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Exported:
    folder = tmp_path_factory.mktemp(request.param)
    return tiny_berts.export(cross_encoder(folder / "model", request.param), folder / "out")


def test_scores_equal_transformers_in_any_batch(exported: Exported) -> None:
    expected = logits(exported.source, PAIRS)
    assert np.ptp(expected) > 100 * TOLERANCE
    samples = exported.samples(PAIRS)
    for order in (range(len(PAIRS)), [3, 1], [2], [1]):
        found = exported.run([samples[i] for i in order])["score"]
        assert np.abs(found - expected[[*order]]).max() < TOLERANCE, order


def test_the_export_records_the_score_as_the_default_tap(exported: Exported) -> None:
    manifest = exported.manifest
    assert manifest.default_tap == "score"
    (tap,) = (info.tap for info in manifest.taps if info.tap.name == "score")
    assert (tap.dim, str(tap.granularity)) == (1, "item")
    assert 0.999999 < manifest.parity["score"]["min_cosine"] <= 1
    assert manifest.parity["score"]["max_abs_error"] < TOLERANCE
    assert not any(name.startswith(("classifier", "score")) for name in manifest.unused)


CROSS: list[dict[str, Any]] = [
    {"labels": 1},
    {"labels": 3, "sentence_transformers": {"activation_fn": "torch.nn.modules.activation.Sigmoid"}},
    {"labels": 2, "sbert_ce_default_activation_function": "torch.nn.modules.linear.Identity"},
]


@pytest.mark.parametrize("how", CROSS, ids=["one label", "sentence-transformers", "sentence-transformers before 4"])
def test_a_cross_encoder_is_known_by_its_config_and_is_a_trunk_where_asked(how: dict[str, Any], tmp_path: Path) -> None:
    source = cross_encoder(tmp_path / "cross", **how)
    found, trunk = opened(source), opened(source, trunk_only=True)
    assert (found.default_tap, found.taps[-1].name, found.taps[-1].dim) == ("score", "score", how["labels"])
    assert found.unused == []
    assert (trunk.default_tap, [tap.dim for tap in trunk.taps]) == ("", [DIM] * len(trunk.taps))
    assert {"classifier.bias", "classifier.weight"} <= set(trunk.unused)


def test_scores_of_several_labels_are_in_their_order(tmp_path: Path) -> None:
    names = {"0": "contradiction", "1": "entailment", "2": "neutral"}
    told = {"sentence_transformers": {"activation_fn": "torch.nn.modules.linear.Identity"}, "id2label": names}
    source = cross_encoder(tmp_path / "nli", labels=3, **told)
    ours = tiny_berts.export(source, tmp_path / "out")
    assert np.abs(ours.embed(PAIRS)["score"] - logits(source, PAIRS)).max() < TOLERANCE
    assert "contradiction, entailment, neutral" in ours.manifest.taps[-1].tap.description


def test_the_other_taps_are_those_of_the_trunk_alone(tmp_path: Path) -> None:
    source = cross_encoder(tmp_path / "model")
    whole = tiny_berts.export(source, tmp_path / "whole").embed(PAIRS)
    trunk = tiny_berts.export(source, tmp_path / "trunk", trunk_only=True).embed(PAIRS)
    assert whole.keys() - trunk.keys() == {"score"}
    for tap, rows in trunk.items():
        assert np.abs(rows - whole[tap]).max() < TOLERANCE, tap


@pytest.mark.parametrize("model_type", ["longformer", "t5"])
def test_a_head_that_needs_more_than_the_trunk_is_refused(model_type: str, tmp_path: Path) -> None:
    """Longformer's has global attention on its first token, T5's a decoder."""
    with pytest.raises(InvalidInput, match="cross-encoder") as caught:
        opened(cross_encoder(tmp_path / "cross", model_type))
    assert "trunk_only=true" in caught.value.remedy


def test_a_head_whose_weights_are_missing_is_not_made_up(tmp_path: Path) -> None:
    source, plain = cross_encoder(tmp_path / "cross"), tiny_berts.write(tmp_path / "plain")
    shutil.copy(plain / "model.safetensors", source / "model.safetensors")
    with pytest.raises(InvalidInput, match="classifier"):
        opened(source)


def test_a_pulled_name_keeps_its_default_tap_without_its_weights(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source, home = cross_encoder(tmp_path / "cross"), tmp_path / "home"
    assert cli.main(["pull", f"file:{source}", "--home", str(home), "--json"]) == 0, capsys.readouterr().out
    printed = json.loads(capsys.readouterr().out)
    assert [tap["name"] for tap in printed["taps"] if tap["name"] == "score"] == ["score"]
    os.rename(source, tmp_path / "elsewhere")
    assert Catalog(PluginRegistry.load(), home).entry("cross").spec.default_tap == "score"


def test_parity_of_one_number_is_its_error_and_not_its_sign() -> None:
    near, far = np.float32([[1e-9], [10.0]]), np.float32([[-1e-9], [10.5]])
    assert difference(near[:1], far[:1])[1] == pytest.approx(1)
    assert difference(near, far)[1] < 0.999

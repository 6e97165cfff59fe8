"""Models that bring a head: which weights are left out is reported."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import tiny_berts
import transformers
from small_nets import as_on_the_hub, random_net
from topwork_plugins.bert.plugin import BertEncoder
from topwork_plugins.resnet.feature_taps import open_net
from topwork_server import EncoderSpec, Modality, Trunk
from topwork_server.commands import pull
from topwork_server.models.catalog_entry import CatalogEntry, EncoderState
from topwork_server.services.convert import encoder_messages


@pytest.fixture(scope="module")
def trunk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_berts.write(tmp_path_factory.mktemp("trunk") / "tiny")


def with_head(trunk: Path, folder: Path, kind: str, labels: int = 2, **changes: Any) -> Path:
    """The trunk's folder with weights of one of transformers' classes for a task."""
    shutil.copytree(trunk, folder)
    config = transformers.AutoConfig.from_pretrained(trunk, num_labels=labels)
    getattr(transformers, f"AutoModelFor{kind}").from_config(config).save_pretrained(folder)
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    return folder


def opened(folder: Path, **settings: Any) -> Trunk:
    """What the plugin gives to the exporter."""
    spec = EncoderSpec("mine", BertEncoder, f"file:{folder}", Modality.TEXT, settings=settings)
    out = folder.with_name("out")
    out.mkdir(exist_ok=True)
    return BertEncoder.export(spec, folder, out)


@pytest.mark.parametrize(
    ("kind", "labels", "left_out"),
    [
        ("NextSentencePrediction", 2, "cls.seq_relationship.weight"),
        ("TokenClassification", 5, "classifier.weight"),
        ("QuestionAnswering", 2, "qa_outputs.weight"),
        ("SequenceClassification", 3, "classifier.weight"),
    ],
)
def test_the_weights_of_a_head_that_is_left_out_are_named(
    kind: str, labels: int, left_out: str, trunk: Path, tmp_path: Path
) -> None:
    unused = opened(with_head(trunk, tmp_path / kind, kind, labels)).unused
    assert left_out in unused
    assert not any(name.startswith(("encoder.", "embeddings.")) for name in unused)


def test_a_pull_and_get_encoder_name_what_is_left_out(trunk: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = with_head(trunk, tmp_path / "tagger", "TokenClassification")
    found = tiny_berts.export(folder, tmp_path / "out")
    entry = CatalogEntry(found.encoder.spec, "bert", EncoderState.READY, manifest=found.manifest, folder=tmp_path / "out")
    pull.show(entry, SimpleNamespace(json=True))
    printed = json.loads(capsys.readouterr().out)["unused_weights"]
    assert "classifier.bias" in printed
    assert list(encoder_messages.encoder(entry, None, None, [None]).unused_weights) == printed  # GetEncoder
    pull.show(entry, SimpleNamespace(json=False))
    assert "not used: 2 weights of the source: classifier.bias" in " ".join(capsys.readouterr().out.split())


def test_a_trunk_without_a_head_leaves_out_the_pooler_of_its_pretraining(trunk: Path) -> None:
    assert opened(trunk).unused == ["pooler.dense.bias", "pooler.dense.weight"]


def test_a_classifier_that_is_no_head_here_is_named(tmp_path: Path) -> None:
    net = as_on_the_hub(random_net("test_resnet"), tmp_path / "net")
    served, config = open_net(net, {}), json.loads((net / "config.json").read_text())
    assert served.heads
    assert served.unused == ()  # its classes are ImageNet's: they are a head
    config["pretrained_cfg"]["label_names"] = ["only", "two"]
    (net / "config.json").write_text(json.dumps(config))
    nameless = open_net(net, {})
    assert nameless.unused == ("fc.weight", "fc.bias")

"""Both clients against the real server with a toy encoder: what they train, judge, predict and compare, as the fake says."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator
from pathlib import Path

import heads_world
import numpy as np
import onnx
import pytest
import real_server
import sets_world
import topwork
from doors import Door, OpenDoor
from topwork_server.plugin_api.plugin_registry import PluginRegistry, RegisteredTrainer
from topwork_server.plugin_api.trainer import TrainerSpec
from toys import FakePlugins

TEXTS, LABELS = heads_world.words(60)


class WithTrainers(FakePlugins):
    """The trainers are the real ones: a training finds them by itself, in its own process."""

    def trainers(self) -> dict[str, RegisteredTrainer]:
        return PluginRegistry.load().trainers()

    def trainer(self, kind: str) -> TrainerSpec:
        return PluginRegistry.load().trainer(kind)


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    home = sets_world.lent(tmp_path_factory.mktemp("home") / "home", sets_world.export(tmp_path_factory.mktemp("exported")))
    with real_server.served(home, WithTrainers(sets_world.SPECS)) as address:
        yield address


@pytest.fixture(params=["Client", "AsyncClient"])
def both(request: pytest.FixtureRequest, target: str, runner: asyncio.Runner) -> Iterator[OpenDoor]:
    door = Door(request.param == "AsyncClient", target, runner)
    client = door.open()
    rows = [{"label": label if i < 50 else None, "letters": float(len(set(text)))} for i, (text, label) in enumerate(pairs())]
    client.write("birds", TEXTS, [f"r{i}" for i in range(60)], rows, encoder="letters", keep_inputs=True)
    yield client
    for head in client.heads():
        client.drop_head(head.name)
    for info in client.sets():
        client.drop_set(info.name)
    door.close()


def pairs() -> Iterator[tuple[str, str]]:
    return zip(TEXTS, LABELS, strict=True)


def test_from_labels_to_predictions(both: OpenDoor, tmp_path: Path) -> None:
    seen: list[topwork.Job] = []
    head = both.train("birds", target="label", kind="prototype", progress=seen.append)
    assert (head.name, head.state, head.task, head.labelled, head.unlabelled) == (
        *("birds-label", "ready", "classification"),
        *(50, 10),
    )
    assert (seen[-1].state, seen[-1].result["head"]) == ("done", "birds-label")
    assert head.metric.name == "accuracy"
    assert head.baseline[0].value < head.metric.value <= head.metric.high <= 1

    found = both.predict("birds-label", TEXTS * 3, features=True, top=0)
    assert np.mean([label == truth for label, truth in zip(found.labels, LABELS * 3, strict=True)]) > 0.8
    np.testing.assert_allclose(found.probabilities.sum(axis=1), 1, atol=1e-5)
    assert found.features.fingerprint == head.fingerprint
    stored = both.predict(["birds-label"], set="birds", ids=[f"r{i}" for i in range(60)])["birds-label"]
    np.testing.assert_allclose(stored.probabilities, found.probabilities[:60], atol=1e-5)
    given = both.predict("birds-label", vectors=found.features)
    np.testing.assert_allclose(given.probabilities, found.probabilities, atol=1e-5)
    best = both.predict("birds-label", TEXTS[:3], top=2)
    assert best.probabilities.shape == (3, 2)
    assert best.labels == found.labels[:3]

    report = both.report("birds-label")
    assert (report.metric, report.items, report.fingerprint) == (head.metric, 50, head.fingerprint)
    assert sum(map(sum, report.confusion.counts)) == 50
    assert report.curve
    assert "<html" in both.report_page("birds-label").lower()

    about = both.export_head("birds-label", tmp_path / "whole.onnx")
    onnx.checker.check_model(onnx.load(tmp_path / "whole.onnx"))
    assert about["names"] == list(head.names)


def test_a_column_of_any_script_makes_a_default_name(both: OpenDoor) -> None:
    for column in ("тема", "größe"):
        both.add_column("birds", column, "string")
        both.update("birds", [f"r{i}" for i in range(60)], {column: list(LABELS)})
    names = [both.train("birds", target=column, kind="prototype").name for column in ("тема", "größe", "label")]
    assert names[2] == "birds-label"
    assert all(re.fullmatch(r"birds-[a-z-]*[0-9a-f]{6}", name) for name in names[:2])
    assert len(set(names)) == 3
    with pytest.raises(topwork.InvalidInput, match=r"cannot name a head .*--name"):
        both.train("birds", target="label", name="моя голова")


def test_what_is_refused(both: OpenDoor, tmp_path: Path) -> None:
    with pytest.raises(topwork.InvalidInput, match="'colour'"):
        both.train("birds", target="colour")
    with pytest.raises(topwork.InvalidInput, match="guess"):
        both.train("birds", target="label", kind="guess")
    with pytest.raises(topwork.NotFound, match="nobody"):
        both.predict("nobody", ["a"])
    with pytest.raises(topwork.NotFound, match="nobody"):
        both.report("nobody")
    with pytest.raises(topwork.NotFound, match="nobody"):
        both.drop_head("nobody")
    with pytest.raises(topwork.NotFound, match="nobody"):
        both.export_head("nobody", tmp_path / "never.onnx")


def test_a_probe_and_the_trainers(both: OpenDoor) -> None:
    assert {"linear", "prototype", "fine-tune"} <= {trainer.kind for trainer in both.trainers()}
    table = both.probe("birds", target="label", kind="prototype")
    assert (len(table), table.best.set, table.measure) == (1, "birds", "accuracy")
    assert table.best.figure.value > table.baseline.value
    assert "letters" in str(table)

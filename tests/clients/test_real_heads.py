"""Both clients against the real server with a toy encoder: what they train, evaluate, predict and compare, as the fake says."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import heads_harness
import numpy as np
import onnx
import pytest
import topwork
from both_clients import EitherClient

TEXTS, LABELS = heads_harness.words(60)


@pytest.fixture
def both(real_both: EitherClient) -> EitherClient:
    rows = [{"label": label if i < 50 else None, "letters": float(len(set(text)))} for i, (text, label) in enumerate(pairs())]
    real_both.write("birds", TEXTS, [f"r{i}" for i in range(60)], rows, encoder="letters", keep_inputs=True)
    return real_both


def pairs() -> Iterator[tuple[str, str]]:
    return zip(TEXTS, LABELS, strict=True)


def test_from_labels_to_predictions(both: EitherClient, tmp_path: Path) -> None:
    seen: list[topwork.Job] = []
    head = both.train("birds", target="label", kind="prototype", progress=seen.append)
    assert (head.name, head.state, head.task, head.labeled, head.unlabeled) == (
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
    assert report.learning_curve
    assert "<html" in both.report_page("birds-label").lower()

    about = both.export_head("birds-label", tmp_path / "whole.onnx")
    onnx.checker.check_model(onnx.load(tmp_path / "whole.onnx"))
    assert about["names"] == list(head.names)


def test_a_head_on_several_taps_side_by_side(both: EitherClient, tmp_path: Path) -> None:
    both.write("both", TEXTS, [f"r{i}" for i in range(60)], [{"label": label} for label in LABELS], encoder="letters",
               taps=["mean", "letters"], keep_inputs=True)  # fmt: skip
    head = both.train("both", target="label", kind="prototype", taps=["mean", "letters"], combine=True)
    assert (head.tap, head.pooling, head.warnings) == ("mean+letters", "row", ())
    found = both.predict(head.name, TEXTS, features=True, unlike=0)
    assert found.features is None
    stored = both.predict(head.name, set="both", ids=[f"r{i}" for i in range(60)])
    np.testing.assert_allclose(stored.probabilities, found.probabilities, atol=1e-5)
    one, other = (both.embed("letters", TEXTS, tap=tap) for tap in ("mean", "letters"))
    means = [one.rows, np.add.reduceat(other.rows, np.r_[0, np.cumsum(other.counts)[:-1]]) / other.counts[:, None]]
    given = both.predict(head.name, vectors=np.concatenate(means, axis=1))
    np.testing.assert_allclose(given.probabilities, found.probabilities, atol=1e-4)
    assert both.report(head.name).tap == "mean+letters"
    about = both.export_head(head.name, tmp_path / "both.onnx")
    assert about["parts"] == [{"tap": "mean", "pooling": "row"}, {"tap": "letters", "pooling": "mean"}]
    onnx.checker.check_model(onnx.load(tmp_path / "both.onnx"))
    for wrong, words in (
        ({"taps": ["mean"]}, "one is named"),
        ({"taps": ["mean", "letters"], "kind": "fine-tune"}, "learns on one tap"),
        ({"taps": ["mean", "letters"], "poolings": ["two-tower"]}, "by itself|no pairs|keeps no raw"),
    ):
        with pytest.raises(topwork.TopworkError, match=words):
            both.train("both", target="label", combine=True, name="no", **wrong)


def test_a_column_of_any_script_makes_a_default_name(both: EitherClient) -> None:
    columns = ("тема", "größe")
    both.update("birds", [f"r{i}" for i in range(60)], {column: list(LABELS) for column in columns})
    names = [both.train("birds", target=column, kind="prototype", wait=False).name for column in columns]
    assert all(re.fullmatch(r"birds-[a-z-]*[0-9a-f]{6}", name) for name in names)
    assert len(set(names)) == 2
    with pytest.raises(topwork.InvalidInput, match="name a head"):
        both.train("birds", target="label", name="моя голова")


def test_what_is_refused(both: EitherClient, tmp_path: Path) -> None:
    with pytest.raises(topwork.InvalidInput, match="'color'"):
        both.train("birds", target="color")
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


def test_a_probe_and_the_trainers(both: EitherClient) -> None:
    assert {"linear", "prototype", "fine-tune"} <= {trainer.kind for trainer in both.trainers()}
    table = both.probe("birds", target="label", kind="prototype")
    assert (len(table), table.best.set, table.measure) == (1, "birds", "accuracy")
    assert table.best.metric.value > table.baseline.value
    assert "letters" in str(table)

"""`topwork pretrain` against a stub: what it sends, what it lists, and what it says."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from cli_stub import StubCommand
from topwork.encoders import OptionInfo
from topwork.pretraining import PretrainerInfo, PretrainMeasure, PretrainReport

KINDS = [
    PretrainerInfo("mlm", "masked language model", True, (OptionInfo("epochs", "integer", "3"),), "tests 1.0"),
    PretrainerInfo("words", "word vectors", False, (OptionInfo("dim", "integer", "100", "numbers"),), "tests 1.0"),
]
REPORT = PretrainReport("mine", "words", 12, measures=(PretrainMeasure("held-out loss", 2.0, 4.0),), warnings=("few texts",))


@pytest.fixture
def topwork(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> StubCommand:
    monkeypatch.setenv("COLUMNS", "160")
    return StubCommand(capsys, monkeypatch)


@pytest.fixture
def sent(topwork: StubCommand) -> list[dict[str, Any]]:
    calls: list[dict[str, Any]] = []

    def pretrain(kind: str, texts: Any, **settings: Any) -> PretrainReport:
        calls.append({"kind": kind, "texts": texts, **settings})
        return REPORT

    topwork.client.pretrain = pretrain  # type: ignore[attr-defined]
    topwork.client.pretrainers = lambda: KINDS  # type: ignore[attr-defined]
    return calls


def test_what_is_said_of_it_is_passed_on(topwork: StubCommand, sent: list[dict[str, Any]]) -> None:
    words = r"pretrain mlm letters --from corpus.csv --column body --separator \t --encoding latin-1 --name mine"
    assert topwork(*words.split(), "--option", "epochs=2", "--seed", 7) == 0
    [asked] = sent
    del asked["progress"]
    assert asked == {
        "kind": "mlm",
        "texts": Path("corpus.csv"),
        "name": "mine",
        "encoder": "letters",
        "set": "",
        "where": "",
        "version": 0,
        "column": "body",
        "separator": "\t",
        "encoding": "iso8859-1",
        "options": {"epochs": 2},
        "seed": 7,
        "wait": True,
    }
    assert topwork.stdout.splitlines()[:3] == [
        "encoder mine: words on 12 texts, in 0 s",
        "  held-out loss 2, 4 before",
        "warning: few texts",
    ]


def test_its_report_is_json_too(topwork: StubCommand, sent: list[dict[str, Any]]) -> None:
    assert topwork(*"pretrain words --from-set birds --where n>5 --name mine --json".split()) == 0
    assert json.loads(topwork.stdout)["measures"] == [{"name": "held-out loss", "after": 2.0, "before": 4.0}]
    assert (sent[0]["set"], sent[0]["where"], sent[0]["texts"]) == ("birds", "n>5", None)


def test_a_long_history_is_shown_in_parts() -> None:
    shown = [line for line in replace(REPORT, history=tuple({"epoch": n} for n in range(1, 201))).lines() if "epoch" in line]
    assert (shown[0], shown[-1], len(shown)) == ("  epoch 1", "  epoch 200", 10)


def test_without_texts_it_lists_the_kinds(topwork: StubCommand, sent: list[dict[str, Any]]) -> None:
    assert topwork("pretrain") == 0
    assert "masked language model" in topwork.stdout
    assert topwork("pretrain", "words") == 0
    assert "numbers" in topwork.stdout
    assert "masked" not in topwork.stdout
    assert sent == []


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("pretrain nonesuch", "mlm, words"),
        ("pretrain words --name mine", "--from"),
        ("pretrain words --from a.txt --from-set b --name mine", "--from"),
        ("pretrain words --from a.txt", "--name"),
        ("pretrain --from a.txt --name mine", "kind"),
    ],
)
def test_a_mistake_is_said_before_anything_is_sent(
    topwork: StubCommand, sent: list[dict[str, Any]], words: str, message: str
) -> None:
    assert topwork(*words.split()) == 2
    assert message in topwork.stderr
    assert sent == []

"""`topwork heads` and `topwork report`, against a client that answers from memory."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from cli_stub import StubCommand
from cli_stub_heads import FIGURES, head_info
from topwork.heads import ClassShare, LabelShift
from topwork.report import ClassMetrics, ConfusionMatrix, LearningCurvePoint, Misclassified, SemiSupervisedGain


@pytest.fixture
def topwork(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> StubCommand:
    monkeypatch.setenv("COLUMNS", "160")
    return StubCommand(capsys, monkeypatch)


def test_heads(topwork: StubCommand) -> None:
    pretrained = head_info(name="letters/all", pretrained=True, kind="", set="", metrics=(), job=None, created=None)
    topwork.client.found_heads = [head_info(), pretrained]
    assert topwork("heads", "--encoder", "letters") == 0
    lines = [line.split("  ") for line in topwork.stdout.splitlines()]
    rows = [[cell.strip() for cell in line if cell.strip()] for line in lines]
    assert rows[1][:6] == ["birds-label", "classification", "linear", "letters/pooled", "birds label, version 12", "ready"]
    assert rows[1][6:] == ["accuracy 0.912", "0.885 to 0.936"]
    assert rows[2] == ["letters/all", "classification", "pretrained", "letters/pooled", "its encoder", "ready", "-"]
    assert topwork.asked("heads") == {"encoder": "letters"}
    assert topwork("heads", "--json") == 0
    assert [head["name"] for head in topwork.json] == ["birds-label", "letters/all"]
    topwork.client.found_heads = []
    assert topwork("heads") == 0
    assert topwork.stdout == "there are no heads: `topwork train SET --target COLUMN` makes one\n"


def test_one_head_in_full(topwork: StubCommand) -> None:
    topwork.client.found_heads = [head_info(state="failed", detail="no memory", names=tuple(f"class-{i}" for i in range(30)))]
    assert topwork("heads", "birds-label") == 0
    for text in (
        "failed: no memory",
        "30: class-0, class-1",
        "class-19 and 10 more",
        "0.912 (0.885 to 0.936), baseline 0.104",
        "label, linear, from 482 items of birds, version 12, 18 more without a label, seed 0",
        "2.4e-06",
        "class 'wren' has 3 examples",
        "9d02, done",
    ):
        assert text in topwork.stdout, text
    assert topwork("heads", "birds-label", "--json") == 0
    assert topwork.json["chosen"] == {"l2": 0.1}
    assert topwork("heads", "nobody") == 1
    assert "there is no head 'nobody' (see `topwork heads`)" in topwork.stderr


def test_a_head_in_training_has_learned_from_nothing_yet(topwork: StubCommand) -> None:
    topwork.client.found_heads = [head_info(state="training", created=None, labeled=0, metrics=(), baseline=(), names=())]
    assert topwork("heads", "birds-label") == 0
    assert "is to learn  label, linear, from birds, version 12\n" in topwork.stdout
    assert " 0 items" not in topwork.stdout


def test_a_head_that_learned_from_descriptions_alone(topwork: StubCommand) -> None:
    topwork.client.found_heads = [head_info(target="")]
    topwork.client.found_report = replace(topwork.client.found_report, target="")
    for command in (("heads",), ("heads", "birds-label"), ("report", "kinds")):
        assert topwork(*command) == 0
        assert "classes by their descriptions" in topwork.stdout


def test_a_head_of_which_little_is_known_says_no_more() -> None:
    failed = head_info(state="failed", detail="no memory", names=(), encoder="", metrics=())
    assert repr(failed) == "<HeadInfo birds-label: classification, linear on ready vectors/pooled, failed: no memory>"


def test_names_with_commas_in_them_stay_apart(topwork: StubCommand) -> None:
    topwork.client.found_heads = [head_info(names=("tench, Tinca tinca", "x" * 50))]
    assert topwork("heads", "birds-label") == 0
    assert f"2: tench, Tinca tinca; {'x' * 37}...\n" in topwork.stdout


def test_a_head_that_came_with_its_encoder(topwork: StubCommand) -> None:
    topwork.client.found_heads = [head_info(pretrained=True, metrics=(), baseline=(), job=None, estimate="")]
    assert topwork("heads", "letters/all") == 0
    assert "came with  letters\n" in topwork.stdout
    assert "learned" not in topwork.stdout


def test_export(topwork: StubCommand, tmp_path: Path) -> None:
    out = tmp_path / "birds.onnx"
    assert topwork("heads", "export", "birds-label", "-o", out) == 0
    assert topwork.stdout.startswith(f"head birds-label with its trunk -> {out}, 2.0 kB\n")
    assert " input  pixels (batch, 3, 8, 8) float32\n" in topwork.stdout
    assert "output  scores (batch, 2) float32\n" in topwork.stdout
    assert topwork("heads", "export", "birds-label", "-o", out, "--json") == 0
    assert (topwork.json["bytes"], topwork.json["description"]["names"]) == (2000, ["owl", "wren"])
    assert topwork.asked("export_head")["path"] == out


def test_drop(topwork: StubCommand, monkeypatch: pytest.MonkeyPatch) -> None:
    assert topwork("heads", "drop", "birds-label") == 1
    assert "drop head birds-label needs a yes" in topwork.stderr
    assert topwork.client.calls == []
    assert topwork("heads", "drop", "birds-label", "--yes") == 0
    assert topwork.stdout == "head birds-label is dropped\n"
    assert topwork.asked("drop_head") == {"name": "birds-label"}
    for answer, status in (("y\n", 0), ("\n", 1)):
        monkeypatch.setattr("sys.stdin.isatty", lambda: True)
        monkeypatch.setattr("sys.stdin.readline", lambda answer=answer: answer)
        assert topwork("heads", "drop", "birds-label", "--json") == status


def test_what_a_head_lately_predicted(topwork: StubCommand) -> None:
    shares = (ClassShare("owl", 0.2, 0.4, 0.61, 0.55, 0.66), ClassShare("wren", 0.8, 0.6, 0.39, 0.34, 0.45))
    topwork.client.found_heads = [
        head_info(weight="seen", recent=LabelShift(900, shares, 1e-9, "recent items are of other classes"))
    ]
    assert topwork("heads", "birds-label") == 0
    assert "900 predictions; as different without a shift: p = 1e-09" in topwork.stdout
    assert "owl: 61.0% of recent items (55.0% to 66.0%), 20.0% of the evaluated ones" in topwork.stdout
    assert "recent items are of other classes" in topwork.stdout
    assert ["weighed", "by", "seen"] in [line.split() for line in topwork.stdout.splitlines()]
    assert topwork("heads", "birds-label", "--json") == 0
    assert topwork.json["recent"]["shares"][0]["estimated"] == 0.61


@pytest.mark.parametrize(
    "words",
    [
        ("heads", "a", "b"),
        ("heads", "export", "a"),
        ("heads", "a", "-o", "b.onnx"),
        ("heads", "drop", "a", "b"),
        ("report",),
    ],
)
def test_wrong_usage(topwork: StubCommand, words: tuple[str, ...]) -> None:
    assert topwork(*words) == 2
    assert "Usage: topwork" in topwork.stderr
    assert topwork.client.calls == []


def test_the_report_on_a_terminal(topwork: StubCommand) -> None:
    assert topwork("report", "kinds") == 0
    lines = [line.strip() for line in topwork.stdout.splitlines()]
    assert lines[0] == "kinds: classification of label in birds, version 2"
    words = [line.split() for line in lines]
    assert ["accuracy", "0.912", "0.885", "to", "0.936", "0.400"] in words
    assert ["macro", "F1", "0.900", "0.860", "to", "0.930"] in words
    assert "learning curve: accuracy by items learned from" in lines
    assert ["386", *["#" * 15], "0.910", "(0.885", "to", "0.936)"] in [[w for w in line if w] for line in words]
    assert "confusion: truth down, predicted across" in lines
    assert ["low", "180", "20", "."] in words
    assert "most confidently wrong" in lines
    assert "r7 low high 0.990 not [bad] at all".split() in words
    assert "warning: class 'high' has 3 examples" in lines


def test_items_that_taught_and_items_that_judged_are_told_apart(topwork: StubCommand) -> None:
    topwork.client.found_report = replace(topwork.client.found_report, labeled=50, items=10, unlabeled=3)
    assert topwork("report", "kinds") == 0
    assert "learned from 50 with a label, judged by 10; 3 have no label\n" in topwork.stdout


def test_reports_that_lack_parts_or_have_too_many(topwork: StubCommand) -> None:
    names = tuple(f"class {i}" for i in range(20))
    counts = tuple(tuple(9 if i == j else 2 if (i, j) == (3, 4) else 0 for j in range(20)) for i in range(20))
    gain = replace(FIGURES[0], value=0.012, low=-0.003, high=0.02)
    topwork.client.found_report = replace(
        topwork.client.found_report,
        confusion=ConfusionMatrix(names, counts),
        classes=tuple(ClassMetrics(name, 9, 0.5, 0.5, i / 20) for i, name in enumerate(names)),
        learning_curve=(),
        misclassified=(Misclassified("a.jpg", "owl", "wren", 0.9, "data:image/jpeg;base64,AAAA"),),
        semi_supervised=SemiSupervisedGain("self-training", 100, FIGURES[0], FIGURES[0], gain),
    )
    assert topwork("report", "kinds") == 0
    assert "confused most often" in topwork.stdout
    assert ["0.2", "0.700", "0.970", "0.081", "0.070", "to", "0.095"] in [line.split() for line in topwork.stdout.splitlines()]
    assert ["2", "class", "3", "class", "4"] in [line.split() for line in topwork.stdout.splitlines()]
    assert "classes, worst first, 10 of 20" in topwork.stdout
    assert "what 100 unlabeled items did (self-training)" in topwork.stdout
    assert "accuracy 0.912 without, 0.912 with them: +0.012 (-0.003 to +0.020)" in topwork.stdout
    assert "base64" not in topwork.stdout
    topwork.client.found_report = replace(
        topwork.client.found_report,
        **dict.fromkeys(("abstaining", "classes", "misclassified", "warnings"), ()),  # type: ignore[arg-type]
        confusion=None,
        semi_supervised=None,
    )
    assert topwork("report", "kinds") == 0
    assert "macro F1" in topwork.stdout.splitlines()[-1]


def test_a_report_of_what_nothing_judged_or_helped(topwork: StubCommand) -> None:
    unused = SemiSupervisedGain("label-propagation", 0, FIGURES[0], FIGURES[0], FIGURES[0])
    topwork.client.found_report = replace(
        topwork.client.found_report, metrics=(), baseline=(), learning_curve=(), semi_supervised=unused
    )
    assert topwork("report", "kinds") == 0
    assert "metrics on held-out items" not in topwork.stdout
    assert "no unlabeled item was used (label-propagation)\n" in topwork.stdout


def test_what_says_nothing_is_not_among_the_worst(topwork: StubCommand) -> None:
    """Classes that were never evaluated, and those of very many that stand under one name."""
    names = (*(f"class {i}" for i in range(13)), "others")
    counts = tuple(tuple(9 if j == 13 and i != 13 else 1 if (i, j) == (0, 1) else 0 for j in range(14)) for i in range(14))
    classes = (ClassMetrics("never", 0, 0.0, 0.0, 0.0), ClassMetrics("y" * 100, 5, 0.5, 0.5, 0.5))
    topwork.client.found_report = replace(topwork.client.found_report, confusion=ConfusionMatrix(names, counts), classes=classes)
    assert topwork("report", "kinds") == 0
    assert ["1", "class", "0", "class", "1"] in [line.split() for line in topwork.stdout.splitlines()]
    assert "others" not in topwork.stdout
    assert "classes, worst first, 1 never evaluated" in topwork.stdout
    assert f"{'y' * 57}...  " in topwork.stdout


def test_a_flat_learning_curve(topwork: StubCommand) -> None:
    flat = replace(FIGURES[0], value=1.0, low=1.0, high=1.0)
    topwork.client.found_report = replace(
        topwork.client.found_report, learning_curve=(LearningCurvePoint(10, flat), LearningCurvePoint(1000, flat))
    )
    assert topwork("report", "kinds") == 0
    assert "   10  " + "#" * 30 in topwork.stdout


def test_classes_that_are_cut_alike_stay_apart(topwork: StubCommand) -> None:
    names = ("a very long name of one", "a very long name of two")
    topwork.client.found_report = replace(topwork.client.found_report, confusion=ConfusionMatrix(names, ((7, 1), (0, 5))))
    assert topwork("report", "kinds") == 0
    assert "a very long... 1" in topwork.stdout


def test_the_report_for_programs_is_what_the_server_said(topwork: StubCommand) -> None:
    assert topwork("report", "kinds", "--json") == 0
    assert (topwork.json["head"], topwork.json["of_a_newer_server"]) == ("kinds", 1)


def test_the_page(topwork: StubCommand, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[str] = []
    monkeypatch.setattr("webbrowser.open", opened.append)
    path = tmp_path / "kinds.html"
    assert topwork("report", "kinds", "--page", path) == 0
    assert topwork.stdout == f"the report of kinds -> {path}\n"
    assert path.read_text() == "<!doctype html><title>kinds</title>"
    assert opened == []
    assert topwork("report", "kinds", "--page", path, "--open", "--json") == 0
    assert opened == [path.as_uri()]
    assert topwork.json["page"] == str(path)
    monkeypatch.setattr("tempfile.mkdtemp", lambda prefix: str(tmp_path))
    assert topwork("report", "letters/all", "--open") == 0
    assert (tmp_path / "letters-all.html").exists()
    assert topwork("report", "kinds", "--page", tmp_path / "no" / "k.html") == 1
    assert "there is no folder" in topwork.stderr

"""`topwork train`, `trainers` and `probe`, against a client that answers from memory."""

from __future__ import annotations

import pytest
from cli_stub import StubCommand
from cli_stub_heads import head_info, train_job
from fake_heads_service import TABLE
from topwork.heads import MetricValue


@pytest.fixture
def topwork(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> StubCommand:
    monkeypatch.setenv("COLUMNS", "160")
    return StubCommand(capsys, monkeypatch)


def test_a_training_and_what_came_of_it(topwork: StubCommand) -> None:
    assert topwork("train", "birds", "--target", "label") == 0
    assert topwork.stdout.splitlines() == [
        "head birds-label: classification of 2 classes, linear on letters/pooled, from 482 items of birds, version 12, 18 more "
        "without a label, in 3.14 s",
        "           accuracy  0.912 (0.885 to 0.936), baseline 0.104",
        "  calibration error  0.021 (0.081 before scaling)",
        "          judged by  5-fold cross-validation over 482 items",
        "             chosen  pooled row, l2=0.1",
        "warning: class 'wren' has 3 examples",
        "next: `topwork report birds-label` says where it fails, `topwork predict birds-label ITEM...` uses it",
    ]
    assert topwork.stderr == "birds-label: 25%, step 3, 30 s left\nbirds-label: 100%\n"


def test_a_head_that_says_little_of_itself(topwork: StubCommand) -> None:
    topwork.client.found_heads = [
        head_info(task="regression", encoder="", names=(), metrics=(), baseline=(), chosen={}, warnings=(), unlabeled=0)
    ]
    assert topwork("train", "birds", "--target", "label") == 0
    assert "regression, linear on ready vectors/pooled, from 482 items of birds, version 12, in 3.14 s\n" in topwork.stdout
    assert len(topwork.stdout.splitlines()) == 3


def test_what_is_said_of_a_training_is_passed_on(topwork: StubCommand) -> None:
    words = (
        "train birds --target label --kind mlp --task multi-label --taps layer3 pooled --tap tokens --pooling mean max".split()
    )
    words += ["--option", "depth=2", "--where", "year > 2020", "--test-where", "year = 2024", "--group", "nest", "--folds", "3"]
    words += ["--weight", "seen", "--combine", "--also", "size=0.5", "--also", "age"]
    words += ["--seed", "7", "--version", "4", "--unlabeled", "self-training", "--describe", "owl=a bird, of = the night"]
    assert topwork(*words, "--name", "mine", "--replace", "--json") == 0
    asked = topwork.asked("train")
    del asked["progress"]
    assert asked == {
        "set": "birds",
        "target": "label",
        "kind": "mlp",
        "name": "mine",
        "task": "multi-label",
        "taps": ["layer3", "pooled", "tokens"],
        "poolings": ["mean", "max"],
        "options": {"depth": 2},
        "where": "year > 2020",
        "test_where": "year = 2024",
        "group": "nest",
        "weight": "seen",
        "combine": True,
        "folds": 3,
        "seed": 7,
        "version": 4,
        "unlabeled": "self-training",
        "descriptions": {"owl": "a bird, of = the night"},
        "replace": True,
        "also": {"size": 0.5, "age": 1.0},
        "wait": True,
    }
    assert (topwork.json["name"], topwork.json["metrics"][0]["value"], topwork.json["job"]["state"]) == (
        "birds-label",
        0.912,
        "done",
    )
    assert topwork.stderr == ""


def test_what_is_not_said_of_it_is_as_the_clients_default(topwork: StubCommand) -> None:
    assert topwork("train", "birds", "--target", "label", "--no-wait") == 0
    asked = topwork.asked("train")
    assert (asked["kind"], asked["task"], asked["taps"], asked["options"], asked["wait"]) == ("", "", [], {}, False)
    assert topwork.stdout == "head birds-label is being trained: `topwork jobs 9d02 --watch`\n"
    assert topwork("train", "birds", "--target", "label", "--no-wait", "--json") == 0
    assert topwork.json["state"] == "training"


def test_described_classes_need_no_column(topwork: StubCommand) -> None:
    assert topwork("train", "birds", "--kind", "zero-shot", "--describe", "owl=a bird of the night") == 0
    assert topwork.asked("train")["target"] == ""
    assert topwork("probe", "birds") == 2
    assert "--target" in topwork.stderr


def test_a_figure_of_nothing_has_no_sign(topwork: StubCommand) -> None:
    nothing = MetricValue("R2", -1e-5, -0.2, -1e-6)
    topwork.client.found_heads = [head_info(metrics=(nothing,), baseline=(nothing,))]
    assert topwork("train", "birds", "--target", "label") == 0
    assert "0.000 (-0.200 to 0.000), baseline 0.000" in topwork.stdout
    assert "-0.000" not in topwork.stdout + str(nothing)


def test_a_training_that_fails(topwork: StubCommand) -> None:
    topwork.client.training = [train_job(), train_job(state="failed", error="no memory")]
    assert topwork("train", "birds", "--target", "label") == 1
    assert "train job 9d02 on 'birds-label' failed: no memory" in topwork.stderr


@pytest.mark.parametrize("verb", ["train", "probe"])
def test_ctrl_c_ends_the_watching_not_the_job(topwork: StubCommand, verb: str) -> None:
    topwork.client.training = [train_job(), train_job(message="interrupt")]
    assert topwork(verb, "birds", "--target", "label") == 130
    assert topwork.stderr.splitlines()[-1] == (
        "topwork: it goes on in the server: `topwork jobs 9d02 --watch` shows it, --cancel ends it"
    )


def test_trainers(topwork: StubCommand) -> None:
    assert topwork("trainers") == 0
    titles, *lines = [line.split() for line in topwork.stdout.splitlines()]
    assert titles == ["kind", "tasks", "needs", "description"]
    assert lines[0] == "linear classification, regression 2 examples a class softmax".split()
    assert lines[1] == "zero-shot classification raw inputs, classes described by text".split()
    assert topwork.stdout.endswith("`topwork trainers KIND` says what --option may set\n")
    assert topwork("trainers", "linear") == 0
    assert "plugin  topwork" in topwork.stdout
    assert topwork.stdout.splitlines()[-1].split()[:3] == ["strengths", "int", "45"]
    assert topwork("trainers", "zero-shot", "--json") == 0
    assert (topwork.json["kind"], topwork.json["needs_inputs"]) == ("zero-shot", True)
    assert topwork("trainers", "--json") == 0
    assert len(topwork.json) == 2
    assert topwork("trainers", "guess") == 2
    assert "there is no kind 'guess': the server has linear, zero-shot; tasks are classification, regression" in topwork.stderr


def test_trainers_of_a_task(topwork: StubCommand) -> None:
    assert topwork("trainers", "regression") == 0
    assert [line.split()[0] for line in topwork.stdout.splitlines()[1:2]] == ["linear"]
    assert "zero-shot" not in topwork.stdout
    assert topwork("trainers", "classification", "--json") == 0
    assert [one["kind"] for one in topwork.json] == ["linear", "zero-shot"]


def test_a_probe(topwork: StubCommand) -> None:
    assert topwork("probe", "birds", "owls", "--target", "label", "--taps", "pooled", "tokens", "--folds", "3") == 0
    titles, first, second, _, *rest = topwork.stdout.splitlines()
    assert titles.split()[:6] == ["set", "encoder", "tap", "pooling", "dim", "accuracy"]
    assert first.split() == "birds letters pooled row 4 0.912 0.885 to 0.936 l2=0.1".split()
    assert second.split()[9:] == ["-0.112", "(-0.150", "to", "-0.070)", "l2=1"]
    assert rest[0] == "5-fold cross-validation over 482 items"
    assert rest[-1] == "pooled is best"
    asked = topwork.asked("probe")
    assert (asked["sets"], asked["taps"], asked["folds"]) == (["birds", "owls"], ["pooled", "tokens"], 3)


def test_a_probe_for_programs_and_one_that_nobody_waits_for(topwork: StubCommand) -> None:
    assert topwork("probe", "birds", "--target", "label", "--json") == 0
    assert [row["tap"] for row in topwork.json["rows"]] == ["pooled", "tokens"]
    assert topwork("probe", "birds", "--target", "label", "--no-wait") == 0
    assert topwork.stdout == "the probe goes on: `topwork jobs 9d02 --watch`\n"
    topwork.client.changes = [train_job(kind="probe", state="done", result=TABLE)]
    assert topwork("jobs", "9d02", "--watch") == 0
    assert topwork.stdout.endswith("pooled is best\n")
    assert topwork("jobs", "9d02", "--watch", "--json") == 0
    assert topwork.json["result"]["measure"] == "accuracy"


@pytest.mark.parametrize(
    "words",
    [
        ("train", "birds"),
        ("train", "birds", "--target", "label", "--task", "guess"),
        ("train", "birds", "--target", "label", "--unlabeled", "yes"),
        ("train", "birds", "--target", "label", "--describe", "owl"),
        ("train", "birds", "--target", "label", "--option", "depth"),
        ("probe", "--target", "label"),
    ],
)
def test_wrong_usage(topwork: StubCommand, words: tuple[str, ...]) -> None:
    assert topwork(*words) == 2
    assert "Usage: topwork" in topwork.stderr
    assert topwork.client.calls == []

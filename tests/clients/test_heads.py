"""Trainings, reports, probes and exports, on both clients; how labels are written."""

from __future__ import annotations

import base64
import io
import math
from datetime import UTC, datetime
from pathlib import Path

import fake_heads_service
import numpy as np
import pytest
import topwork
from both_clients import EitherClient
from fake_heads_service import EXPORTED, REPORT
from fake_indexes import CANCELLED, DONE, FAILED, RUNNING
from fake_server import FakeServer, unavailable
from topwork.v1 import heads_pb2


def fill(both: EitherClient) -> None:
    both.write("birds", ["a", "b c", "d e f"], list("xyz"), [{"label": "owl"}] * 3, encoder="letters")


def sent(server: FakeServer, kind: type) -> list[object]:
    return [request for request in server.requests if isinstance(request, kind)]


def test_trainers(both: EitherClient) -> None:
    [linear] = both.trainers()
    assert (linear.kind, linear.tasks, linear.min_per_class) == ("linear", ("classification", "question-answering"), 2)
    assert (linear.options[0].name, linear.needs_inputs, linear.needs_descriptions) == ("l2", False, False)


def test_a_training_is_waited_for(both: EitherClient, server: FakeServer) -> None:
    fill(both)
    seen: list[topwork.Job] = []
    head = both.train("birds", target="label", progress=seen.append)
    assert [job.state for job in seen] == ["running", "running", "done"]
    assert (head.name, head.state, head.job.state, head.job.kind) == ("birds-label", "ready", "done", "train")
    assert (head.task, head.names, head.chosen) == ("classification", ("low", "middle", "high"), {"l2": 0.1})
    assert head.metric == topwork.MetricValue("accuracy", 0.912, 0.885, 0.936)
    assert head.created == datetime.fromtimestamp(5, UTC)
    assert repr(head) == (
        "<HeadInfo birds-label: classification of 3 classes, linear on letters/pooled, accuracy 0.912 (0.885 to 0.936)>"
    )


def test_what_is_said_of_a_training_is_sent(both: EitherClient, server: FakeServer) -> None:
    fill(both)
    both.train(
        "birds",
        target="label",
        kind="mlp",
        name="mine",
        task="multi-label",
        taps=["pooled", "tokens"],
        poolings="mean",
        options={"depth": 2},
        where="id != 'x'",
        test_where="id = 'y'",
        group="label",
        folds=3,
        seed=7,
        version=2,
        unlabeled="self-training",
        descriptions={"owl": "a bird of the night"},
        replace=True,
        wait=False,
    )
    [request] = sent(server, heads_pb2.TrainRequest)
    wanted = heads_pb2.TrainRequest(
        set="birds",
        target="label",
        kind="mlp",
        name="mine",
        task=heads_pb2.TASK_MULTI_LABEL,
        taps=["pooled", "tokens"],
        poolings=["mean"],
        where="id != 'x'",
        test_where="id = 'y'",
        group="label",
        folds=3,
        seed=7,
        version=2,
        unlabeled="self-training",
        descriptions={"owl": "a bird of the night"},
        replace=True,
    )
    wanted.options.update({"depth": 2})
    assert request == wanted


def test_a_training_that_is_not_waited_for(both: EitherClient, server: FakeServer) -> None:
    fill(both)
    head = both.train("birds", target="label", wait=False)
    assert (head.state, head.job.running) == ("training", True)
    assert server.tries["WatchJob"] == 0


@pytest.mark.parametrize(("state", "ending"), [(FAILED, "failed: no memory"), (CANCELLED, "cancelled")])
def test_a_training_that_fails(both: EitherClient, server: FakeServer, state: int, ending: str) -> None:
    fill(both)
    server.jobs.script = [(RUNNING, 0.5, "step 3"), (state, 0.5, "no memory" if state == FAILED else "")]
    with pytest.raises(topwork.JobFailed, match=f"train job job-1 on 'birds-label' {ending}") as caught:
        both.train("birds", target="label")
    assert not caught.value.job.running


def test_a_training_outlasts_a_break_of_its_watching(both: EitherClient, server: FakeServer) -> None:
    fill(both)
    server.plan = lambda method, attempt, answers: unavailable() if method == "WatchJob" and attempt == 1 and answers else None
    assert both.train("birds", target="label").state == "ready"
    assert server.tries["WatchJob"] == 2


def test_a_time_for_all_of_a_training(both: EitherClient, server: FakeServer) -> None:
    fill(both)
    server.gate.clear()
    with pytest.raises(topwork.DeadlineExceeded):
        both.train("birds", target="label", timeout=0.4)
    server.gate.set()


def test_trainings_that_cannot_be(both: EitherClient, server: FakeServer) -> None:
    fill(both)
    with pytest.raises(topwork.InvalidInput, match="no column 'color'"):
        both.train("birds", target="color")
    with pytest.raises(topwork.InvalidInput, match=r"no task 'guess' \(ask for one of classification, multi-label"):
        both.train("birds", target="label", task="guess")
    with pytest.raises(topwork.InvalidInput, match="folds is -1"):
        both.train("birds", target="label", folds=-1)
    both.train("birds", target="label")
    with pytest.raises(topwork.AlreadyExists):
        both.train("birds", target="label")
    assert both.train("birds", target="label", replace=True).state == "ready"


def test_heads(both: EitherClient, server: FakeServer) -> None:
    assert both.head("kinds").warnings == ("class 'high' has 3 examples",)
    assert [head.name for head in both.heads("pictures")] == ["cells"]
    assert len(both.heads()) == len(server.heads.heads)
    pretrained = both.head("motions")
    assert (pretrained.pretrained, pretrained.job) == (True, None)
    assert "pretrained on clips/pooled" in repr(pretrained)
    both.drop_head("kinds")
    with pytest.raises(topwork.NotFound, match="no head 'kinds'"):
        both.head("kinds")


def test_the_report(both: EitherClient) -> None:
    report = both.report("tags")
    assert (report.head, report.metric.value, report.baseline[0].low) == ("tags", 0.912, 0.35)
    assert report.confusion.counts[0] == (180, 20, 0)
    assert report.confusion.pairs()[0] == (20, "low", "middle")
    assert [(point.items, point.metric.value) for point in report.learning_curve] == [(48, 0.7), (96, 0.8), (386, 0.91)]
    assert report.calibration_after[0] == topwork.report.ReliabilityBin(0.85, 0.84, 400)
    assert (report.misclassified[0].text, report.classes[0].support, report.semi_supervised) == ("not [bad] at all", 200, None)
    assert report.trials[0]["settings"] == {"l2": 0.1}
    assert report.json["of_a_newer_server"] == 1
    assert repr(report).startswith("<Report of tags: accuracy 0.912 (0.885 to 0.936); macro F1")
    assert both.report_page("tags") == "<!doctype html><title>tags</title>"
    with pytest.raises(topwork.NotFound):
        both.report("nobody")


def test_what_unlabeled_items_did(both: EitherClient, monkeypatch: pytest.MonkeyPatch) -> None:
    figure = REPORT["metrics"][0]
    used = {"method": "self-training", "items": 100, "without": figure, "with_them": figure, "gain": {**figure, "value": 0.01}}
    changed = {**REPORT, "semi_supervised": used, "confusion": None, "scatter": [[1, 2.5]], "of_a_newer_server": 1}
    monkeypatch.setattr(fake_heads_service, "REPORT", {name: value for name, value in changed.items() if name != "classes"})
    report = both.report("tags")
    assert (report.semi_supervised.items, report.semi_supervised.gain.value) == (100, 0.01)
    assert (report.confusion, report.scatter, report.classes) == (None, ((1.0, 2.5),), ())


def test_a_probe(both: EitherClient, server: FakeServer) -> None:
    fill(both)
    seen: list[topwork.Job] = []
    table = both.probe("birds", target="label", taps=["pooled", "tokens"], folds=3, progress=seen.append)
    assert [row.tap for row in table] == ["pooled", "tokens"]
    assert (table.best.metric.value, table.best.difference, table[1].difference.value) == (0.912, None, -0.112)
    assert seen[-1].state == "done"
    [request] = sent(server, heads_pb2.ProbeRequest)
    assert (request.sets, request.taps, request.folds, request.kind) == (["birds"], ["pooled", "tokens"], 3, "")
    titles, first, second, *rest = str(table).splitlines()
    assert titles.split("  ")[0] == "set"
    assert first.split() == "birds letters pooled row 4 0.912 0.885 to 0.936 l2=0.1".split()
    assert second.split() == "birds letters tokens mean 4 0.800 0.885 to 0.936 -0.112 (-0.150 to -0.070) l2=1".split()
    assert rest == [
        "5-fold cross-validation over 482 items",
        "baseline: accuracy 0.400 (0.350 to 0.450)",
        "warning: few items",
        "pooled is best",
    ]
    assert first.index("0.885") == titles.index("interval")


def test_a_probe_that_is_not_waited_for(both: EitherClient, server: FakeServer) -> None:
    fill(both)
    job = both.probe(["birds"], target="label", wait=False)
    with pytest.raises(topwork.InvalidInput, match="has no table"):
        topwork.ProbeTable.of(job)
    *_, ended = both.watch_job(job.id)
    assert len(topwork.ProbeTable.of(ended)) == 2
    server.jobs.script = [(FAILED, 0.0, "no memory")]
    with pytest.raises(topwork.JobFailed, match="no memory"):
        both.probe(["birds"], target="label")
    server.jobs.script = [(DONE, 1.0, "")]
    with pytest.raises(topwork.NotFound):
        both.probe(["birds", "nobody"], target="label")


def test_a_head_as_a_file(both: EitherClient, tmp_path: Path) -> None:
    seen: list[tuple[int, int | None]] = []
    path = tmp_path / "kinds.onnx"
    about = both.export_head("kinds", path, progress=lambda done, total: seen.append((done, total)))
    assert path.read_bytes() == EXPORTED
    assert about["inputs"] == {"pixels": [1, 3, 8, 8]}
    assert seen[-1] == (len(EXPORTED), len(EXPORTED))
    assert [path.name for path in tmp_path.iterdir()] == ["kinds.onnx"]


def test_an_export_begins_again_after_a_break(both: EitherClient, server: FakeServer, tmp_path: Path) -> None:
    server.plan = lambda method, attempt, answers: unavailable() if attempt == 1 and answers == 2 else None
    seen: list[int] = []
    both.export_head("kinds", tmp_path / "k.onnx", progress=lambda done, total: seen.append(done))
    assert (tmp_path / "k.onnx").read_bytes() == EXPORTED
    assert server.tries["ExportHead"] == 2
    assert seen[-1] == len(EXPORTED)


def test_an_export_that_fails_leaves_what_was_there(both: EitherClient, server: FakeServer, tmp_path: Path) -> None:
    path = tmp_path / "k.onnx"
    path.write_bytes(b"before")
    server.plan = lambda method, attempt, answers: topwork_internal() if method == "ExportHead" and answers == 1 else None
    with pytest.raises(topwork.TopworkError, match="refused"):
        both.export_head("kinds", path)
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [("k.onnx", b"before")]
    with pytest.raises(topwork.InvalidInput, match="there is no folder"):
        both.export_head("kinds", tmp_path / "no" / "k.onnx")
    with pytest.raises(topwork.InvalidInput, match="is a folder"):
        both.export_head("kinds", tmp_path)


def topwork_internal() -> object:
    import grpc
    from fake_server import Refusal

    return Refusal(grpc.StatusCode.INTERNAL)


def test_spans_and_boxes_are_written() -> None:
    text = "Ada lived in London"
    assert topwork.span(13, 19, "CITY") == "13:19:CITY"
    assert text[13:19] == "London"
    assert topwork.span(0, 3) == "0:3"
    assert topwork.box(0, 1.5, 20, 3_000_000, "owl") == "0,1.5,20,3000000:owl"
    for bad in (
        lambda: topwork.span(3, 3, "A"),
        lambda: topwork.span(-1, 3),
        lambda: topwork.box(5, 0, 4, 1, "a"),
        lambda: topwork.box(1.0001, 0, 1.0002, 1, "a"),
    ):
        with pytest.raises(topwork.InvalidInput):
            bad()
    for edge, label, words in ((0, " ", "no label"), (math.nan, "a", "no place"), (-1e300, "a", "no place"), (9, "a", "empty")):
        with pytest.raises(topwork.InvalidInput, match=words):
            topwork.box(edge, 0, 4, 1, label)


def test_a_mask_is_a_png_that_others_read() -> None:
    from PIL import Image

    classes = np.arange(15).reshape(3, 5)
    classes[0, 0] = 255
    picture = Image.open(io.BytesIO(base64.b64decode(topwork.mask(classes))))
    assert (picture.mode, picture.size) == ("L", (5, 3))
    np.testing.assert_array_equal(np.asarray(picture), classes)


@pytest.mark.parametrize("bad", [np.zeros((2, 2, 3), int), np.zeros((0, 2), int), np.full((2, 2), 256), np.full((2, 2), 0.5)])
def test_what_is_no_mask_is_refused(bad: np.ndarray) -> None:  # type: ignore[type-arg]
    with pytest.raises(topwork.InvalidInput, match="a mask"):
        topwork.mask(bad)

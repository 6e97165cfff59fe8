"""`topwork predict`, against a client that answers from memory and over real gRPC."""

from __future__ import annotations

import base64
import csv
import io
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cli_stub import FINGERPRINT, StubCommand, features
from cli_stub_heads import head_info
from fake_server import FakeServer
from topwork import cli
from topwork.errors import InvalidInput
from topwork.predictions import Predictions
from topwork.rows import Rows


@pytest.fixture
def topwork(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> StubCommand:
    monkeypatch.setenv("COLUMNS", "160")
    return StubCommand(capsys, monkeypatch)


def records(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


def test_classes_for_people(topwork: StubCommand) -> None:
    assert topwork("predict", "kinds", "a bird", "a [small] one") == 0
    *lines, last = topwork.stdout.splitlines()
    assert [line.split() for line in lines] == [["item", "says"], "a bird owl 0.750".split(), "a [small] one wren 0.750".split()]
    assert last.startswith("2 items in ")
    asked = topwork.asked("predict")
    assert (asked["heads"], asked["items"], asked["top"], asked["options"]) == (["kinds"], ["a bird", "a [small] one"], 0, None)


def test_the_best_few(topwork: StubCommand) -> None:
    assert topwork("predict", "kinds", "a", "--top", "2") == 0
    assert "owl 0.750, wren 0.250" in topwork.stdout
    assert topwork.asked("predict")["top"] == 2


def test_the_candidates_of_a_promise(topwork: StubCommand) -> None:
    topwork.client.alter = lambda found: replace(found, candidates=[(0, 1), (1,)])
    assert topwork("predict", "kinds", "a", "b", "--coverage", "0.9") == 0
    assert topwork.asked("predict")["coverage"] == 0.9
    first, second, _ = topwork.stdout.splitlines()[1:]
    assert ("owl 0.750 or wren 0.250" in first, " or " in second) == (True, False)
    assert topwork("predict", "kinds", "a", "--coverage", "0.9", "--json") == 0
    assert records(topwork.stdout)[0]["candidates"] == ["owl", "wren"]
    for promise in ("0", "1", "90"):
        assert topwork("predict", "kinds", "a", "--coverage", promise) == 2
        assert "--coverage" in topwork.stderr


def test_none_of_these(topwork: StubCommand) -> None:
    typicality = np.array([0.5, 0.0021], np.float32)
    topwork.client.alter = lambda found: replace(found, abstained=["unsure", "unlike"], typicality=typicality)
    assert topwork("predict", "kinds", "a", "b", "--abstain", "0.2", "--unlike", "0.01") == 0
    assert (topwork.asked("predict")["abstain"], topwork.asked("predict")["unlike"]) == (0.2, 0.01)
    first, second, _ = topwork.stdout.splitlines()[1:]
    assert ("none of these: unsure, owl 0.750" in first, "unlike the training items, typicality 0.002" in second) == (True, True)
    assert topwork("predict", "kinds", "a", "b", "--abstain", "0.2", "--json") == 0
    assert records(topwork.stdout)[0] == {
        **{"item": "a", "probability": 0.75, "abstained": "unsure", "typicality": 0.5},
        "probabilities": {"owl": 0.75, "wren": 0.25},
    }


def test_all_tasks_for_people(topwork: StubCommand) -> None:
    assert topwork("predict", "tags,size,words,cells", "a", "b") == 0
    titles, _, second, _ = topwork.stdout.splitlines()
    assert titles.split() == ["item", "tags", "size", "words", "cells"]
    assert "b" in second
    for text in ("big 1.000, [red] 0.750", "1 (0.5 to 1.5)", "CITY 'London' 0.875", "2x2: sky 75%, owl 25%"):
        assert text in second, text


def test_detections(topwork: StubCommand) -> None:
    assert topwork("predict", "things", "a", "b", "--min-score", "0.5", "--max-overlap", "0.3", "--max-boxes", "7") == 0
    _, first, second, _ = topwork.stdout.splitlines()
    assert "owl 0.875 at 1,2,30,16; [wren] 0.250 at 0,0,8,8" in first
    assert "nothing found" in second
    [(_, asked)] = [call for call in topwork.client.calls if call[0] == "predict"]
    assert (asked["min_score"], asked["max_overlap"], asked["max_boxes"]) == (0.5, 0.3, 7)
    assert topwork("predict", "things", "a", "--json") == 0
    [record] = records(topwork.stdout)
    assert record["detections"][0] == {"label": "owl", "score": 0.875, "box": [1, 2.5, 30, 16]}
    assert topwork("predict", "things", "a", "--min-score", "2") == 2
    assert "--min-score" in topwork.stderr


def test_an_object_a_line_for_programs(topwork: StubCommand) -> None:
    assert topwork("predict", "kinds", "a", "b", "--json") == 0
    assert records(topwork.stdout)[1] == {
        "item": "b",
        "label": "wren",
        "probability": 0.75,
        "probabilities": {"wren": 0.75, "owl": 0.25},
    }
    assert topwork("predict", "tags,size,words,cells", "a", "--json") == 0
    [record] = records(topwork.stdout)
    assert record["tags"]["labels"] == ["small", "[red]"]
    assert record["size"] == {"value": 0.0, "low": -0.5, "high": 0.5}
    assert record["words"]["spans"][0] == {
        **{"start": 0, "end": 6, "label": "CITY", "text": "London", "probability": 0.875, "part": 0}
    }
    assert record["cells"]["mask"] == [[0, 0], [1, 0]]
    assert record["cells"]["box"] == [0, 0, 32, 16]


def test_into_a_table(topwork: StubCommand, tmp_path: Path) -> None:
    out = tmp_path / "predictions.csv"
    assert topwork("predict", "kinds", "a, b", "ü", "-o", out) == 0
    assert topwork.stdout.splitlines()[-1].endswith(f"-> {out}")
    assert list(csv.DictReader(io.StringIO(out.read_text("utf-8")))) == [
        {"item": "a, b", "label": "owl", "probability": "0.75"},
        {"item": "ü", "label": "wren", "probability": "0.75"},
    ]
    assert topwork("predict", "kinds", "a", "--top", "2", "-o", out) == 0
    [row] = csv.DictReader(io.StringIO(out.read_text()))
    assert json.loads(row["probabilities"]) == {"owl": 0.75, "wren": 0.25}
    assert topwork("predict", "tags,size,words,cells", "a", "-o", out, "--json") == 0
    assert topwork.json == {"heads": ["tags", "size", "words", "cells"], "items": 1, "failed": 0, "file": str(out)}
    [row] = csv.DictReader(io.StringIO(out.read_text()))
    assert json.loads(row["tags.labels"]) == ["small", "[red]"]
    assert row["size.high"] == "0.5"
    assert json.loads(row["words.spans"])[0]["text"] == "London"
    assert base64.b64decode(row["cells.mask"]).startswith(b"\x89PNG")


def test_into_lines_and_parquet(topwork: StubCommand, tmp_path: Path) -> None:
    import pyarrow.parquet

    assert topwork("predict", "kinds", "a", "-o", tmp_path / "predictions.jsonl") == 0
    [record] = records((tmp_path / "predictions.jsonl").read_text())
    assert record["label"] == "owl"
    assert topwork("predict", "kinds,tags", "a", "b", "-o", tmp_path / "predictions.parquet") == 0
    table = pyarrow.parquet.read_table(tmp_path / "predictions.parquet")
    assert table["kinds.label"].to_pylist() == ["owl", "wren"]
    assert table["tags.labels"].to_pylist() == [["small", "[red]"], ["big", "[red]"]]
    assert json.loads(table.schema.metadata[b"topwork"])["kinds"]["task"] == "classification"


def test_a_file_that_cannot_be_written_is_refused_first(topwork: StubCommand, tmp_path: Path) -> None:
    assert topwork("predict", "kinds", "a", "-o", tmp_path / "predictions.npz") == 1
    assert ".csv, .jsonl, .parquet" in topwork.stderr
    assert topwork("predict", "kinds", "a", "-o", tmp_path / "no" / "predictions.csv") == 1
    assert topwork.client.calls == []


def test_a_folder_in_the_place_of_the_output_is_named(topwork: StubCommand, tmp_path: Path) -> None:
    (tmp_path / "out.csv").mkdir()
    assert topwork("predict", "kinds", "a", "-o", tmp_path / "out.csv") == 1
    assert str(tmp_path / "out.csv") in topwork.stderr
    assert ".part" not in topwork.stderr


def test_items_from_files(topwork: StubCommand, tmp_path: Path) -> None:
    (tmp_path / "q.csv").write_text("body,n\nred,1\nblue,2\n")
    assert topwork("predict", "kinds", "--from", tmp_path / "q.csv", "--column", "body") == 0
    assert topwork.asked("predict")["items"] == ["red", "blue"]
    topwork.client.found_heads = [head_info(encoder="pictures")]
    (tmp_path / "a.jpg").write_bytes(b"four")
    assert topwork("predict", "kinds", tmp_path, "--json") == 0
    assert records(topwork.stdout)[0]["item"] == str(tmp_path / "a.jpg")


def test_columns_of_the_file_go_along(topwork: StubCommand, tmp_path: Path) -> None:
    (tmp_path / "q.csv").write_text('body,n,label\nred,007,x\nblue,2,"y, z"\n')
    asked = ("predict", "kinds", "--from", tmp_path / "q.csv", "--column", "body")
    assert topwork(*asked, "--keep", "n", "-o", tmp_path / "predictions.csv") == 0
    rows = list(csv.DictReader((tmp_path / "predictions.csv").read_text().splitlines()))
    assert [(row["item"], row["n"]) for row in rows] == [("red", "007"), ("blue", "2")]
    assert all(row["label"] and row["probability"] for row in rows)
    assert topwork(*asked, "--keep", "n,label", "--json") == 0
    first, second = records(topwork.stdout)
    assert (first["label"], second["label"], second["n"]) == ("x", "y, z", "2")  # the file's own
    assert "label" in second["kinds"]


def test_only_columns_of_a_file_can_go_along(topwork: StubCommand, tmp_path: Path) -> None:
    (tmp_path / "q.csv").write_text("body,n\nred,1\n")
    assert topwork("predict", "kinds", "--from", tmp_path / "q.csv", "--column", "body", "--keep", "m") == 1
    assert "no column 'm'" in topwork.stderr
    assert topwork("predict", "kinds", "red", "--keep", "n") == 2


def test_items_of_a_set(topwork: StubCommand) -> None:
    topwork.client.rows = Rows(["x", "y"], {})
    assert topwork("predict", "kinds", "--set", "birds", "--where", "label IS NULL", "--json") == 0
    asked = topwork.asked("predict")
    assert (asked["set"], asked["ids"], asked["items"]) == ("birds", ["x", "y"], None)
    assert topwork.asked("read")["where"] == "label IS NULL"
    assert [record["item"] for record in records(topwork.stdout)] == ["x", "y"]
    assert topwork("predict", "kinds", "--set", "birds", "--id", "z") == 0
    assert topwork.asked("predict")["ids"] == ["z"]
    topwork.client.rows = Rows([], {})
    assert topwork("predict", "kinds", "--set", "birds") == 1
    assert "no item of birds is selected" in topwork.stderr


def test_vectors(topwork: StubCommand, tmp_path: Path) -> None:
    np.save(tmp_path / "q.npy", np.ones((2, 4), np.float32))
    assert topwork("predict", "kinds", "--vector", tmp_path / "q.npy", "--json") == 0
    assert topwork.asked("predict")["vectors"].shape == (2, 4)
    assert [record["item"] for record in records(topwork.stdout)] == ["q:1", "q:2"]
    features([1, 1]).save(tmp_path / "q.npz", ["one", "two"])
    assert topwork("predict", "kinds", "--vector", tmp_path / "q.npz") == 0
    assert topwork.asked("predict")["vectors"].fingerprint == FINGERPRINT


def test_a_head_of_ready_vectors_reads_no_items(topwork: StubCommand) -> None:
    topwork.client.found_heads = [head_info(encoder="")]
    assert topwork("predict", "kinds", "a") == 1
    assert "head kinds reads ready vectors (give them with --vector, or name a --set)" in topwork.stderr


def test_skipped_items_are_reported(topwork: StubCommand, tmp_path: Path) -> None:
    def fail(found: Predictions) -> Predictions:
        return replace(found, failures={i: InvalidInput("a bad text", item=i) for i in range(1, 8)})

    topwork.client.alter = fail
    assert topwork("predict", "kinds", *"abcdefghi", "--skip-bad-items", "--option", "truncate=true") == 0
    assert "b     skipped" in topwork.stdout
    assert topwork.stderr.splitlines()[0] == "topwork: skipped 'b': item 1: a bad text"
    assert topwork.stderr.splitlines()[-1] == "topwork: skipped 2 more"
    asked = topwork.asked("predict")
    assert (asked["skip_bad_items"], asked["options"]) == (True, {"truncate": True})
    assert topwork("predict", "kinds", *"abcdefghi", "--skip-bad-items", "-o", tmp_path / "predictions.csv") == 0
    rows = list(csv.DictReader(io.StringIO((tmp_path / "predictions.csv").read_text())))
    assert (rows[0]["label"], rows[0]["error"]) == ("owl", "")
    assert (rows[1]["label"], rows[1]["error"]) == ("", "item 1: a bad text")


@pytest.mark.parametrize(
    "words",
    [
        ("kinds",),
        ("kinds", "a", "--set", "birds"),
        ("kinds", "a", "--where", "x"),
        ("kinds", "--set", "birds", "--id", "x", "--where", "y"),
        ("kinds", "a", "--top", "0"),
        (",", "a"),
    ],
)
def test_wrong_usage(topwork: StubCommand, words: tuple[str, ...]) -> None:
    assert topwork("predict", *words) == 2
    assert "Usage: topwork" in topwork.stderr
    assert topwork.client.calls == []


def test_over_the_wire(server: FakeServer, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """From a training to predictions in a file, and the head in another, against a server."""

    def run(*words: object) -> str:
        assert cli.main([*map(str, words), "--server", server.target]) == 0
        return capsys.readouterr().out

    (tmp_path / "rows.csv").write_text("text,label\n" + "".join(f"{i},{'ab'[i % 2]}\n" for i in range(100)))
    run("write", "birds", "--from", tmp_path / "rows.csv", "--encoder", "letters")
    assert "head birds-label: classification of 3 classes" in run("train", "birds", "--target", "label")
    run("predict", "birds-label,size", "--from", tmp_path / "rows.csv", "-o", tmp_path / "predictions.csv")
    rows = list(csv.DictReader(io.StringIO((tmp_path / "predictions.csv").read_text())))
    assert [row["size.value"] for row in rows] == [f"{i}.0" for i in range(100)]
    assert rows[4]["birds-label.label"] == "middle"
    assert "accuracy" in run("report", "birds-label")
    assert "pooled is best" in run("probe", "birds", "--target", "label")
    assert "birds-label" in run("heads")
    run("heads", "export", "birds-label", "-o", tmp_path / "b.onnx")
    assert (tmp_path / "b.onnx").stat().st_size == 10240
    run("heads", "drop", "birds-label", "--yes")
    assert "birds-label" not in run("heads")

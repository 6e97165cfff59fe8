"""`topwork search`, `index`, `indexes` and `jobs`, against a client that answers from memory."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cli_stub import FINGERPRINT, WHEN, StubCommand, features, index_info, job, set_info
from topwork.cli import progress
from topwork.errors import InvalidInput
from topwork.rows import Rows
from topwork.search_results import Hits


@pytest.fixture
def topwork(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> StubCommand:
    monkeypatch.setenv("COLUMNS", "160")
    command = StubCommand(capsys, monkeypatch)
    command.client.known = {"birds": set_info()}
    command.client.hits = [HITS]
    return command


HITS = Hits(
    ids=["owls/1.jpg", "[b]"],
    scores=np.array([0.9875, 0.5], np.float32),
    metadata={"year": [2024, None], "none": [None, None], "good": [True, False]},
    version=12,
    strategy="index",
    seconds=0.0012,
)


def test_search_for_people(topwork: StubCommand) -> None:
    assert topwork("search", "birds", "a red bird") == 0
    assert [line.split() for line in topwork.stdout.splitlines()] == [
        ["score", "id", "year", "good"],
        ["0.9875", "owls/1.jpg", "2024", "true"],
        ["0.5000", "[b]", "-", "false"],
        ["2", "hits,", "index,", "1.2", "ms"],
    ]
    asked = topwork.asked("search")
    assert (asked["query"], asked["k"], asked["columns"], asked["within"]) == (["a red bird"], 10, None, None)


def test_search_for_programs_is_an_object_a_query(topwork: StubCommand) -> None:
    assert topwork("search", "birds", "a", "b", "--json") == 0
    first, second = topwork.json
    assert (first["query"], second["query"], first["strategy"], first["metric"]) == ("a", "b", "index", "cosine")
    assert first["hits"][0]["id"] == "owls/1.jpg"
    assert first["hits"][0]["metadata"] == {"year": 2024, "none": None, "good": True}
    assert first["hits"][0]["score"] == pytest.approx(0.9875)
    assert set(first["hits"][0]) == {"id", "score", "metadata"}


def test_a_file_that_is_refused_is_named(topwork: StubCommand, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: Any, **flags: Any) -> Any:
        raise InvalidInput("not a recording", item=1)

    topwork.client.known = {"calls": replace(set_info("calls"), modality="audio")}
    monkeypatch.setattr(topwork.client, "search", refuse)
    paths = [str(tmp_path / name) for name in ("a.wav", "b.wav")]
    for path in paths:
        Path(path).write_bytes(b"sound")
    assert topwork("search", "calls", *paths) == 1
    assert f"item 1: {paths[1]}: not a recording" in topwork.stderr


def test_several_queries_have_a_heading_each(topwork: StubCommand) -> None:
    topwork.client.hits = [HITS, Hits([], np.zeros(0, np.float32))]
    assert topwork("search", "birds", "first query", "second [query]") == 0
    assert topwork.stdout.splitlines()[0] == "first query"
    assert "second [query]\nnothing was found\n" in topwork.stdout
    assert topwork.stdout.endswith("2 hits, index, 1.2 ms\n")


def test_what_is_asked_for_is_passed_on(topwork: StubCommand) -> None:
    words = ["-k", "3", "--where", "year > 2020", "--within", "0.5", "--every-row", "--show", "year,good"]
    assert topwork("search", "birds", "a", *words, "--effort", "64", "--index", "small") == 0
    asked = topwork.asked("search")
    assert (asked["k"], asked["where"], asked["within"], asked["every_row"]) == (3, "year > 2020", 0.5, True)
    assert (asked["columns"], asked["exact"], asked["effort"], asked["index"]) == (["year", "good"], False, 64, "small")
    assert topwork("search", "birds", "a", "--exact") == 0
    assert topwork.asked("search")["exact"]


def test_stored_items_vectors_and_files(topwork: StubCommand, tmp_path: Path) -> None:
    assert topwork("search", "birds", "--id", "x", "--id", "y") == 0
    assert topwork.asked("search")["stored"] == ["x", "y"]
    assert topwork.stdout.startswith("x\n")
    np.save(tmp_path / "q.npy", np.ones(4, np.float32))
    assert topwork("search", "birds", "--vector", tmp_path / "q.npy", "--json") == 0
    assert np.shape(topwork.asked("search")["vectors"]) == (1, 4)
    assert topwork.json[0]["query"] == "q:1"
    features([1, 1]).save(tmp_path / "q.npz", ["one", "two"])
    assert topwork("search", "birds", "--vector", tmp_path / "q.npz", "--json") == 0
    assert topwork.asked("search")["fingerprint"] == FINGERPRINT
    assert [record["query"] for record in topwork.json] == ["one", "two"]
    (tmp_path / "q.csv").write_text("body,n\nred,1\nblue,2\n")
    assert topwork("search", "birds", "--from", tmp_path / "q.csv", "--column", "body") == 0
    assert topwork.asked("search")["query"] == ["red", "blue"]


def test_pictures_are_found_by_paths(topwork: StubCommand, tmp_path: Path) -> None:
    topwork.client.known = {"birds": set_info(modality="image")}
    (tmp_path / "a.jpg").write_bytes(b"four")
    assert topwork("search", "birds", tmp_path) == 0
    assert topwork.asked("search")["query"] == [str(tmp_path / "a.jpg")]


def test_distances_are_labeled_so(topwork: StubCommand) -> None:
    topwork.client.hits = [Hits(["a"], np.array([1.5], np.float32), metric="l2")]
    assert topwork("search", "birds", "a") == 0
    assert topwork.stdout.splitlines()[0].split() == ["distance", "id"]


@pytest.mark.parametrize(
    ("kind", "span", "line_end"),
    [("characters", [3, 9], "3-9"), ("seconds", [0.5, 1.25], "0.50-1.25 s"), ("box", [0, 0, 16, 16], "0,0,16,16")],
)
def test_rows_and_spans(topwork: StubCommand, kind: str, span: list[float], line_end: str) -> None:
    spans = np.array([span], np.float32)
    topwork.client.hits = [Hits(["a"], np.array([1.0], np.float32), rows=np.array([2]), spans=spans, span_kind=kind)]
    assert topwork("search", "birds", "a", "--every-row") == 0
    title, line, _ = topwork.stdout.splitlines()
    assert title.split() == ["score", "id", "row", kind]
    assert line.split() == ["1.0000", "a", "2", *line_end.split()]
    assert topwork("search", "birds", "a", "--json") == 0
    assert (topwork.json[0]["hits"][0]["row"], topwork.json[0]["hits"][0]["span"]) == (2, span)


def test_texts_that_are_kept_are_shown(topwork: StubCommand) -> None:
    topwork.client.known = {"birds": set_info(keeps_inputs=True)}
    topwork.client.rows = Rows(["owls/1.jpg"], {}, inputs=["an owl\nat night " + "hoo " * 50])
    assert topwork("search", "birds", "a") == 0
    asked = topwork.asked("read")
    assert (asked["ids"], asked["inputs"], asked["taps"], asked["columns"]) == (["owls/1.jpg", "[b]"], True, [], [])
    assert "an owl at night hoo" in topwork.stdout
    assert "..." in topwork.stdout
    assert topwork("search", "birds", "a", "--json") == 0
    first, second = topwork.json[0]["hits"]
    assert first["text"].startswith("an owl\nat night")
    assert "text" not in second


def test_an_index_is_built_and_waited_for(topwork: StubCommand) -> None:
    assert topwork("index", "birds", "--kind", "hnsw", "--option", "links=16", "--target-recall", "0.99", "--metric", "l2") == 0
    asked = topwork.asked("create_index")
    assert (asked["kind"], asked["options"], asked["target_recall"], asked["metric"]) == ("hnsw", {"links": 16}, 0.99, "l2")
    assert (asked["name"], asked["tap"], asked["wait"]) == ("", "", True)
    assert topwork.stderr == "birds/pooled: 25%, training, 30 s left\nbirds/pooled: 100%\n"
    assert topwork.stdout == (
        "index pooled of birds: IVF64,Flat over 5,000 rows, recall 0.963 at effort 8, 5,210 queries/s, 153 kB of memory, "
        "built in 31 s\n"
    )


def test_an_index_that_misses_its_target_recall_says_so(topwork: StubCommand, monkeypatch: pytest.MonkeyPatch) -> None:
    missed = index_info(recall=0.64, missed_target=True, detail="recall is 0.64 at most; the target was 0.95")
    monkeypatch.setattr(topwork.client, "create_index", lambda *_, **__: missed)
    assert topwork("index", "birds") == 0
    assert "recall is 0.64 at most; the target was 0.95" in topwork.stderr
    assert topwork("index", "birds", "--json") == 0
    assert (topwork.json["missed_target"], topwork.json["detail"]) == (True, missed.detail)


def test_what_is_not_said_of_an_index_the_client_decides(topwork: StubCommand) -> None:
    assert topwork("index", "birds", "--json") == 0
    asked = topwork.asked("create_index")
    assert (asked["kind"], asked["metric"], asked["target_recall"]) == ("auto", "cosine", 0.95)
    assert (topwork.json["recall"], topwork.stderr) == (0.9625, "")


def test_an_index_that_nobody_waits_for(topwork: StubCommand) -> None:
    assert topwork("index", "birds", "--rebuild", "--no-wait", "--name", "pooled") == 0
    assert topwork.asked("rebuild_index")["name"] == "pooled"
    assert topwork.asked("rebuild_index")["wait"] is False
    assert topwork.stdout == "index pooled of birds is being built: `topwork jobs 7c41 --watch`\n"


def test_a_build_that_fails(topwork: StubCommand) -> None:
    topwork.client.changes = [job(), job(state="failed", error="no memory", ended=WHEN)]
    assert topwork("index", "birds") == 1
    assert "index job 7c41 on 'birds/pooled' failed: no memory" in topwork.stderr


@pytest.mark.parametrize("words", [("index", "birds"), ("index", "birds", "--rebuild"), ("jobs", "7c41", "--watch")])
def test_ctrl_c_ends_the_watching_not_the_job(topwork: StubCommand, words: tuple[str, ...]) -> None:
    topwork.client.changes = [job(), job(message="interrupt")]
    assert topwork(*words) == 130
    assert topwork.stderr.splitlines()[-1] == (
        "topwork: it goes on in the server: `topwork jobs 7c41 --watch` shows it, --cancel ends it"
    )


def test_indexes(topwork: StubCommand) -> None:
    assert topwork("indexes") == 0
    assert topwork.stdout.splitlines()[1].split() == [
        *("birds", "pooled", "pooled", "auto", "IVF64,Flat", "cosine", "ready", "5,000", "0.963", "153", "kB")
    ]
    assert topwork("indexes", "birds", "--json") == 0
    assert topwork.json[0]["operating_points"][1] == {"effort": 8, "recall": 0.9625, "qps": 5210.0}
    topwork.client.found_indexes = []
    assert topwork("indexes", "birds") == 0
    assert "there are no indexes: `topwork index SET` builds one" in topwork.stdout


def test_one_index_in_full(topwork: StubCommand) -> None:
    topwork.client.found_indexes = [index_info(state="failed", detail="no memory", options={"links": 16})]
    assert topwork("indexes", "birds", "pooled") == 0
    for text in (
        "failed: no memory",
        "5,000 (7 written and 1 gone since the build)",
        "links=16",
        "0.9625 at effort 8",
        "7c41, done",
    ):
        assert text in topwork.stdout
    points = [line.split() for line in topwork.stdout.splitlines()[-2:]]
    assert points == [["4", "0.9000", "9,000"], ["8", "0.9625", "5,210", "*"]]
    assert topwork("indexes", "birds", "pooled", "--json") == 0
    assert topwork.json["job"]["state"] == "done"


def test_kinds(topwork: StubCommand) -> None:
    assert topwork("indexes", "--kinds") == 0
    assert ["hnsw", "links", "int", "32", "neighbors", "of", "each", "row"] in [
        line.split() for line in topwork.stdout.splitlines()
    ]
    assert topwork("indexes", "--kinds", "--json") == 0
    assert [kind["kind"] for kind in topwork.json] == ["flat", "hnsw"]


def test_jobs(topwork: StubCommand) -> None:
    assert topwork("jobs") == 0
    assert topwork.stdout.splitlines()[1].split()[:5] == ["7c41", "index", "birds/pooled", "running", "25%"]
    assert topwork("jobs", "--json") == 0
    assert topwork.json[0]["created"] == "2025-03-01T12:00:00+00:00"
    topwork.client.listed_jobs = []
    assert topwork("jobs") == 0
    assert topwork.stdout == "there are no jobs\n"


def test_one_job(topwork: StubCommand) -> None:
    assert topwork("jobs", "7c41") == 0
    assert "running, 25%" in topwork.stdout
    assert topwork("jobs", "7c41", "--cancel") == 0
    assert topwork.asked("cancel_job") == {"id": "7c41"}
    assert "cancelled" in topwork.stdout
    assert topwork("jobs", "7c41", "--watch") == 0
    assert "state  done" in topwork.stdout
    topwork.client.changes = [job(state="failed", error="no memory", ended=WHEN)]
    assert topwork("jobs", "7c41", "--watch", "--json") == 1
    assert topwork.json["error"] == "no memory"


def test_lines_of_a_job_where_there_is_no_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    now = 100.0
    with progress.of_job(quiet=False, clock=lambda: now) as show:
        show(job())
        now += 1
        show(job(fraction=0.3))
        show(job(fraction=0.31, message="step 1 of 1,200"))
        show(job(fraction=0.32, message="step 2 of 1,200"))
        show(job(fraction=0.5, message="measuring", seconds_left=None))
        now += 6
        show(job(fraction=0.6, message="measuring", seconds_left=65.0))
        show(job(state="done", fraction=1.0))
    assert capsys.readouterr().err.splitlines() == [
        "birds/pooled: 25%, training, 30 s left",
        "birds/pooled: 31%, step 1 of 1,200, 30 s left",
        "birds/pooled: 50%, measuring",
        "birds/pooled: 60%, measuring, 1 min 5 s left",
        "birds/pooled: 100%",
    ]


@pytest.mark.parametrize(
    "words",
    [
        ("search", "birds"),
        ("search", "birds", "a", "--id", "x"),
        ("search", "birds", "--id", "x", "--vector", "v.npy"),
        ("search", "birds", "a", "-k", "0"),
        ("search", "birds", "a", "--effort", "many"),
        ("index", "birds", "--metric", "dot"),
        ("index", "birds", "--target-recall", "1.5"),
        ("index", "birds", "--rebuild", "--kind", "flat"),
        ("indexes", "birds", "--kinds"),
        ("jobs", "--watch"),
        ("jobs", "7c41", "--watch", "--cancel"),
    ],
)
def test_wrong_usage(topwork: StubCommand, words: tuple[str, ...]) -> None:
    assert topwork(*words) == 2
    assert "Usage: topwork" in topwork.stderr
    assert topwork.client.calls == []

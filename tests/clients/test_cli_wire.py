"""The verbs of sets, indexes and jobs over real gRPC, from a file to hits and out into a file again."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from cli_command import Command
from fake_server import FakeServer, Refusal, unavailable
from topwork._transport.upload_stream import WINDOW


@pytest.fixture
def topwork(server: FakeServer, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Command:
    monkeypatch.setenv("COLUMNS", "160")
    return Command(server.target, capsys)


@pytest.fixture
def reviews(tmp_path: Path) -> Path:
    """300 rows: `stars` is empty in the first message, and `late` has its first value in the last one."""
    path = tmp_path / "reviews.csv"
    lines = [f"r{i},{i},{'' if i < 130 else i % 5},{'x' if i > 290 else ''}" for i in range(300)]
    path.write_text("\n".join(["nr,body,stars,late", *lines]))
    return path


def write(topwork: Command, reviews: Path) -> None:
    words = ["write", "reviews", "--from", reviews, "--column", "body", "--id", "nr", "--encoder", "letters"]
    assert topwork(*words, "--keep-inputs") == 0, topwork.stderr


def test_from_a_file_to_hits_and_into_a_file(topwork: Command, reviews: Path, tmp_path: Path) -> None:
    write(topwork, reviews)
    assert topwork.stdout.startswith("300 items in reviews (300 new), version ")
    described = topwork.json("sets", "reviews")
    assert (described["items"], described["columns"]) == (300, {"stars": "int", "late": "string"})
    assert topwork("sets") == 0
    assert "300" in topwork.stdout
    rows = topwork.json("read", "reviews", "--where", "id = 'r131'", "--tap", "pooled")
    [item] = rows["items"]
    assert (item["id"], item["metadata"], item["features"]["pooled"][0][0]) == ("r131", {"stars": 1, "late": None}, 131.0)
    out = tmp_path / "out.npz"
    assert topwork("read", "reviews", "-o", out) == 0
    assert "300 items of reviews" in topwork.stdout
    assert out.stat().st_size > 300 * 16
    assert topwork("index", "reviews", "--kind", "hnsw", "--option", "links=16") == 0
    assert "index pooled of reviews: HNSW32,Flat over 300 rows, recall 0.970 at effort 32" in topwork.stdout
    [first, _] = topwork.json("search", "reviews", "131", "150", "-k", "3", "--where", "stars = 1", "--show", "stars")
    assert (first["query"], len(first["hits"]), first["hits"][0]["metadata"]) == ("131", 3, {"stars": 1})
    assert first["hits"][0]["text"].isdecimal()
    [like] = topwork.json("search", "reviews", "--id", "r131", "-k", "1")
    assert like["hits"][0]["id"] != "r131"
    assert topwork("search", "reviews", "131") == 0
    assert topwork.stdout.splitlines()[0].split()[:3] == ["score", "id", "text"]


def test_written_again_it_is_the_same(topwork: Command, server: FakeServer, reviews: Path) -> None:
    write(topwork, reviews)
    write(topwork, reviews)
    assert topwork.stdout.startswith("300 items in reviews (300 updated), ")
    assert topwork.json("sets", "reviews")["items"] == 300


def test_a_folder_of_pictures_and_a_picture_to_search_by(topwork: Command, tmp_path: Path) -> None:
    for number, name in enumerate(("a.jpg", "owls/b.jpg", "owls/c.jpg")):
        path = tmp_path / "photos" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x" * (10 + number))
    (tmp_path / "photos" / "empty.jpg").touch()
    words = ["write", "birds", tmp_path / "photos", "--encoder", "pictures", "--tap", "pooled"]
    assert topwork(*words, "--skip-bad-items") == 0
    assert topwork.stdout.startswith("4 items in birds (")
    [found] = topwork.json("search", "birds", tmp_path / "photos/owls/c.jpg", "-k", "1")
    assert (found["hits"][0]["id"], found["hits"][0]["metadata"]) == ("owls/c.jpg", {"folder": "owls", "name": "c.jpg"})


def test_features_go_from_embed_into_a_set(topwork: Command, server: FakeServer, tmp_path: Path) -> None:
    out = tmp_path / "v.npz"
    assert topwork("embed", "letters", "10", "11", "12", "-o", out) == 0
    assert topwork("write", "mine", "--vectors", out) == 0, topwork.stderr
    assert topwork.json("read", "mine", "--tap", "pooled")["items"][1]["id"] == "11"
    [found] = topwork.json("search", "mine", "--vector", out, "-k", "1")[:1]
    assert found["query"] == found["hits"][0]["id"] == "10"
    server.fingerprint = lambda attempt: "cd" * 32
    assert topwork("embed", "letters", "10", "-o", out) == 0
    assert topwork("search", "mine", "--vector", out) == 1
    assert f"fingerprint {'cd' * 32} is not {'ab' * 32}" in topwork.stderr


def test_versions_deletions_and_the_end(topwork: Command, reviews: Path) -> None:
    write(topwork, reviews)
    assert topwork("versions", "reviews", "--pin", "all") == 0
    assert topwork.json("delete", "reviews", "--where", "stars > 2", "--yes")["deleted"] > 0
    assert topwork.json("delete", "reviews", "r1", "r2")["deleted"] == 2
    assert topwork.json("read", "reviews", "--version", "all", "--limit", "1")["total"] == 300
    assert topwork.json("read", "reviews", "--limit", "1")["total"] < 298
    assert topwork.json("versions", "reviews", "--prune", "30m", "--yes")["removed"] > 0
    assert topwork("drop", "reviews", "--yes") == 0
    assert topwork.json("sets") == []
    assert topwork("read", "reviews", "--json") == 1
    assert json.loads(topwork.stdout)["code"] == "NOT_FOUND"


def test_indexes_and_jobs(topwork: Command, reviews: Path) -> None:
    write(topwork, reviews)
    assert topwork("index", "reviews", "--no-wait") == 0
    job = topwork.json("indexes", "reviews", "pooled")["job"]["id"]
    assert topwork("jobs", job, "--watch") == 0
    assert "state  done" in topwork.stdout
    assert topwork("indexes", "--kinds") == 0
    assert topwork.json("jobs")[0]["id"] == job
    assert topwork("index", "reviews") == 1
    assert "index 'pooled' is there (drop it)" in topwork.stderr
    assert topwork("index", "reviews", "--rebuild", "--name", "pooled", "--json") == 0
    assert topwork("jobs", job, "--cancel") == 0
    assert topwork("drop", "reviews", "--index", "pooled", "--yes") == 0
    assert topwork.json("indexes") == []


def test_a_build_that_fails_says_why(topwork: Command, server: FakeServer, reviews: Path) -> None:
    write(topwork, reviews)
    server.jobs.script = [(2 + 1, 0.5, "no memory")]
    assert topwork("index", "reviews") == 1
    assert "failed: no memory" in topwork.stderr


def test_bad_items_are_named_by_their_ids(topwork: Command, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("\n".join(["good"] * 200 + ["bad"]))
    assert topwork("write", "notes", tmp_path / "a.txt", "--encoder", "letters") == 1
    assert topwork.stderr.splitlines()[-1] == "topwork: item 200: 'a:201': a.txt line 201: a bad text (send a good one)"
    assert topwork("write", "notes", tmp_path / "a.txt", "--encoder", "letters", "--skip-bad-items") == 0
    assert topwork.stderr == "topwork: skipped 'a:201': a.txt line 201: a bad text (send a good one)\n"


def test_a_restart_is_outlasted(topwork: Command, server: FakeServer, reviews: Path) -> None:
    def plan(method: str, attempt: int, answers: int) -> Refusal | None:
        return unavailable() if method == "Write" and attempt < 3 and answers == 1 else None

    server.plan = plan
    write(topwork, reviews)
    assert server.tries["Write"] == 3
    assert topwork.stdout.startswith("300 items in reviews (300 new)")


@pytest.mark.usefixtures("_interruptible")
def test_ctrl_c_while_it_writes(server: FakeServer, tmp_path: Path) -> None:
    """The tenth chunk is only sent when the first replies were read: some items are known to be stored."""
    (tmp_path / "a.txt").write_text("\n".join(map(str, range(5000))))
    reached, over = threading.Event(), threading.Event()

    def hold(method: str, attempt: int, answers: int) -> None:
        if method == "Write" and answers == WINDOW + 1:
            reached.set()
            over.wait(30)

    server.plan = hold
    words = ["write", "notes", str(tmp_path / "a.txt"), "--encoder", "letters", "--server", server.target]
    with subprocess.Popen([sys.executable, "-m", "topwork.cli", *words], stderr=subprocess.PIPE, text=True) as command:
        assert reached.wait(30)
        command.send_signal(signal.SIGINT)
        _, stderr = command.communicate(timeout=30)
    over.set()
    assert command.returncode == 130
    stored = re.fullmatch(
        r"topwork: ([\d,]+) items are stored; run the same command again to go on: nothing is encoded twice\n", stderr
    )
    assert stored
    assert 0 < int(stored[1].replace(",", "")) <= len(server.sets.sets["notes"].items)
    assert server.cancelled.wait(10)

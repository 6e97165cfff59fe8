"""`topwork write`, against a client that answers from memory."""

from __future__ import annotations

import io
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import cli_stub
import numpy as np
import pytest
from cli_stub import StubCommand, set_info
from topwork.cli import progress
from topwork.cli.write import WriteCounts
from topwork.errors import Unavailable


@pytest.fixture
def topwork(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> StubCommand:
    monkeypatch.setenv("COLUMNS", "160")
    return StubCommand(capsys, monkeypatch)


@pytest.fixture
def reviews(tmp_path: Path) -> Path:
    path = tmp_path / "reviews.csv"
    path.write_text("nr,text,stars\nx,good,5\ny,fine,\nz,bad,1\n")
    return path


def test_the_stub_takes_nothing_that_the_client_does_not() -> None:
    assert cli_stub.differences() == []


def test_words_for_people(topwork: StubCommand) -> None:
    assert topwork("write", "birds", "a red bird", "--encoder", "letters", "an owl", "a wren") == 0
    assert topwork.client.written == {word: (word, {}) for word in ("a red bird", "an owl", "a wren")}
    assert topwork.stdout.startswith("3 items in birds (3 new), version 12, ")
    assert topwork.stdout.endswith("/s\n")
    assert topwork.stderr == ""
    assert topwork.client.closed
    topwork.client.chunk = 1
    topwork("write", "birds", "an owl", "a bat", "--encoder", "letters")
    assert "2 items in birds (1 new, 1 unchanged), version 12" in topwork.stdout


def test_a_file_for_programs(topwork: StubCommand, reviews: Path) -> None:
    status = topwork("write", "birds", "--from", reviews, "--id", "nr", "--encoder", "letters", "--skip-bad-items", "--json")
    assert status == 0
    assert topwork.client.written == {"x": ("good", {"stars": 5}), "y": ("fine", {})}
    record = topwork.json
    assert record.pop("seconds") >= 0
    assert record == {
        "set": "birds",
        "items": 3,
        "inserted": 2,
        "updated": 0,
        "unchanged": 0,
        "encoded": 2,
        "failed": 1,
        "failures": [{"id": "z", "message": "reviews.csv line 4: a bad text (send a good one)"}],
        "version": 12,
        "interrupted": False,
    }
    assert topwork.stderr == ""


def test_a_lone_word_that_is_a_file_or_a_folder_is_the_source(topwork: StubCommand, reviews: Path) -> None:
    assert topwork("write", "birds", reviews, "--encoder", "letters", "--skip-bad-items", "--no-metadata") == 0
    assert topwork.client.written == {"reviews:1": ("good", {}), "reviews:2": ("fine", {})}
    (reviews.parent / "owls").mkdir()
    (reviews.parent / "owls" / "a.jpg").write_bytes(b"four")
    assert topwork("write", "pics", reviews.parent, "--encoder", "pictures") == 0
    assert topwork.client.written["owls/a.jpg"] == (reviews.parent / "owls/a.jpg", {"name": "a.jpg", "folder": "owls"})


def test_lines_of_stdin(topwork: StubCommand, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO("first\nsecond\n"))
    assert topwork("write", "birds", "--encoder", "letters", "--keep-inputs", "-") == 0
    assert topwork.client.written == {"stdin:1": ("first", {}), "stdin:2": ("second", {})}


def test_words_that_begin_with_a_dash_are_items_where_no_flag_is_like_them(topwork: StubCommand) -> None:
    texts = ["-5 stars, awful", "-5", "-x=1 and y=2", "- buy milk", "--", "--json", "-x"]
    assert topwork("write", "birds", "--keep-inputs", "--option=note=-a b", "--encoder", "letters", *texts) == 0
    assert list(topwork.client.written) == [text for text in texts if text != "--"]
    assert topwork.asked("write_stream")["options"] == {"note": "-a b"}
    assert topwork("write", "birds", "-5x", "a", "--encoder", "letters") == 2


def test_what_is_asked_for_is_passed_on(topwork: StubCommand) -> None:
    words = ["--tap", "pooled", "--tap", "tokens", "--option", "truncate=true", "--dtype", "float16", "--keep-inputs"]
    assert topwork("write", "birds", "a", "--encoder", "letters", *words) == 0
    asked = topwork.asked("write_stream")
    assert (asked["taps"], asked["options"], asked["dtype"]) == (["pooled", "tokens"], {"truncate": True}, "float16")
    assert (asked["keep_inputs"], asked["skip_bad_items"]) == (True, False)


def test_a_set_that_is_there_knows_its_encoder_and_its_types(topwork: StubCommand, reviews: Path) -> None:
    topwork.client.known["birds"] = set_info(columns={"stars": "float"})
    assert topwork("write", "birds", reviews, "--skip-bad-items") == 0
    assert topwork.asked("write_stream")["encoder"] == "letters"
    assert topwork.client.written["reviews:1"] == ("good", {"nr": "x", "stars": 5.0})
    topwork.client.known["birds"] = set_info(columns={"nr": "int"})
    assert topwork("write", "birds", reviews) == 1
    assert "reviews.csv line 2: 'nr' is 'x', no int" in topwork.stderr


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("write", "birds"), "name items, or a file of them"),
        (("write", "birds", "a", "b", "--from", "c.csv"), "one of the two"),
        (("write", "birds", "a", "--vectors", "v.npy"), "vectors have no items"),
        (("write", "birds", "a", "b", "--fingerprint", "x"), "only with --vectors"),
        (("write", "birds", "a", "--dtype", "int8"), "float16"),
        (("write", "birds", "a", "--type", "x=number"), "is not COLUMN=TYPE"),
        (("write", "birds", "a", "--metadata", "x", "--no-metadata"), "--no-metadata does nothing"),
        (("write", "birds", "a", "--metadata", ","), "name at least one"),
    ],
)
def test_wrong_usage(topwork: StubCommand, words: tuple[str, ...], message: str) -> None:
    assert topwork(*words) == 2
    assert message in topwork.stderr
    assert topwork.client.calls == []


def test_a_new_set_needs_an_encoder(topwork: StubCommand) -> None:
    assert topwork("write", "birds", "a") == 1
    assert topwork.stderr == (
        "topwork: there is no set 'birds' yet (name the items' encoder with --encoder, or write --vectors)\n"
    )
    topwork.client.known["birds"] = set_info(encoder="")
    assert topwork("write", "birds", "a", "--json") == 1
    assert topwork.json["message"] == "birds holds vectors of no encoder"


def test_a_bad_item_ends_it_and_is_named_by_its_id(topwork: StubCommand, reviews: Path) -> None:
    assert topwork("write", "birds", reviews, "--id", "nr", "--encoder", "letters") == 1
    stored, blamed = topwork.stderr.splitlines()
    assert "2 items are stored" in stored
    assert "item 2: 'z': reviews.csv line 4: a bad text" in blamed
    assert topwork.stdout == ""
    assert topwork("write", "birds", reviews, "--id", "nr", "--encoder", "letters", "--json") == 1
    assert topwork.json["item"] == 2


def test_many_bad_items_are_named_in_part(topwork: StubCommand, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("good\n" + "bad\n" * 8)
    assert topwork("write", "birds", tmp_path / "a.txt", "--encoder", "letters", "--skip-bad-items") == 0
    stderr = topwork.stderr.splitlines()
    assert stderr[0] == "topwork: skipped 'a:2': a.txt line 2: a bad text (send a good one)"
    assert (len(stderr), stderr[-1]) == (6, "topwork: skipped 3 more")
    assert topwork.stdout.startswith("1 item in birds (1 new), 8 skipped, version 12")


@pytest.mark.parametrize("blank", ["", "  "])
@pytest.mark.parametrize("kind", ["jsonl", "csv"])
def test_a_row_without_a_text_decides_no_type(topwork: StubCommand, tmp_path: Path, kind: str, blank: str) -> None:
    rows: list[tuple[str, int | str]] = [("a", 1), (blank, "many"), ("b", 2)]
    lines = [json.dumps({"text": t, "n": n}) for t, n in rows] if kind == "jsonl" else ["text,n", *(f"{t},{n}" for t, n in rows)]
    path = tmp_path / f"a.{kind}"
    path.write_text("\n".join(lines) + "\n")
    assert topwork("write", "birds", path, "--column", "text", "--encoder", "letters", "--skip-bad-items") == 0
    assert topwork.stdout.startswith("2 items in birds (2 new), 1 skipped")
    assert topwork.client.written == {"a:1": ("a", {"n": 1}), "a:3": ("b", {"n": 2})}


def test_a_file_that_cannot_be_read_here_is_skipped_too(topwork: StubCommand, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"\xff")
    (tmp_path / "b.txt").write_text("good")
    assert topwork("write", "birds", tmp_path, "--encoder", "letters", "--skip-bad-items") == 0
    assert "skipped 'a.txt': " in topwork.stderr
    assert "1 item in birds (1 new), 1 skipped" in topwork.stdout


def interrupt(done: int) -> None:
    if done == 4:
        raise KeyboardInterrupt


def test_ctrl_c_says_what_is_safe(topwork: StubCommand) -> None:
    topwork.client.after_chunk = interrupt
    assert topwork("write", "birds", *"abcdefgh", "--encoder", "letters") == 130
    assert topwork.stderr == ("topwork: 4 items are stored; run the same command again to go on: nothing is encoded twice\n")
    assert topwork.stdout == ""
    assert topwork.client.closed
    topwork.client.written.clear()
    assert topwork("write", "birds", *"abcdefgh", "--encoder", "letters", "--json") == 130
    assert (topwork.json["inserted"], topwork.json["interrupted"]) == (4, True)


def test_ctrl_c_before_anything_is_stored(topwork: StubCommand, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*arguments: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(topwork.client, "_store", interrupted)
    assert topwork("write", "birds", "a", "--encoder", "letters") == 130
    assert topwork.stderr == "topwork: nothing is stored of it\n"


def test_a_server_that_goes_away(topwork: StubCommand) -> None:
    def gone(done: int) -> None:
        raise Unavailable("nobody answers", remedy="start it")

    topwork.client.after_chunk = gone
    topwork.client.chunk = 1
    assert topwork("write", "birds", *"abc", "--encoder", "letters") == 1
    stored, reason = topwork.stderr.splitlines()
    assert "1 item is stored" in stored
    assert "nobody answers" in reason


def test_vectors(topwork: StubCommand, tmp_path: Path) -> None:
    np.save(tmp_path / "v.npy", np.ones((3, 4), np.float32))
    assert topwork("write", "mine", "--vectors", tmp_path / "v.npy", "--fingerprint", "f") == 0
    assert list(topwork.client.written) == ["v:1", "v:2", "v:3"]
    asked = topwork.asked("write_stream")
    assert (np.shape(asked["vectors"]), asked["fingerprint"], asked["items"]) == ((3, 4), "f", None)
    (tmp_path / "rows.csv").write_text("name,year\nx,1\ny,2\nz,3\n")
    words = ["write", "mine", "--vectors", tmp_path / "v.npy", "--from", tmp_path / "rows.csv"]
    assert topwork(*words, "--id", "name") == 0
    assert topwork.client.written["y"][1] == {"year": 2}
    (tmp_path / "rows.csv").write_text("name,year\nx,1\n")
    assert topwork(*words, "--id", "name") == 1
    assert "v.npy holds 3 items, " in topwork.stderr
    assert "rows.csv 1 (they need as many, in the same order)" in topwork.stderr


def test_lines_of_progress_where_there_is_no_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    now = 100.0
    with progress.of_items(50_000, quiet=False, clock=lambda: now) as show:
        now += 2
        show(300, "too early")
        now += 8
        show(1610, "1,000 encoded, 610 known already")
        now += 1
        show(1800, "too early")
    assert capsys.readouterr().err == "1,610 of 50,000 items, 161/s, 5 min 1 s left: 1,000 encoded, 610 known already\n"
    with progress.of_items(None, quiet=False, clock=lambda: now) as show:
        now += 10
        show(5, "5 encoded")
    assert capsys.readouterr().err == "5 items, 0/s: 5 encoded\n"


def test_a_tally_in_words() -> None:
    assert str(WriteCounts(inserted=5, unchanged=2, encoded=4, failed=1)) == "4 encoded, 3 known already, 1 failed"
    assert str(WriteCounts(ready=True, inserted=5, unchanged=2)) == "5 new, 0 updated, 2 unchanged"


def test_a_bar_for_people() -> None:
    """On a terminal: stderr is one end of a pseudo-terminal."""
    code = "from topwork.cli.progress import of_items\nwith of_items(200, False) as show: show(150, '140 encoded')"
    master, slave = os.openpty()
    try:
        subprocess.run([sys.executable, "-c", code], stderr=slave, env={**os.environ, "TERM": "xterm-256color"}, check=True)
        os.close(slave)
        shown = os.read(master, 100_000).decode()
    finally:
        os.close(master)
    assert "150/200" in shown
    assert re.search(r"/s, .* left: 140 encoded", shown)

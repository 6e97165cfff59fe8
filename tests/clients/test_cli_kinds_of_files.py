"""Files of another kind than the encoder reads: what a word is that names one, and what is said of it."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from cli_stub import StubCommand, set_info
from PIL import Image
from topwork.file_kinds import file_kind
from topwork.search_results import Hits

PNG = io.BytesIO()
Image.new("RGB", (2, 2)).save(PNG, "PNG")


@pytest.fixture
def topwork(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> StubCommand:
    monkeypatch.setenv("COLUMNS", "160")
    command = StubCommand(capsys, monkeypatch)
    command.client.hits = [Hits([], np.zeros(0, np.float32))]
    command.client.known = {"birds": set_info()}
    return command


@pytest.fixture(autouse=True)
def _files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("owl.png").write_bytes(PNG.getvalue())
    Path("notes.txt").write_text("an owl")
    Path("README").write_text("an owl")
    Path("empty.jpg").touch()
    Path("birds").mkdir()


@pytest.mark.parametrize(
    ("word", "kind", "remedy"),
    [
        ("owl.png", "a file: a picture (PNG)", "another encoder"),
        ("./owl.png", "a file: a picture (PNG)", "another encoder"),
        ("empty.jpg", "a file: empty", "another encoder"),
        ("notes.txt", "a file (.txt)", "--from notes.txt"),
        ("./README", "a file: a text", "another encoder"),
        ("birds/", "a folder", "--from birds/"),
        ("./birds", "a folder", "--from ./birds"),
    ],
)
@pytest.mark.parametrize("command", ["embed letters", "fill letters", "search birds", "predict birds-label", "write birds a"])
def test_a_path_of_what_is_there_is_no_text(topwork: StubCommand, command: str, word: str, kind: str, remedy: str) -> None:
    assert topwork(*command.split(), word) == 1
    assert f"{word} is {kind}" in topwork.stderr
    assert "reads texts" in topwork.stderr
    assert remedy.replace("another encoder", "name an encoder") in topwork.stderr


@pytest.mark.parametrize(
    "word", ["nowhere.png", "./nowhere", "README", "birds", "a red bird.", "and/or", "1/2", "", ".", "..", "a\0b", "x" * 5000]
)
def test_what_only_looks_like_a_path_is_a_text(topwork: StubCommand, word: str) -> None:
    assert topwork("search", "birds", word) == 0, topwork.stderr


def test_any_text_may_come_by_stdin_or_from_a_file(topwork: StubCommand, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("owl.png\n"))
    assert topwork("search", "birds", "-") == 0, topwork.stderr
    Path("texts.txt").write_text("owl.png\n./birds\n")
    assert topwork("search", "birds", "--from", "texts.txt") == 0, topwork.stderr


def test_files_are_known_by_how_they_begin() -> None:
    array = io.BytesIO()
    np.save(array, np.zeros(3))
    kinds = {
        b"": "empty",
        PNG.getvalue(): "a picture (PNG)",
        b"\0\0\0\x18ftypmp42": "a video (MP4)",
        b"RIFF\0\0\0\0WAVEfmt ": "sound (WAV)",
        b"%PDF-1.7": "a PDF",
        array.getvalue(): "an array (.npy)",
        "naïve café".encode()[:4]: "a text",
        b"\x00\x01\x02": "",
    }
    assert {data: file_kind(data) for data in kinds} == kinds

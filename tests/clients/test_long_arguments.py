"""Messages quote what a user passed, and stay short however long it is."""

from __future__ import annotations

from pathlib import Path

import pytest
import topwork
from fake_server import FakeServer
from topwork import cli

LONG = "x" * 5000
MOST = 1500


@pytest.mark.parametrize("uri", [f"file:/{LONG}", f"file:/{'a/' * 2500}", f"hf:org/{LONG}", LONG])
def test_a_pull_quotes_an_excerpt(
    uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("TOPWORK_HOME", str(tmp_path))
    assert cli.main(["pull", uri])
    done = capfd.readouterr()
    assert "Traceback" not in done.err
    assert 0 < len(done.out + done.err) < MOST


@pytest.mark.parametrize(
    "arguments",
    [
        ("embed", LONG, "a text"),
        ("read", LONG),
        ("read", "birds", "--where", LONG),
        ("search", "birds", "--encoder", LONG, "a text"),
        ("sets", "birds", "cast-column", LONG, LONG),
        ("versions", "birds", "--pin", LONG),
        ("write", "birds", f"/{LONG}", "--encoder", "pictures"),
        ("embed", "pictures", f"/{LONG}"),
        ("embed", "letters", "a text", "-o", f"/{LONG}/a.npy"),
        ("write", "birds", "--encoder", "letters", "--from", f"/{LONG}.csv"),
        ("embed", "letters", "a text", "--priority", "two words " * 500),
        ("jobs", LONG),
        ("encoders", LONG),
        ("encoders", "--server", LONG),
    ],
)
def test_the_command_line_quotes_excerpts(
    arguments: tuple[str, ...], server: FakeServer, capsys: pytest.CaptureFixture[str]
) -> None:
    words = arguments if "--server" in arguments else (*arguments, "--server", server.target)
    assert cli.main(words)
    assert 0 < len(capsys.readouterr().err) < MOST


def test_an_error_keeps_the_beginning_and_the_length_of_a_long_word() -> None:
    error = topwork.NotFound(f"there is no encoder {LONG!r}", remedy=f"look for {LONG}")
    assert error.message == f"there is no encoder 'x{'x' * 78}... (5,002 characters)"
    assert "(5,000 characters)" in error.remedy
    assert topwork.NotFound(f"{LONG}: it is a word").message == f"{'x' * 80}... (5,000 characters): it is a word"
    for quote in "'\"":
        many = f"{quote}{'two words ' * 500}{quote}"
        assert topwork.NotFound(f"there is no {many}.").message == f"there is no {many[:80]}... (5,002 characters)."
    assert topwork.NotFound("there is no encoder 'bird'").message == "there is no encoder 'bird'"

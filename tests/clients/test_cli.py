"""The client's half of the `topwork` command."""

from __future__ import annotations

import io
import json
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from importlib.metadata import EntryPoint
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import click
import numpy as np
import pytest
from fake_server import FakeServer
from topwork import cli
from topwork.cli import connection, embed
from topwork.cli.commands import ENTRY_POINTS
from topwork.client import Client
from topwork.encoders import EncoderInfo, TapInfo


class Command:
    """`topwork ...` against the fake server; `stdout` and `stderr` are its output."""

    def __init__(self, target: str, capture: pytest.CaptureFixture[str]) -> None:
        self._target = target
        self._capture = capture
        self.stdout = self.stderr = ""

    def __call__(self, *words: str) -> int:
        status = cli.main([*words, "--server", self._target])
        self.stdout, self.stderr = self._capture.readouterr()
        return status

    @property
    def json(self) -> Any:
        return json.loads(self.stdout)


@pytest.fixture
def topwork(server: FakeServer, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Command:
    monkeypatch.setenv("COLUMNS", "160")
    return Command(server.target, capsys)


def test_an_unknown_command_gets_a_near_name(capsys: pytest.CaptureFixture[str]) -> None:
    for words, near in (["serch"], "'search'"), (["frobnicate"], "topwork --help"), (["embed", "--encodign"], "--encoding"):
        assert cli.main(words) == 2
        assert near in capsys.readouterr().err


def test_the_catalog_for_people(topwork: Command) -> None:
    assert topwork("encoders") == 0
    line = next(line for line in topwork.stdout.splitlines() if line.startswith("letters"))
    assert all(word in line for word in ("text", "pooled 4, tokens, cells", "22.7M", "Apache-2.0", "ready", "fake fp32 0.999990"))


def test_the_catalog_for_programs(topwork: Command) -> None:
    assert topwork("encoders", "--json") == 0
    assert [record["name"] for record in topwork.json] == ["letters", "words", "pictures", "clips", "sounds", "arrays"]
    assert topwork.json[0]["taps"][0]["dim"] == 4


def test_one_encoder_in_full(topwork: Command) -> None:
    assert topwork("encoders", "words") == 0
    assert all(word in topwork.stdout for word in ("a toy", "trained on", "abababababababab", "truncate", "cell of 2x2"))
    assert topwork("encoders", "words", "--json") == 0
    assert topwork.json["has_vocabulary"] is True


def test_the_devices_of_an_encoder_stand_side_by_side(topwork: Command) -> None:
    assert topwork("encoders", "words") == 0
    fast, plain = (line for line in topwork.stdout.splitlines() if re.match(r"(fast|plain) \w+ +\d", line))
    assert fast.split()[:6] == ["fast", "bf16", "3,000", "(3.0x)", "0.999500", "0.998000"]
    assert plain.split()[2:4] == ["1,000", "(1.0x)"]
    assert (fast.split()[-1], plain.split()[-2]) == ("4", "tokens")
    assert "fast bf16: tokens has a parity of 0.99800, below 0.999" in topwork.stdout
    assert topwork("encoders", "words", "--json") == 0
    assert topwork.json["devices"][0]["numerics"]["precision"] == "bf16"
    assert topwork.json["devices"][0]["parity"] == {"pooled": 0.9995, "tokens": 0.998}


def encoder(*taps: TapInfo, name: str = "n", state: str = "ready", detail: str = "", parameters: int = 0) -> EncoderInfo:
    return EncoderInfo(name, "text", taps, "pooled", parameters, "", "", "", "", state, detail, None, (), "", False, 0)


@pytest.fixture
def listed(topwork: Command, monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[str]]:
    """The lines that `topwork encoders` prints of these."""

    def lines(*found: EncoderInfo) -> list[str]:
        monkeypatch.setattr("topwork.Client.encoders", lambda client: list(found))
        assert topwork("encoders") == 0
        return topwork.stdout.splitlines()

    return lines


def test_taps_in_short(listed: Callable[..., list[str]]) -> None:
    layers = [TapInfo(f"layer{i}{kind}", 2**i, "cell") for kind in ("", ".pooled") for i in (1, 2, 3)]
    hidden = [TapInfo(f"hidden.{i}", 8, "token") for i in range(13)]
    pooled = TapInfo("pooled", 8, "item")
    _, of_layers, of_hidden, *_ = listed(encoder(*layers, pooled), encoder(*hidden, pooled))
    assert "pooled 8, layer1-3 2-8, layer1-3.pooled " in of_layers
    assert "pooled 8, hidden.0-12 " in of_hidden


def test_counts_in_short(listed: Callable[..., list[str]]) -> None:
    counts = (0, 12, 22_700_000, 1_300_000_000)
    lines = listed(*(encoder(parameters=count) for count in counts))
    assert [line.split()[2] for line in lines[1:5]] == ["-", "12", "22.7M", "1.3B"]


def test_what_is_there_comes_first_and_what_to_do_is_said_once(listed: Callable[..., list[str]]) -> None:
    away = [encoder(name=name, state="absent", detail=f"run `topwork pull {name}`") for name in ("a", "b")]
    lines = listed(*away, encoder(name="c"))
    assert [line[0] for line in lines[1:4]] == ["c", "a", "b"]
    assert lines[4:] == ["", "absent: run `topwork pull NAME`"]


def test_what_holds_of_some_is_said_of_them(listed: Callable[..., list[str]]) -> None:
    assert listed(encoder(name="a", detail="is being measured"), encoder(name="b"))[-1] == "a: is being measured"


def test_a_first_answer_that_takes_long_is_explained(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    asked = threading.Event()
    details = iter(["is being exported", "is being exported", "is being measured"])

    class Busy:
        def __enter__(self) -> Busy:
            return self

        def __exit__(self, *error: object) -> None: ...

        def encoder(self, name: str) -> EncoderInfo:
            detail = next(details, "")
            if not detail:
                asked.set()
            return encoder(name=name, detail=detail)

    monkeypatch.setattr(connection, "SOON", 0.001)
    monkeypatch.setattr(connection, "connected", lambda arguments: Busy())
    with connection.explained(SimpleNamespace(json=False), "n"):
        assert asked.wait(10)
    assert capsys.readouterr().err == "n: is being exported\nn: is being measured\n"
    with connection.explained(SimpleNamespace(json=True), "n"):
        pass
    assert capsys.readouterr().err == ""


def test_embed_for_people(topwork: Command) -> None:
    assert topwork("embed", "letters", "a red bird", "noted") == 0
    assert "letters/pooled: 2 x 4 float32, fingerprint abababababab, fake fp32 (parity 1.000000)" in topwork.stdout
    assert "a red bird" in topwork.stdout
    assert "10.0000" in topwork.stdout
    assert "2 items in" in topwork.stdout


def test_embed_for_programs(topwork: Command) -> None:
    assert topwork("embed", "letters", "one two", "3", "--tap", "tokens", "--json") == 0
    tokens = topwork.json["tokens"]
    assert (tokens["rows"], tokens["items"], tokens["counts"]) == (3, 2, [2, 1])
    assert np.shape(tokens["features"]) == (3, 4)
    assert tokens["spans"] == [[0, 3], [0, 3], [0, 1]]
    assert tokens["inputs"] == ["one two", "3"]
    assert tokens["fingerprint"]


def test_embed_sends_what_it_is_told(topwork: Command, server: FakeServer) -> None:
    options = ["--option", "truncate=true", "--option", "n=3", "--option", "prompt=query:"]
    assert (
        topwork(
            "embed",
            "letters",
            "a",
            "--dtype",
            "int8",
            "--normalize",
            "--dimensions",
            "2",
            "--priority",
            "low",
            "--role",
            "query",
            *options,
        )
        == 0
    )
    settings = server.requests[-1].settings
    assert (settings.priority, settings.role) == (1, 1)
    assert dict(settings.options) == {"truncate": True, "n": 3, "prompt": "query:"}
    assert (settings.normalize, settings.dimensions, settings.dtype) == (True, 2, 3)


def test_items_may_stand_before_and_after_options(topwork: Command, server: FakeServer) -> None:
    assert topwork("embed", "letters", "a", "--tap", "pooled", "b", "--normalize", "c") == 0
    assert [item.text for item in server.requests[-1].items] == ["a", "b", "c"]
    assert topwork("embed", "letters", "--tap", "pooled", "a") == 0
    assert topwork("embed", "letters", "a", "--no-such-flag") == 2
    assert "--no-such-flag" in topwork.stderr


def test_a_narrow_terminal_gets_fewer_numbers_and_no_broken_lines() -> None:
    assert embed._widths(200) == (40, 6)
    for columns in (60, 80, 100, 120):
        name, numbers = embed._widths(columns)
        assert name + numbers * embed.NUMBER + embed.REST <= columns
        assert numbers >= 3


@pytest.mark.parametrize("suffix", [".npy", ".npz", ".parquet"])
def test_embed_into_a_file(topwork: Command, tmp_path: Path, suffix: str) -> None:
    out = tmp_path / f"out{suffix}"
    assert topwork("embed", "letters", *map(str, range(70)), "-o", str(out)) == 0
    assert f"-> {out}" in topwork.stdout
    if suffix == ".npy":
        assert np.load(out)[:, 0].tolist() == list(range(70))
    else:
        assert out.stat().st_size > 70 * 16


def test_embed_several_taps_into_files(topwork: Command, tmp_path: Path) -> None:
    out = tmp_path / "out.npz"
    assert topwork("embed", "letters", "a b", "--tap", "tokens", "--tap", "pooled", "-o", str(out), "--json") == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out.pooled.npz", "out.tokens.npz"]
    assert topwork.json["tokens"]["file"] == str(tmp_path / "out.tokens.npz")
    assert "features" not in topwork.json["tokens"]


def test_a_file_that_cannot_be_written_is_refused_first(topwork: Command, server: FakeServer) -> None:
    assert topwork("embed", "letters", "a", "-o", "out.txt") == 1
    assert "end it in .npy, .npz, .parquet" in topwork.stderr
    assert not server.requests


SOURCES = {
    "lines.txt": b"a\xe2\x80\xa8b\r\nlast\n",
    "one.csv": b'\xef\xbb\xbfbody\n"a\xe2\x80\xa8b"\nlast\n',
    "two.csv": b'text,label\n"a\xe2\x80\xa8b",0\nlast,1\n',
    "rows.jsonl": b'{"text": "a\xe2\x80\xa8b"}\n\n{"text": "last"}\n',
    "plain.jsonl": b'"a\\u2028b"\n"last"\n',
}


@pytest.mark.parametrize("name", SOURCES)
def test_texts_from_a_file(topwork: Command, tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(SOURCES[name])
    assert topwork("embed", "letters", "--from", str(tmp_path / name), "--json") == 0
    assert topwork.json["pooled"]["inputs"] == ["a\u2028b", "last"]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", b"body,label\na,0\n", "no column 'text' (--column is one of body, label)"),
        ("a.jsonl", b'{"text": "a"}\n{"body": 1}\n', "line 2 has no text under 'text'"),
        ("a.txt", b"", "there are no items"),
    ],
)
def test_a_source_that_does_not_hold_them(topwork: Command, tmp_path: Path, name: str, content: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(content)
    assert topwork("embed", "letters", "--from", str(tmp_path / name)) == 1
    assert message in topwork.stderr


def test_texts_from_stdin(topwork: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO("first\nsecond\n"))
    assert topwork("embed", "letters", "-", "--json") == 0
    assert topwork.json["pooled"]["inputs"] == ["first", "second"]


def test_folders(topwork: Command, tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    for name in ("b.jpg", "sub/a.PNG", "notes.txt"):
        (tmp_path / name).write_bytes(b"four")
    paths = [str(tmp_path / "b.jpg"), str(tmp_path / "sub/a.PNG")]
    assert topwork("embed", "pictures", str(tmp_path), "--json") == 0
    assert topwork.json["pooled"]["inputs"] == paths
    assert topwork("embed", "pictures", "--from", str(tmp_path), "--json") == 0
    assert topwork.json["pooled"]["inputs"] == paths
    assert topwork("embed", "letters", "--from", str(tmp_path), "--json") == 0
    assert topwork.json["pooled"]["inputs"] == [str(tmp_path / "notes.txt")]
    assert topwork.json["pooled"]["features"][0][1] == 4
    assert topwork("embed", "clips", str(tmp_path)) == 1
    assert "holds no files of" in topwork.stderr


def test_skipped_items_are_reported(topwork: Command, tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(b"four")
    missing = [str(tmp_path / f"missing{i}.jpg") for i in range(7)]
    assert topwork("embed", "pictures", str(tmp_path / "a.jpg"), *missing, "--skip-bad-items") == 0
    assert topwork.stderr.count("there is no file") == 5
    assert "skipped 2 more" in topwork.stderr


def test_nearest(topwork: Command) -> None:
    assert topwork("nearest", "words", "robin", "-k", "2") == 0
    assert topwork.stdout.split() == ["robin", "1.000", "bird", "0.875", "whale"]
    assert topwork("nearest", "words", "robin", "--json") == 0
    assert topwork.json[0]["nearest"][0] == {"word": "bird", "score": 1.0}


def test_an_error_is_one_line_with_its_remedy(topwork: Command) -> None:
    assert topwork("embed", "letters", "a", "bad") == 1
    assert topwork.stderr == "topwork: item 1: a bad text (send a good one)\n"
    assert topwork.stdout == ""


def test_an_error_for_programs(topwork: Command) -> None:
    assert topwork("embed", "letters", "a", "bad", "--json") == 1
    assert topwork.json == {"code": "INVALID_ARGUMENT", "message": "a bad text", "remedy": "send a good one", "item": 1}


@pytest.mark.parametrize(
    "words",
    [
        ("embed",),
        ("embed", "letters"),
        ("embed", "letters", "a", "--from", "a.txt"),
        ("embed", "letters", "a", "--dtype", "float64"),
        ("embed", "letters", "a", "--option", "novalue"),
        ("embed", "letters", "a", "--timeout", "0"),
        ("nearest", "words"),
        ("nosuch",),
    ],
)
def test_wrong_usage(topwork: Command, words: tuple[str, ...]) -> None:
    assert topwork(*words) == 2
    assert "Usage: topwork" in topwork.stderr


def test_no_command_shows_the_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([]) == 2
    assert "embed" in capsys.readouterr().out


def test_the_server_may_be_named_by_the_environment(
    server: FakeServer, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("TOPWORK_SERVER", server.target)
    assert cli.main(["encoders", "--json"]) == 0
    assert len(json.loads(capsys.readouterr().out)) == 6


def test_ctrl_c_is_quiet(topwork: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*arguments: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("topwork.Client.encoders", interrupted)
    assert topwork("encoders") == 130
    assert topwork.stdout + topwork.stderr == ""


@pytest.mark.usefixtures("_interruptible")
def test_ctrl_c_ends_a_real_command(server: FakeServer) -> None:
    server.gate.clear()
    words = ["embed", "letters", *map(str, range(100)), "--server", server.target]
    with subprocess.Popen([sys.executable, "-m", "topwork.cli", *words], stderr=subprocess.PIPE) as command:
        while not server.tries["EmbedStream"]:
            assert command.poll() is None
        command.send_signal(signal.SIGINT)
        _, stderr = command.communicate(timeout=30)
    assert (command.returncode, stderr) == (130, b"")
    assert server.cancelled.wait(10)


INTERRUPTED_IMPORT = """
import os, signal, sys
class Interrupt:
    def find_spec(self, name, path=None, target=None):
        if name == "numpy":
            os.kill(os.getpid(), signal.SIGINT)
sys.meta_path.insert(0, Interrupt())
sys.argv = ["topwork", "encoders"]
from topwork_command import command
command()
"""


@pytest.mark.usefixtures("_interruptible")
def test_ctrl_c_while_the_package_is_imported_is_quiet() -> None:
    done = subprocess.run([sys.executable, "-c", INTERRUPTED_IMPORT], capture_output=True, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (130, b"", b"")


def test_a_closed_pipe_is_quiet(server: FakeServer) -> None:
    words = ["embed", "letters", *["a"] * 2000, "--json", "--server", server.target]
    read, write = os.pipe()
    with subprocess.Popen([sys.executable, "-m", "topwork.cli", *words], stdout=write, stderr=subprocess.PIPE) as command:
        os.close(write)
        os.close(read)
        _, stderr = command.communicate(timeout=30)
    assert (command.returncode, stderr) == (0, b"")


@pytest.mark.parametrize(
    ("where", "status", "word"), [(">/dev/full", 1, "No space left"), (">&-", 0, ""), (">&- 2>&-", 0, ""), ("<&-", 0, "")]
)
@pytest.mark.skipif(not Path("/dev/full").exists(), reason="the device is Linux's")
def test_output_that_cannot_be_written_is_one_line(server: FakeServer, where: str, status: int, word: str) -> None:
    command = [sys.executable, "-m", "topwork.cli", "encoders", "--server", server.target]
    done = subprocess.run(["sh", "-c", f'exec "$@" {where}', "sh", *command], stderr=subprocess.PIPE, text=True, timeout=60)
    assert done.returncode == status, done.stderr
    assert word in done.stderr
    assert done.stderr.count("\n") <= 1


@pytest.mark.parametrize("words", [["sets"], ["read", "s", "--limit", "500"], ["search", "s", "1", "-k", "500"], ["encoders"]])
def test_a_closed_pipe_of_a_table_is_quiet_too(
    server: FakeServer, words: list[str], monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """As in `topwork read s | head`. In this process: only the end of the pipe matters."""
    with Client(server.target) as client:
        client.write("s", [str(i) for i in range(500)], range(500), encoder="letters")
    read, write = os.pipe()
    os.close(read)
    with os.fdopen(write, "w") as closed:
        monkeypatch.setattr(sys, "stdout", closed)
        assert cli.main([*words, "--server", server.target]) == 0
    assert capfd.readouterr().err == ""


def found(monkeypatch: pytest.MonkeyPatch, *entries: EntryPoint) -> None:
    monkeypatch.setattr("importlib.metadata.entry_points", lambda group: entries if group == ENTRY_POINTS else ())


def test_commands_of_others(monkeypatch: pytest.MonkeyPatch) -> None:
    found(monkeypatch, EntryPoint("mine", f"{__name__}:add_commands", ENTRY_POINTS))
    monkeypatch.setitem(sys.modules, __name__, sys.modules[__name__])
    assert cli.main(["greet", "--loudly"]) == 7


def add_commands(commands: click.Group) -> None:
    @commands.command()
    @click.option("--loudly", is_flag=True)
    def greet(loudly: bool) -> int:
        return 7 if loudly else 8


def test_a_broken_distribution_does_not_take_the_rest_along(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    found(monkeypatch, EntryPoint("broken", "no.such.module:add", ENTRY_POINTS))
    assert cli.main([]) == 2
    captured = capsys.readouterr()
    assert "the commands of no.such.module:add are missing: ModuleNotFoundError" in captured.err
    assert "embed" in captured.out


def test_client_verbs_do_not_load_the_commands_of_others(topwork: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    found(monkeypatch, EntryPoint("broken", "no.such.module:add", ENTRY_POINTS))
    assert topwork("encoders") == 0
    assert topwork.stderr == ""


def test_a_verb_of_the_server_without_the_server(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    found(monkeypatch)
    assert cli.main(["serve"]) == 2
    assert "pip install topwork-server" in capsys.readouterr().err


def test_a_bar_for_people(server: FakeServer) -> None:
    """On a terminal: stderr is one end of a pseudo-terminal."""
    master, slave = os.openpty()
    words = ["embed", "letters", *["a"] * 200, "--server", server.target]
    environment = {**os.environ, "TERM": "xterm-256color"}
    try:
        done = subprocess.run(
            [sys.executable, "-m", "topwork.cli", *words], stdout=subprocess.PIPE, stderr=slave, env=environment, check=True
        )
        os.close(slave)
        shown = os.read(master, 100_000).decode()
    finally:
        os.close(master)
    assert "200/200" in shown
    assert "200/200" not in done.stdout.decode()

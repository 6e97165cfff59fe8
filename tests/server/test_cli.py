"""The server's half of the command line: flags, errors, and what stays unimported."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import fields, replace
from importlib.metadata import EntryPoint, version
from pathlib import Path

import click
import grpc
import pluggy
import pytest
from topwork.cli import main
from topwork.v1 import encoders_pb2, encoders_pb2_grpc
from topwork_server import cli, hookimpl
from topwork_server.commands import pull, serve
from topwork_server.config import Config
from topwork_server.errors import InvalidInput, NotFound, PluginError, StartError
from topwork_server.plugin_api import hookspecs
from topwork_server.plugin_api.plugin_registry import PluginRegistry

HEAVY = {
    "torch",
    "timm",
    "transformers",
    "onnxruntime",
    "onnx",
    "av",
    "cv2",
    "PIL",
    "pyarrow",
    "faiss",
    "rich",
    "huggingface_hub",
}


@pytest.fixture
def configured(monkeypatch) -> Callable[..., Config]:
    """The configuration that `topwork serve` would start a server with."""

    def of(*flags: str) -> Config:
        found = []
        monkeypatch.setattr(serve, "run", lambda arguments: found.append(serve.config_of(arguments)))
        assert main(["serve", *flags]) == 0
        return found[0]

    return of


@pytest.fixture(autouse=True)
def _home(monkeypatch, tmp_path):
    monkeypatch.setenv("TOPWORK_HOME", str(tmp_path))


def test_logs_of_json_are_an_object_a_line():
    try:
        raise RuntimeError("a fault")
    except RuntimeError:
        record = logging.LogRecord("topwork_server.app", logging.ERROR, "", 0, "error=%s", ("ab12",), sys.exc_info())
    event = json.loads(serve.JsonFormatter().format(record))
    assert (event["level"], event["logger"], event["message"]) == ("error", "topwork_server.app", "error=ab12")
    assert "a fault" in event["traceback"]
    assert event["time"].endswith("+00:00")


def test_serve_without_flags_is_the_default_configuration(configured):
    assert configured() == Config()


def test_every_field_of_the_configuration_has_a_flag(configured, tmp_path):
    given = {
        "home": tmp_path / "elsewhere",
        "listen": "0.0.0.0:1",
        "http": "0.0.0.0:2",
        "allow_origin": ("http://localhost:3000", "*"),
        "allow_fetch": ("images.example.com", "http://127.0.0.1:9000"),
        "tls_cert": tmp_path / "server.pem",
        "tls_key": tmp_path / "server.key",
        "tls_client_ca": tmp_path / "clients.pem",
        "insecure": True,
        "default_encoder": "some",
        "provider": "cpu",
        "threads": 3,
        "queue": 5,
        "max_items": 7,
        "max_video_bytes": 3 << 20,
        "idle_seconds": 1.5,
        "memory_budget": 2 << 30,
        "message_budget": 256 << 20,
        "shared_memory": True,
        "drain_seconds": 0.0,
        "end_seconds": 2.0,
        "feature_cache": 0,
    }
    assert set(given) == {field.name for field in fields(Config)}
    words = {**given, "max_video_bytes": "3MiB", "memory_budget": "2GiB"}
    flags = [word for name, value in words.items() for word in (f"--{name.replace('_', '-')}", *_words_of(value))]
    assert configured(*flags) == replace(Config(), **given)


def _words_of(value):
    if isinstance(value, tuple):
        return value
    return [] if value is True else [str(value)]


@pytest.mark.parametrize(
    "flags",
    [
        ["--threads", "0"],
        ["--queue", "-1"],
        ["--max-items", "many"],
        ["--idle-seconds", "-1"],
        ["--drain-seconds", "nan"],
        ["--memory-budget", "4GB"],
        ["--memory-budget", "GiB"],
        ["--max-video-bytes", "0"],
        ["--max-video-bytes", "-1MiB"],
    ],
)
def test_values_that_cannot_be_are_refused(flags, capsys):
    assert main(["serve", *flags]) == 2
    assert flags[0] in capsys.readouterr().err


@pytest.mark.parametrize(("text", "size"), [("1", 1), ("1024", 1024), ("2KiB", 2048), ("3MiB", 3 << 20), ("4GiB", 4 << 30)])
def test_sizes(configured, text, size):
    assert configured("--memory-budget", text).memory_budget == size


@pytest.mark.parametrize(
    ("error", "status"), [(NotFound("no owl", remedy="try bird"), 1), (StartError("no port", remedy="another"), 2)]
)
def test_errors_are_said_with_their_remedy(capsys, monkeypatch, error, status):
    def fail(arguments):
        raise error

    monkeypatch.setattr(serve, "run", fail)
    assert main(["serve"]) == status
    assert capsys.readouterr().err == f"topwork: {error.message} ({error.remedy})\n"
    assert main(["serve", "--json"]) == status
    answer = json.loads(capsys.readouterr().out)
    assert answer == {"code": error.code.name, "message": error.message, "remedy": error.remedy, "item": None}


def test_settings_are_json_where_they_read_as_such():
    assert pull.settings_of(["layers=6", "pool=mean", "deep={}", "a=b=c", "flag=true", "none="]) == {
        "layers": 6,
        "pool": "mean",
        "deep": {},
        "a": "b=c",
        "flag": True,
        "none": "",
    }
    for wrong in ("layers", "=6"):
        with pytest.raises(InvalidInput, match="KEY=VALUE"):
            pull.settings_of([wrong])


def test_plugins_are_listed_with_their_distribution(capsys):
    assert main(["plugins", "--json"]) == 0
    found = {plugin["name"]: plugin for plugin in json.loads(capsys.readouterr().out)}
    assert {"bert", "i3d", "onnx", "resnet", "word2vec"} <= set(found)
    assert found["bert"]["distribution"] == "topwork-server"
    assert found["bert"]["version"] == version("topwork-server")
    assert "register_encoders" in found["bert"]["hooks"]
    assert "all-minilm-l6-v2" in found["bert"]["encoders"]
    assert main(["plugins"]) == 0
    assert "word2vec" in capsys.readouterr().out


@pytest.fixture
def plugin_of_another(monkeypatch):
    """An entry point of a plugin that is not of our own distribution, so that the commands of plugins are looked for."""
    monkeypatch.setattr(cli, "entry_points", lambda group: [EntryPoint("other", "other.plugin", group)])


def test_our_own_plugins_bring_no_commands():
    commands = click.Group()
    assert PluginRegistry.load().add_commands(commands) == []
    assert not commands.commands


@pytest.mark.usefixtures("plugin_of_another")
def test_a_broken_plugin_leaves_the_other_commands(monkeypatch, capsys):
    def broken():
        raise PluginError("the plugin 'x' of y 1.0 cannot be imported", remedy="fix it")

    monkeypatch.setattr(PluginRegistry, "load", broken)
    assert main(["--help"]) == 0
    shown = capsys.readouterr()
    assert "the plugin 'x' of y 1.0 cannot be imported" in shown.err
    assert "doctor" in shown.out
    assert main(["plugins"]) == 2


class Brings:
    """A plugin with a command of its own, which fails."""

    @hookimpl
    def register_commands(self, commands):
        @commands.command()
        def wander():
            raise InvalidInput("no such place", remedy="go elsewhere")


@pytest.mark.usefixtures("plugin_of_another")
def test_a_command_of_a_plugin_is_reached_and_its_errors_are_said(monkeypatch, capsys):
    manager = pluggy.PluginManager(hookspecs.PROJECT)
    manager.add_hookspecs(hookspecs)
    manager.register(Brings(), "brings")
    loaded = PluginRegistry(manager, {"brings": ("brings-dist", "1.0")})
    monkeypatch.setattr(PluginRegistry, "load", lambda: loaded)
    assert main(["wander"]) == 1
    assert capsys.readouterr().err == "topwork: no such place (go elsewhere)\n"


def test_a_name_of_the_catalog_takes_no_settings(capsys, tmp_path):
    assert main(["pull", "all-minilm-l6-v2", "--name", "mine", "--home", str(tmp_path)]) == 1
    assert "--name" in capsys.readouterr().err


def test_an_unknown_name_is_said_with_what_is_near(capsys, tmp_path):
    assert main(["pull", "all-minilm-l6", "--home", str(tmp_path), "--json"]) == 1
    answer = json.loads(capsys.readouterr().out)
    assert answer["code"] == "NOT_FOUND"
    assert "all-minilm-l6-v2" in answer["remedy"]


def test_a_uri_of_another_scheme_is_taken_for_a_source(capsys, tmp_path):
    assert main(["pull", "s3://weights", "--home", str(tmp_path)]) == 1
    assert "is not a source" in capsys.readouterr().err


def test_the_parsers_import_nothing_heavy():
    code = "import sys, click; from topwork_server.cli import add_commands;add_commands(click.Group()); print(*sys.modules)"
    modules = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert "topwork_server.cli" in modules
    assert not {*HEAVY, "numpy", "grpc", "topwork_server.plugin_api.plugin_registry"} & set(modules)


WORDS = "\n".join(["8 2", *[f"word{i} {i / 8} {1 - i / 8}" for i in range(8)]])


def test_weights_that_a_uri_names_are_pulled_exported_and_shown(capsys, tmp_path):
    (tmp_path / "words.vec").write_text(WORDS)
    home = ["--home", str(tmp_path / "home")]
    adopt = ["pull", f"file:{tmp_path / 'words.vec'}", "--family", "word2vec", "--name", "mine"]
    assert main([*adopt, *home, "--json"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert (record["name"], record["state"]) == ("mine", "ready")
    assert [tap["dim"] for tap in record["taps"]] == [2, 2]
    assert all(len(tap["fingerprint"]) == 64 and tap["min_cosine"] > 0.9999 for tap in record["taps"])
    model = Path(record["folder"]) / "model.onnx"
    made = model.stat().st_mtime_ns
    assert main(["pull", "mine", *home]) == 0  # it is here: nothing is made again
    shown = capsys.readouterr().out
    assert "mine is ready" in shown
    assert record["taps"][0]["fingerprint"][:16] in shown
    assert model.stat().st_mtime_ns == made
    assert main(["export", "mine", "--force", *home, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["taps"] == record["taps"]
    assert model.stat().st_mtime_ns != made


@pytest.mark.parametrize("command", [["serve"], ["pull", "all-minilm-l6-v2"], ["export", "all-minilm-l6-v2"]])
def test_a_home_that_cannot_be_written_is_said(capsys, tmp_path, command):
    (tmp_path / "file").touch()
    assert main([*command, "--home", str(tmp_path / "file" / "home")]) == 2
    assert "cannot be written" in capsys.readouterr().err


def test_a_file_that_is_not_there_is_said(capsys, tmp_path):
    assert main(["pull", f"file:{tmp_path}/nothing.vec", "--family", "word2vec", "--home", str(tmp_path)]) == 1
    assert "nothing.vec" in capsys.readouterr().err


@contextmanager
def serving(home: Path, *flags: str) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-m", "topwork.cli", "serve", "--listen", "127.0.0.1:0", "--home", str(home), *flags]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


def test_serve_says_that_it_is_ready_answers_and_drains(capsys, tmp_path):
    with serving(tmp_path, "--json") as process:
        ready = json.loads(process.stdout.readline())
        assert ready["event"] == "ready"
        assert ready["provider"]
        assert ready["encoders"]["ready"] == 0
        assert ready["encoders"]["absent"] > 0
        with grpc.insecure_channel(ready["address"]) as channel:
            listed = encoders_pb2_grpc.EncodersStub(channel).ListEncoders(encoders_pb2.ListEncodersRequest(), timeout=30)
        assert {"all-minilm-l6-v2", "resnet50-thin"} <= {encoder.name for encoder in listed.encoders}
        taken = ["serve", "--provider", "cpu", "--listen", ready["address"], "--home"]
        assert main([*taken, str(tmp_path / "elsewhere")]) == 2
        stderr = capsys.readouterr().err
        assert f"cannot listen on {ready['address']}: Address already in use" in stderr
        assert "--listen" in stderr
        assert main([*taken, str(tmp_path)]) == 2
        stderr = capsys.readouterr().err
        assert f"in use by the server with pid {process.pid} (listening on {ready['address']})" in stderr
        process.terminate()
        assert process.wait(60) == 0
        assert "ListEncoders.OK=1" in process.stderr.read()


def test_serve_greets_people_with_one_line_and_what_to_do_next(tmp_path):
    with serving(tmp_path) as process:
        assert "listens on 127.0.0.1:" in process.stdout.readline()
        assert "topwork pull" in process.stdout.readline()
        process.terminate()
        assert process.wait(60) == 0

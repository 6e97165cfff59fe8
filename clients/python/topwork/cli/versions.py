"""`topwork versions`: a set's versions, listed, pinned and pruned."""

from __future__ import annotations

import re
from types import SimpleNamespace

import click

from topwork._display.number_text import counted
from topwork.cli import output
from topwork.cli.confirmation import confirmed, yes_flag
from topwork.cli.connection import connected, connection
from topwork.cli.verb import verb
from topwork.client import Client
from topwork.sets import VersionInfo

UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 7 * 86400}
EXAMPLES = """\
examples:
  topwork versions birds
  topwork versions birds --pin before-the-cleanup
  topwork versions birds --prune 7d
"""


def _age(text: str) -> tuple[str, float]:
    """Read 30m, 12h or 7d, as it is written and in seconds."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([smhdw])", text)
    if not found:
        raise click.BadParameter(f"{text!r} is no age: say 30m, 12h or 7d")
    return text, float(found[1]) * UNITS[found[2]]


@verb(EXAMPLES, only_with={"version": ("pin",), "yes": ("prune",)})
@click.argument("set", metavar="SET")
@click.option("--pin", metavar="NAME", help="keep a version from pruning, under this name")
@click.option("--version", type=int, default=0, metavar="N", help="which (default: the current one)")
@click.option("--unpin", metavar="NAME", help="let it be pruned")
@click.option("--prune", type=_age, metavar="AGE", help="delete versions that are older (30m, 12h, 7d) and not pinned")
@yes_flag
@connection
def versions(arguments: SimpleNamespace) -> int:
    if sum(flag is not None for flag in (arguments.pin, arguments.unpin, arguments.prune)) > 1:
        raise click.UsageError("--pin, --unpin and --prune: one at a time")
    with connected(arguments) as client:
        if arguments.pin:
            return _pin(client, arguments)
        if arguments.unpin:
            return _unpin(client, arguments)
        if arguments.prune is not None:
            return _prune(client, arguments)
        return _list(client, arguments)


def _list(client: Client, arguments: SimpleNamespace) -> int:
    found = client.versions(arguments.set)
    if arguments.json:
        output.as_json(found)
        return 0
    table = output.table("version", "written", "pins", right=("version",))
    output.rows(table, ((str(v.version), output.when(v.created), _pins(v)) for v in found))
    return 0


def _pins(version: VersionInfo) -> str:
    return ", ".join([*version.pins, *(f"{pin} (damaged)" for pin in version.damaged_pins)])


def _pin(client: Client, arguments: SimpleNamespace) -> int:
    pinned: VersionInfo = client.pin(arguments.set, arguments.pin, arguments.version)
    if arguments.json:
        output.as_json(pinned)
    else:
        print(f"version {pinned.version} of {arguments.set} is pinned as {arguments.pin}")
    return 0


def _unpin(client: Client, arguments: SimpleNamespace) -> int:
    client.unpin(arguments.set, arguments.unpin)
    if arguments.json:
        output.as_json({"set": arguments.set, "unpinned": arguments.unpin})
    else:
        print(f"{arguments.unpin} of {arguments.set} is no pin any more")
    return 0


def _prune(client: Client, arguments: SimpleNamespace) -> int:
    age, seconds = arguments.prune
    if not confirmed(arguments, f"prune versions of {arguments.set} that are older than {age} and not pinned"):
        return 1
    pruned = client.prune(arguments.set, seconds)
    if arguments.json:
        output.as_json(pruned)
    else:
        print(f"{counted(pruned.removed, 'version')} removed, {output.size(pruned.bytes)} given back")
    return 0

"""`topwork versions`: a set's versions, listed, pinned and pruned."""

from __future__ import annotations

import argparse

from topwork.cli import output
from topwork.cli.arg_types import age
from topwork.cli.connection_flags import connected
from topwork.cli.output import counted
from topwork.client import Client
from topwork.sets import VersionInfo

EXAMPLES = """\
examples:
  topwork versions birds
  topwork versions birds --pin before-the-cleanup
  topwork versions birds --prune 7d
"""


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser], common: argparse.ArgumentParser) -> None:
    versions = commands.add_parser(
        "versions",
        parents=[common],
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    versions.add_argument("set", metavar="SET")
    versions.add_argument("--pin", metavar="NAME", help="keep a version from pruning, under this name")
    versions.add_argument("--version", type=int, default=0, metavar="N", help="which (default: the current one)")
    versions.add_argument("--unpin", metavar="NAME", help="let it be pruned")
    versions.add_argument("--prune", type=age, metavar="AGE", help="delete versions that are older (30m, 12h, 7d) and not pinned")
    versions.set_defaults(run=lambda arguments: _versions(arguments, versions))


def _versions(arguments: argparse.Namespace, parser: argparse.ArgumentParser) -> int:
    if sum(flag is not None for flag in (arguments.pin, arguments.unpin, arguments.prune)) > 1:
        parser.error("--pin, --unpin and --prune: one at a time")
    if arguments.version and not arguments.pin:
        parser.error("--version is for --pin")
    with connected(arguments) as client:
        if arguments.pin:
            return _pin(client, arguments)
        if arguments.unpin:
            return _unpin(client, arguments)
        if arguments.prune is not None:
            return _prune(client, arguments)
        return _list(client, arguments)


def _list(client: Client, arguments: argparse.Namespace) -> int:
    found = client.versions(arguments.set)
    if arguments.json:
        output.as_json(found)
        return 0
    table = output.table("version", "written", "pins", right=("version",))
    output.rows(table, ((str(v.version), output.when(v.time), _pins(v)) for v in found))
    return 0


def _pins(version: VersionInfo) -> str:
    return ", ".join([*version.pins, *(f"{pin} (damaged)" for pin in version.damaged_pins)])


def _pin(client: Client, arguments: argparse.Namespace) -> int:
    pinned: VersionInfo = client.pin(arguments.set, arguments.pin, arguments.version)
    if arguments.json:
        output.as_json(pinned)
    else:
        print(f"version {pinned.version} of {arguments.set} is pinned as {arguments.pin}")
    return 0


def _unpin(client: Client, arguments: argparse.Namespace) -> int:
    client.unpin(arguments.set, arguments.unpin)
    if arguments.json:
        output.as_json({"set": arguments.set, "unpinned": arguments.unpin})
    else:
        print(f"{arguments.unpin} of {arguments.set} is no pin any more")
    return 0


def _prune(client: Client, arguments: argparse.Namespace) -> int:
    pruned = client.prune(arguments.set, arguments.prune)
    if arguments.json:
        output.as_json(pruned)
    else:
        print(f"{counted(pruned.removed, 'version')} removed, {output.size(pruned.bytes)} given back")
    return 0

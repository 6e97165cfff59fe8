"""`topwork sets`, `delete` and `drop`. Verbs of one set are in `set_changes.py`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable

from topwork.cli import output, set_changes
from topwork.cli.connection_flags import connected
from topwork.cli.output import counted
from topwork.client import Client
from topwork.errors import DataLoss, InvalidInput
from topwork.sets import SetInfo

Commands = argparse._SubParsersAction
DELETE_EXAMPLES = """\
examples:
  topwork delete birds owls/1.jpg owls/2.jpg
  topwork delete birds --where "year < 2020 AND label = 'owl'"
"""


def add(commands: Commands[argparse.ArgumentParser], common: argparse.ArgumentParser) -> None:
    raw = argparse.RawDescriptionHelpFormatter
    sets = commands.add_parser("sets", parents=[common], epilog=set_changes.EXAMPLES, formatter_class=raw)
    sets.add_argument("set", nargs="?", metavar="SET")
    set_changes.add(sets)
    sets.set_defaults(run=_sets)
    delete = _parser(commands, common, "delete", DELETE_EXAMPLES)
    delete.add_argument("items", nargs="*", metavar="ID")
    delete.add_argument("--where", default="", metavar="SQL", help="those of which this is true, over id and metadata")
    delete.set_defaults(run=lambda arguments: _delete(arguments, delete))
    drop = _parser(commands, common, "drop")
    drop.add_argument("--index", metavar="NAME", help="this index alone; the set stays")
    drop.add_argument("--yes", action="store_true", help="do not ask")
    drop.set_defaults(run=_drop)


def _parser(
    commands: Commands[argparse.ArgumentParser], common: argparse.ArgumentParser, verb: str, examples: str = ""
) -> argparse.ArgumentParser:
    raw = argparse.RawDescriptionHelpFormatter
    parser = commands.add_parser(verb, parents=[common], epilog=examples, formatter_class=raw)
    parser.add_argument("set", metavar="SET")
    return parser


def _sets(arguments: argparse.Namespace) -> int:
    with connected(arguments) as client:
        if arguments.verb:
            return set_changes.run(client, arguments)
        found = [client.set(arguments.set)] if arguments.set else client.sets()
    if arguments.json:
        output.as_json(found[0] if arguments.set else found)
    elif arguments.set:
        _print_one(found[0])
    else:
        _print_all(found)
    return 0


def _print_all(found: list[SetInfo]) -> None:
    if not found:
        output.console().print("there are no sets yet: `topwork write SET ITEM... --encoder E` makes one", style="dim")
        return
    numbers = ("items", "version", "on disk")
    table = output.table("set", "items", "encoder", "taps", "version", "on disk", "indexes", right=numbers, whole=("set",))
    output.rows(table, (_line(info) for info in found))


def _line(info: SetInfo) -> Iterable[str]:
    taps = ", ".join(f"{tap.name} {tap.dim}" for tap in info.taps)
    indexes = ", ".join(info.indexes) or "-"
    items = "damaged" if info.damage else f"{info.items:,}"
    return info.name, items, info.encoder or "-", taps, str(info.version), output.size(info.bytes), indexes


def _print_one(info: SetInfo) -> None:
    output.facts(_facts(info))
    print()
    taps = output.table("tap", "dim", "a row is", "fingerprint", "column")
    output.rows(
        taps, ((t.name, str(t.dim), t.granularity, t.fingerprint[:16], info.tap_columns.get(t.name, "")) for t in info.taps)
    )
    if info.columns:
        print()
        output.rows(output.table("metadata", "type"), info.columns.items())


def _facts(info: SetInfo) -> Iterable[tuple[str, str]]:
    yield "set", info.name
    yield "items", f"{info.items:,}"
    yield "encoder", f"{info.encoder} ({info.modality})" if info.encoder else "none: ready vectors"
    options = [f"{name}={value}" for name, value in info.options.items() if value != ""]
    if options:
        yield "options", ", ".join(options)
    yield "rows are", info.dtype
    yield "raw inputs", "kept" if info.keeps_inputs else "not kept"
    yield "version", str(info.version)
    yield "on disk", output.size(info.bytes)
    yield "created", output.when(info.created)
    for numerics in info.numerics:
        yield "numerics", f"{numerics.provider} {numerics.precision}, parity {numerics.parity:.6f}"
    yield "indexes", ", ".join(info.indexes) or "none"
    if info.damage:
        yield "damage", info.damage
    yield "path", info.path


def _delete(arguments: argparse.Namespace, parser: argparse.ArgumentParser) -> int:
    if bool(arguments.items) == bool(arguments.where):
        parser.error("name ids, or say which with --where (one of the two)")
    with connected(arguments) as client:
        missing = _missing(client, arguments.set, arguments.items) if arguments.items else []
        deleted = client.delete(arguments.set, arguments.items or None, where=arguments.where)
    if arguments.json:
        output.as_json({"set": arguments.set, "deleted": deleted, **({"missing": missing} if arguments.items else {})})
    else:
        print(f"{counted(deleted, 'item')} deleted from {arguments.set}")
        output.say_missing(missing)
    return 0


def _missing(client: Client, name: str, ids: list[str]) -> list[str]:
    there = set(client.read(name, taps=[], columns=[], ids=ids).ids)
    return [id for id in dict.fromkeys(ids) if id not in there]


def _drop(arguments: argparse.Namespace) -> int:
    what = f"index {arguments.index} of {arguments.set}" if arguments.index else f"set {arguments.set}"
    with connected(arguments) as client:
        if not arguments.yes and not _agreed(client, arguments, what):
            output.say("nothing was dropped")
            return 1
        if arguments.index:
            client.drop_index(arguments.set, arguments.index)
        else:
            client.drop_set(arguments.set)
    if arguments.json:
        output.as_json({"set": arguments.set, "index": arguments.index, "dropped": True})
    else:
        print(f"{what} is dropped")
    return 0


def _agreed(client: Client, arguments: argparse.Namespace, what: str) -> bool:
    """Asks the terminal; says how much there is to lose."""
    if not sys.stdin.isatty():
        raise InvalidInput(f"dropping {what} takes a yes, and there is no terminal to ask", remedy="say --yes")
    held = ""
    if not arguments.index:
        held = _held(client, arguments.set)
    print(f"drop {what}{held}? [y/N] ", end="", file=sys.stderr, flush=True)
    return sys.stdin.readline().strip().lower() in ("y", "yes")


def _held(client: Client, name: str) -> str:
    try:
        info = client.set(name)
    except DataLoss:
        return ", which is damaged"
    indexes = f" and {counted(len(info.indexes), 'index')}" if info.indexes else ""
    return f" with {counted(info.items, 'item')}, all versions{indexes}"

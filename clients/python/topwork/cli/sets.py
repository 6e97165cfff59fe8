"""`topwork sets`, `delete` and `drop`. Verbs of one set are in `set_changes.py`."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from types import SimpleNamespace

import click

from topwork.cli import output, set_changes
from topwork.cli.connection_flags import connected, connection
from topwork.cli.output import counted
from topwork.cli.verb import verb
from topwork.client import Client
from topwork.errors import DataLoss, InvalidInput
from topwork.sets import SetInfo

DELETE_EXAMPLES = """\
examples:
  topwork delete birds owls/1.jpg owls/2.jpg
  topwork delete birds --where "year < 2020 AND label = 'owl'"
"""


@verb(set_changes.EXAMPLES)
@click.argument("set", required=False, metavar="[SET]")
@set_changes.change_flags
@connection
def sets(arguments: SimpleNamespace) -> int:
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


@verb(DELETE_EXAMPLES)
@click.argument("set", metavar="SET")
@click.argument("items", nargs=-1, metavar="[ID]...")
@click.option("--where", default="", metavar="SQL", help="those of which this is true, over id and metadata")
@connection
def delete(arguments: SimpleNamespace) -> int:
    if bool(arguments.items) == bool(arguments.where):
        raise click.UsageError("name ids, or say which with --where (one of the two)")
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


@verb()
@click.argument("set", metavar="SET")
@click.option("--index", metavar="NAME", help="this index alone; the set stays")
@click.option("--yes", is_flag=True, help="do not ask")
@connection
def drop(arguments: SimpleNamespace) -> int:
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


def _agreed(client: Client, arguments: SimpleNamespace, what: str) -> bool:
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

"""`topwork sets` with the verbs of one set, `topwork delete` and `topwork drop`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from types import SimpleNamespace
from typing import Any

import click

from topwork._display.number_text import counted
from topwork._files.column_types import KINDS, TypeInference, convert
from topwork.cli import output, write_sources
from topwork.cli.confirmation import confirmed, yes_flag
from topwork.cli.connection import connected, connection
from topwork.cli.verb import PATH, encoding_name, separator, verb, version
from topwork.cli.write_sources import InputSelection
from topwork.client import Client
from topwork.errors import DataLoss, InvalidInput
from topwork.sets import SetInfo, UpdateReport

VERBS = ("count", "add-column", "rename-column", "cast-column", "drop-column", "update")
SETS_EXAMPLES = """\
verbs of one set:
  count                      how many items there are, or how many match --where
  add-column COLUMN TYPE     bool, int, float, string, time or strings; without values
  rename-column COLUMN NEW
  cast-column COLUMN TYPE    refused where a value would be lost
  drop-column COLUMN         older versions keep it
  update [ID ...]            change metadata, and no vectors: --set for those ids or --where, or --from a file with ids

examples:
  topwork sets birds count --where "label = 'owl'"
  topwork sets birds cast-column year float
  topwork sets birds update owls/1.jpg owls/2.jpg --set label=owl --set checked=true
  topwork sets birds update --where "year < 1900" --set year=
  topwork sets birds update --from labels.csv --id path
"""
DELETE_EXAMPLES = """\
examples:
  topwork delete birds owls/1.jpg owls/2.jpg
  topwork delete birds --where "year < 2020 AND label = 'owl'"
"""


def _assignment(text: str) -> tuple[str, str]:
    """Read COLUMN=VALUE, with any value, also none."""
    column, equals, value = text.partition("=")
    if not column or not equals:
        raise click.BadParameter(f"{text!r} is not COLUMN=VALUE")
    return column, value


@verb(
    SETS_EXAMPLES,
    only_with={
        "where": ("verb=count", "verb=update"),
        "version": ("verb=count",),
        "values": ("verb=update",),
        "source": ("verb=update",),
        **dict.fromkeys(("id", "separator", "encoding"), ("source",)),
    },
)
@click.argument("set", required=False, metavar="[SET]")
@click.argument("verb", required=False, type=click.Choice(VERBS), metavar="[VERB]", help=", ".join(VERBS))
@click.argument("words", nargs=-1, metavar="[WORD]...", help="what the verb is about: see below")
@click.option("--where", default="", metavar="SQL", help="count, update: those of which this is true")
@click.option("--version", type=version, default="0", metavar="N|PIN", help="count: as the set was then")
@click.option(
    "--set", "values", multiple=True, type=_assignment, metavar="COLUMN=VALUE", help="update: nothing after = removes it"
)
@click.option("--from", "source", type=PATH, metavar="FILE", help="update: .csv, .tsv, .jsonl or .parquet")
@click.option("--id", metavar="COLUMN", help="update --from: the file's column of ids")
@click.option("--separator", type=separator, metavar="S", help="update --from: what is between the columns of a .csv")
@click.option("--encoding", type=encoding_name, metavar="E", help="update --from: of the file's letters (default: utf-8)")
@connection
def sets(arguments: SimpleNamespace) -> int:
    with connected(arguments) as client:
        if arguments.verb:
            return CHANGES[arguments.verb](client, arguments)
        found = [client.set(arguments.set)] if arguments.set else client.sets()
    return output.show(found, arguments.set, arguments.json, _print_one, _print_all)


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
    yield "encoder", f"{info.encoder} ({info.reads})" if info.encoder else "none: ready vectors"
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


@verb(DELETE_EXAMPLES, only_with={"yes": ("where",)})
@click.argument("set", metavar="SET")
@click.argument("items", nargs=-1, metavar="[ID]...")
@click.option("--where", default="", metavar="SQL", help="those of which this is true, over id and metadata")
@yes_flag
@connection
def delete(arguments: SimpleNamespace) -> int:
    if bool(arguments.items) == bool(arguments.where):
        raise click.UsageError("name ids, or say which with --where (one of the two)")
    with connected(arguments) as client:
        if arguments.where and not confirmed(
            arguments,
            f"delete the items of {arguments.set} where {arguments.where}",
            lambda: f": {counted(client.count(arguments.set, arguments.where), 'item')}",
        ):
            return 1
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
@yes_flag
@connection
def drop(arguments: SimpleNamespace) -> int:
    what = f"index {arguments.index} of {arguments.set}" if arguments.index else f"set {arguments.set}"
    with connected(arguments) as client:
        if not confirmed(arguments, f"drop {what}", lambda: "" if arguments.index else _held(client, arguments.set)):
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


def _held(client: Client, name: str) -> str:
    try:
        info = client.set(name)
    except DataLoss:
        return ", which is damaged"
    indexes = f" and {counted(len(info.indexes), 'index')}" if info.indexes else ""
    return f" with {counted(info.items, 'item')}, all versions{indexes}"


def _count(client: Client, arguments: SimpleNamespace) -> int:
    _words(arguments, 0, "no more words")
    found = client.count(arguments.set, arguments.where, version=arguments.version)
    if arguments.json:
        output.as_json({"set": arguments.set, "where": arguments.where, "count": found})
    else:
        print(f"{found:,}")
    return 0


def _add_column(client: Client, arguments: SimpleNamespace) -> int:
    column, type = _words(arguments, 2, "COLUMN TYPE")
    return _changed(arguments, client.add_column(arguments.set, column, _type(type)))


def _rename_column(client: Client, arguments: SimpleNamespace) -> int:
    column, to = _words(arguments, 2, "COLUMN NEW")
    return _changed(arguments, client.rename_column(arguments.set, column, to))


def _cast_column(client: Client, arguments: SimpleNamespace) -> int:
    column, type = _words(arguments, 2, "COLUMN TYPE")
    return _changed(arguments, client.cast_column(arguments.set, column, _type(type)))


def _drop_column(client: Client, arguments: SimpleNamespace) -> int:
    (column,) = _words(arguments, 1, "COLUMN")
    return _changed(arguments, client.drop_column(arguments.set, column))


def _words(arguments: SimpleNamespace, count: int, wanted: str) -> list[str]:
    words: list[str] = arguments.words
    if len(words) != count:
        raise InvalidInput(f"{arguments.verb} is given {len(words)} words", remedy=f"say {wanted} behind it")
    return words


def _type(name: str) -> str:
    if name not in KINDS:
        raise InvalidInput(f"{name!r} is no type of metadata", remedy=f"say one of {', '.join(KINDS)}")
    return name


def _changed(arguments: SimpleNamespace, info: SetInfo) -> int:
    if arguments.json:
        output.as_json({"set": info.name, "version": info.version, "columns": dict(info.columns)})
    else:
        columns = ", ".join(f"{name} {type}" for name, type in info.columns.items()) or "no metadata"
        print(f"{info.name}, version {info.version}: {columns}")
    return 0


def _update(client: Client, arguments: SimpleNamespace) -> int:
    if sum(map(bool, (arguments.words, arguments.where, arguments.source))) != 1:
        raise InvalidInput("an update is of ids, of --where or of --from FILE", remedy="say one of the three")
    if bool(arguments.source) == bool(arguments.values):
        raise InvalidInput("an update takes its values from --set, or from --from FILE", remedy="say one of the two")
    known = client.set(arguments.set).columns
    if arguments.source:
        report = _from_file(client, arguments, known)
    else:
        values = _values(arguments.values, known)
        report = client.update(arguments.set, arguments.words or None, values, where=arguments.where)
    return _print_report(arguments, report)


def _from_file(client: Client, arguments: SimpleNamespace, known: Mapping[str, str]) -> UpdateReport:
    """Update from a file; an empty cell removes the value."""
    if not arguments.id:
        raise InvalidInput(f"{arguments.source} does not say whose its rows are", remedy="name its column of ids with --id")
    source = write_sources.from_records(
        arguments.source, InputSelection(id=arguments.id, kinds=known, separator=arguments.separator, encoding=arguments.encoding)
    )
    entries = list(source.entries)
    names = dict.fromkeys(name for entry in entries for name in entry.metadata)
    columns = {name: [entry.metadata.get(name) for entry in entries] for name in names}
    return client.update(arguments.set, [entry.id for entry in entries], columns)


def _values(pairs: list[tuple[str, str]], known: Mapping[str, str]) -> dict[str, Any]:
    """Convert to the types of the set's columns; of a new column, as a .csv would be read."""
    found: dict[str, Any] = {}
    for name, text in pairs:
        kind = next((type for column, type in known.items() if column.lower() == name.lower()), None) or _guessed(text)
        try:
            found[name] = None if text == "" else convert("float" if kind == "int" and not _is_int(text) else kind, text)
        except ValueError:
            raise InvalidInput(
                f"the column {name} is {kind}, and {text!r} is not", remedy="say another value, or cast the column"
            ) from None
    return found


def _is_int(text: str) -> bool:
    return text.strip().lstrip("+-").isdecimal()


def _guessed(text: str) -> str:
    guess = TypeInference()
    guess.take_text(text)
    return guess.kind or "string"


def _print_report(arguments: SimpleNamespace, report: UpdateReport) -> int:
    if arguments.json:
        record = {"set": arguments.set, "updated": report.updated, "missing": list(report.missing), "version": report.version}
        output.as_json(record)
        return 0
    print(f"{counted(report.updated, 'item')} updated in {arguments.set}, version {report.version}")
    output.say_missing(report.missing)
    return 0


CHANGES: Mapping[str, Callable[[Client, SimpleNamespace], int]] = {
    "count": _count,
    "add-column": _add_column,
    "rename-column": _rename_column,
    "cast-column": _cast_column,
    "drop-column": _drop_column,
    "update": _update,
}

"""`topwork read`: items of a set to the screen, or into a file."""

from __future__ import annotations

from collections.abc import Iterable
from types import SimpleNamespace
from typing import Any

import click

from topwork._display.html import cut_left
from topwork._display.number_text import counted
from topwork._files import save_features, save_rows
from topwork.cli import output
from topwork.cli.connection import connected, connection
from topwork.cli.verb import COUNT, PATH, verb, version
from topwork.rows import Rows

#: Items on a screen unless --limit says more; letters of one value; numbers of one row.
SHOWN, WIDTH, NUMBERS = 20, 60, 4
EXAMPLES = """\
On the screen and as JSON: ids and metadata, and the features of taps that are named. In a file: all taps unless some are named.

examples:
  topwork read birds --where "label = 'owl'" --limit 5
  topwork read birds -o birds.parquet
  topwork read birds --version before-the-cleanup --tap pooled -o old.npz
"""


@verb(EXAMPLES)
@click.argument("set", metavar="SET")
@click.option("-o", "--out", type=PATH, metavar="FILE", help=".npz, .parquet, .npy (of one tap), .jsonl or .csv")
@click.option("--where", default="", metavar="SQL", help="those of which this is true, over id and metadata: year > 2020")
@click.option("--column", multiple=True, metavar="C", help="this metadata alone; may be repeated (default: all)")
@click.option("--tap", multiple=True, metavar="T", help="these features alone; may be repeated")
@click.option("--version", type=version, default="0", metavar="N|PIN", help="as the set was at that version, or at that pin")
@click.option("--limit", type=COUNT, metavar="N", help=f"at most so many (on the screen: {SHOWN})")
@connection
def read(arguments: SimpleNamespace) -> int:
    if arguments.out:
        return _save(arguments)
    limit = arguments.limit or (0 if arguments.json else SHOWN)
    with connected(arguments) as client:
        rows = client.read(arguments.set, **_selection(arguments), taps=arguments.tap, limit=limit)
    if arguments.json:
        output.as_json({"set": arguments.set, "version": rows.version, "total": rows.total, "items": list(_records(rows))})
    else:
        _print(rows)
    return 0


def _selection(arguments: SimpleNamespace) -> dict[str, Any]:
    return {"columns": arguments.column or None, "where": arguments.where, "version": arguments.version}


def _save(arguments: SimpleNamespace) -> int:
    """Save a part at a time, all taps unless some are named."""
    save_features.chosen(save_rows.SINKS, arguments.out)
    others: dict[str, Any] = {"taps": arguments.tap or None, "limit": arguments.limit or 0, "progress": not arguments.json}
    with connected(arguments) as client:
        saved = client.export_set(arguments.set, arguments.out, **_selection(arguments), **others)
    if arguments.json:
        record = {"set": saved.set, "version": saved.version, "total": saved.total, "items": saved.items}
        output.as_json({**record, "file": str(saved.path), "bytes": saved.bytes})
        return 0
    taps = ", ".join(f"{tap} {count:,} x {dim}" for tap, (count, dim) in saved.rows.items())
    text = f"{counted(saved.items, 'item')} of {saved.set}, version {saved.version} ({taps or 'no features'})"
    print(f"{text} -> {saved.path}, {output.size(saved.bytes)}")
    return 0


def _records(rows: Rows) -> Iterable[dict[str, Any]]:
    for i, id in enumerate(rows.ids):
        record = {"id": id, "metadata": {name: values[i] for name, values in rows.metadata.items()}}
        features = {tap: found.of(i) for tap, found in rows.features.items()}
        yield {**record, "features": features} if features else record


def _print(rows: Rows) -> None:
    taps = list(rows.features)
    table = output.table("id", *rows.metadata, *taps, whole=("id",))
    output.rows(table, (_line(rows, i) for i in range(len(rows))))
    more = f" of {rows.total:,}: --limit N shows more, -o FILE writes all" if rows.total > len(rows) else ""
    output.console().print(f"{counted(len(rows), 'item')}{more}; version {rows.version}", style="dim")


def _line(rows: Rows, i: int) -> Iterable[str]:
    yield cut_left(rows.ids[i], WIDTH)
    for values in rows.metadata.values():
        yield output.cut(output.cell(values[i]), WIDTH)
    for features in rows.features.values():
        yield _numbers(features.of(i))


def _numbers(found: Any) -> str:
    if len(found) != 1:
        return f"{counted(len(found), 'row')}"
    text = " ".join(f"{value:.4f}" for value in found[0, :NUMBERS])
    return f"{text}{' ...' if found.shape[1] > NUMBERS else ''}"

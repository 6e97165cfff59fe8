"""`topwork read`: items of a set to the screen, or into a file."""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from topwork import _cli_show, _saving, _saving_rows
from topwork._cli_client import connected
from topwork._cli_show import counted
from topwork._cli_words import positive, version
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


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser], common: argparse.ArgumentParser) -> None:
    parser = commands.add_parser(
        "read",
        parents=[common],
        help="items of a set, to the screen or into a file",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("set", metavar="SET")
    parser.add_argument("-o", "--out", type=Path, metavar="FILE", help=".npz or .parquet")
    parser.add_argument(
        "--where", default="", metavar="SQL", help="those of which this is true, over id and metadata: year > 2020"
    )
    parser.add_argument("--column", action="append", metavar="C", help="this metadata alone; may be repeated (default: all)")
    parser.add_argument("--tap", action="append", metavar="T", help="these features alone; may be repeated")
    parser.add_argument(
        "--version", type=version, default=0, metavar="N|PIN", help="as the set was at that version, or at that pin"
    )
    parser.add_argument("--limit", type=positive, metavar="N", help=f"at most so many (on the screen: {SHOWN})")
    parser.set_defaults(run=_run)


def _run(arguments: argparse.Namespace) -> int:
    if arguments.out:
        _saving.chosen(_saving_rows.WRITERS, arguments.out)
    shown = not arguments.out and not arguments.json
    with connected(arguments) as client:
        rows = client.read(
            arguments.set,
            taps=arguments.tap if arguments.tap or arguments.out else [],
            columns=arguments.column,
            where=arguments.where,
            version=arguments.version,
            limit=arguments.limit or (SHOWN if shown else 0),
            progress=bool(arguments.out) and not arguments.json,
        )
    if arguments.out:
        rows.save(arguments.out)
        _report_file(rows, arguments)
    elif arguments.json:
        _cli_show.as_json({"set": arguments.set, "version": rows.version, "total": rows.total, "items": list(_records(rows))})
    else:
        _print(rows)
    return 0


def _report_file(rows: Rows, arguments: argparse.Namespace) -> None:
    size = arguments.out.stat().st_size
    if arguments.json:
        record = {"set": arguments.set, "version": rows.version, "total": rows.total, "items": len(rows)}
        _cli_show.as_json({**record, "file": str(arguments.out), "bytes": size})
        return
    taps = ", ".join(f"{tap} {features.rows.shape[0]:,} x {features.dim}" for tap, features in rows.features.items())
    said = f"{counted(len(rows), 'item')} of {arguments.set}, version {rows.version} ({taps or 'no features'})"
    print(f"{said} -> {arguments.out}, {_cli_show.size(size)}")


def _records(rows: Rows) -> Iterable[dict[str, Any]]:
    for i, id in enumerate(rows.ids):
        record = {"id": id, "metadata": {name: values[i] for name, values in rows.metadata.items()}}
        features = {tap: found.of(i) for tap, found in rows.features.items()}
        yield {**record, "features": features} if features else record


def _print(rows: Rows) -> None:
    taps = list(rows.features)
    table = _cli_show.table("id", *rows.metadata, *taps, whole=("id",))
    _cli_show.rows(table, (_line(rows, i) for i in range(len(rows))))
    more = f" of {rows.total:,}: --limit N shows more, -o FILE writes all" if rows.total > len(rows) else ""
    _cli_show.console().print(f"{counted(len(rows), 'item')}{more}; version {rows.version}", style="dim")


def _line(rows: Rows, i: int) -> Iterable[str]:
    yield _cli_show.cut(rows.ids[i], WIDTH)
    for values in rows.metadata.values():
        yield _cli_show.cut(_cli_show.cell(values[i]), WIDTH)
    for features in rows.features.values():
        yield _numbers(features.of(i))


def _numbers(found: Any) -> str:
    if len(found) != 1:
        return f"{counted(len(found), 'row')}"
    said = " ".join(f"{value:.4f}" for value in found[0, :NUMBERS])
    return f"{said}{' ...' if found.shape[1] > NUMBERS else ''}"

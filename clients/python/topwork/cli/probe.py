"""`topwork probe`: which trunk, and which depth of it, suits the data."""

from __future__ import annotations

from types import SimpleNamespace

import click

from topwork.cli import output
from topwork.cli.connection_flags import connected, connection
from topwork.cli.jobs import awaited
from topwork.cli.train import TARGET, task_flags, task_of
from topwork.cli.verb import verb
from topwork.probes import ProbeTable

EXAMPLES = """\
The same task is learnt from each tap of each set, on the same folds. Best first, with 95% intervals; "to the best" is the
difference item by item: where its interval holds 0, the two cannot be told apart.

examples:
  topwork probe birds --target label
  topwork probe birds-resnet birds-efficientnet --target label --taps layer2 layer3 layer4 pooled
"""


@verb(EXAMPLES)
@click.argument("sets", nargs=-1, required=True, metavar="SET...")
@click.option("--target", required=True, metavar="COLUMN", help=TARGET)
@task_flags
@click.option("--no-wait", is_flag=True, help="begin it, and print its job")
@connection
def probe(arguments: SimpleNamespace) -> int:
    with connected(arguments) as client, awaited(arguments.json or arguments.no_wait) as progress:
        found = client.probe(arguments.sets, **task_of(arguments), wait=not arguments.no_wait, progress=progress)
    if arguments.json:
        output.as_json(found)
    elif isinstance(found, ProbeTable):
        _print(found)
    else:
        print(f"the probe goes on: `topwork jobs {found.id} --watch`")
    return 0


def _print(found: ProbeTable) -> None:
    table = output.table(*found.titles(), right=("dim", found.measure), whole=("tap", found.measure, "interval", "to the best"))
    output.rows(table, found.lines())
    console = output.console()
    console.print()
    for line in found.remarks():
        console.print(line, markup=False, style="bold" if line == found.advice else None)

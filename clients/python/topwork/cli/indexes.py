"""`topwork index` builds an index and waits for it; `topwork indexes` shows what there is."""

from __future__ import annotations

from collections.abc import Iterable
from types import SimpleNamespace
from typing import Any

import click

from topwork._display.number_text import counted
from topwork.cli import output, vector_files
from topwork.cli.connection import connected, connection
from topwork.cli.inputs import gather
from topwork.cli.jobs import awaited
from topwork.cli.verb import PATH, Number, by_name, key_value, verb
from topwork.client import Client
from topwork.indexes import IndexInfo, IndexKind

METRICS = ("cosine", "inner_product", "l2")
#: Above 0, at most 1.
SHARE = Number(min=0, max=1, min_open=True)
#: What an index keeps when it is built again.
DEFINING = ("tap", "kind", "metric", "option", "target_recall", "queries")
EXAMPLES = """\
An index follows its set: what was written is found by the next search, also while it is built again.
`topwork indexes --kinds` lists the kinds and what --option may set; any FAISS factory string is a kind, too.

examples:
  topwork index birds
  topwork index birds --kind hnsw --target-recall 0.99
  topwork index birds --name small --kind IVF1024,PQ48 --metric inner_product
  topwork index birds --rebuild
"""


@verb(EXAMPLES, only_with={"column": ("queries",)}, not_with=dict.fromkeys(DEFINING, ("rebuild",)))
@click.argument("set", metavar="SET")
@click.option("--name", default="", metavar="N", help="default: the tap's name")
@click.option("--tap", metavar="T", help="default: the set's first")
@click.option("--kind", metavar="K", help="default: auto, which picks by size")
@click.option("--metric", type=click.Choice(METRICS), help="default: cosine")
@click.option("--option", multiple=True, type=key_value, metavar="K=V", help="what the kind declares")
@click.option("--target-recall", type=SHARE, metavar="R", help="at 10, against exact search (default: 0.95)")
@click.option("--queries", type=PATH, metavar="FILE", help="measure recall on these: .npy or .npz of vectors, or a file of items")
@click.option("--column", metavar="C", help="of --queries: its column of texts or paths")
@click.option("--rebuild", is_flag=True, help="build one that is there again; searches go on on the old one")
@click.option("--no-wait", is_flag=True, help="begin it, and print its job")
@connection
def index(arguments: SimpleNamespace) -> int:
    with connected(arguments) as client:
        info = _build(client, arguments)
    if arguments.json:
        output.as_json(info)
    elif arguments.no_wait:
        print(f"index {info.name} of {info.set} is being built{_watch_it(info)}")
    else:
        print(_summary(info))
        if info.missed_target:
            output.say(f"{info.detail} (--kind flat finds all; ivf and hnsw find more than quantized kinds)")
    return 0


def _build(client: Client, arguments: SimpleNamespace) -> IndexInfo:
    wait = not arguments.no_wait
    own = _queries(client, arguments)
    with awaited(arguments.json or arguments.no_wait) as progress:
        if arguments.rebuild:
            return client.rebuild_index(arguments.set, arguments.name, wait=wait, progress=progress)
        return client.create_index(arguments.set, **_defined(arguments), **own, wait=wait, progress=progress)


def _queries(client: Client, arguments: SimpleNamespace) -> dict[str, Any]:
    if not arguments.queries:
        return {}
    if arguments.queries.suffix in (".npy", ".npz"):
        found = vector_files.single(arguments.queries)
        return {"queries": found.rows if found.features is None else found.features}
    modality = client.set(arguments.set).reads
    source = SimpleNamespace(source=arguments.queries, items=[], column=arguments.column, separator=None, encoding=None)
    return {"queries": list(gather(source, modality).items)}


def _defined(arguments: SimpleNamespace) -> dict[str, Any]:
    """Collect the flags that were given; the client has the defaults of the rest."""
    given = {name: getattr(arguments, name) for name in ("name", "tap", "kind", "metric", "target_recall")}
    return {name: value for name, value in given.items() if value} | {"options": by_name("--option", arguments.option)}


def _watch_it(info: IndexInfo) -> str:
    return f": `topwork jobs {info.job.id} --watch`" if info.job else ""


def _summary(info: IndexInfo) -> str:
    """Format as "index pooled of birds: IVF1024,Flat over 100,000 rows, recall 0.962 at effort 24, 5,210 queries/s, 153 MB, built
    in 31 s"."""
    head = f"index {info.name} of {info.set}: {info.built or info.kind} over {counted(info.rows, 'row')}"
    qps = next((point.qps for point in info.operating_points if point.effort == info.effort), 0.0)
    facts = [f"recall {info.recall:.3f} at effort {info.effort}" if info.recall else "", f"{qps:,.0f} queries/s" if qps else ""]
    facts += [f"{output.size(info.memory_bytes)} of memory" if info.memory_bytes else ""]
    facts += [f"built in {output.seconds(info.build_seconds)}"]
    return ", ".join([head, *(fact for fact in facts if fact)])


@verb(not_with={"set": ("kinds",)})
@click.argument("set", default="", metavar="[SET]")
@click.argument("name", required=False, metavar="[NAME]")
@click.option("--kinds", is_flag=True, help="what kinds there are, and their options")
@connection
def indexes(arguments: SimpleNamespace) -> int:
    with connected(arguments) as client:
        if arguments.kinds:
            return _kinds(client.index_kinds(), arguments.json)
        found = [client.index(arguments.set, arguments.name)] if arguments.name else client.indexes(arguments.set)
    return output.show(found, arguments.name, arguments.json, _print_one, _print_all)


def _kinds(found: list[IndexKind], as_json: bool) -> int:
    if as_json:
        output.as_json(found)
        return 0
    output.rows(
        output.table("kind", "description", "plugin", whole=("kind",)),
        ((kind.kind, kind.description, kind.plugin) for kind in found),
    )
    options = [(kind.kind, o.name, o.type, o.default, o.description) for kind in found for o in kind.options]
    if options:
        print()
        output.rows(output.table("kind", "option", "type", "default", "description"), options)
    return 0


def _print_all(found: list[IndexInfo]) -> None:
    if not found:
        output.console().print("there are no indexes: `topwork index SET` builds one", style="dim")
        return
    numbers = ("rows", "recall", "memory")
    titles = ("set", "index", "tap", "kind", "built", "metric", "state", "rows", "recall", "memory")
    table = output.table(*titles, right=numbers, whole=("set", "index"))
    output.rows(table, (_line(info) for info in found))


def _line(info: IndexInfo) -> Iterable[str]:
    recall = f"{info.recall:.3f}" if info.recall else "-"
    memory = output.size(info.memory_bytes) if info.memory_bytes else "-"
    named = (info.set, info.name, info.tap, info.kind, info.built or "-", info.metric, info.state)
    return *named, f"{info.rows:,}", recall, memory


def _print_one(info: IndexInfo) -> None:
    output.facts(_facts(info))
    if info.operating_points:
        print()
        table = output.table("effort", "recall at 10", "queries/s", "", right=("effort", "recall at 10", "queries/s"))
        output.rows(
            table,
            (
                (str(p.effort), f"{p.recall:.4f}", f"{p.qps:,.0f}", "*" if p.effort == info.effort else "")
                for p in info.operating_points
            ),
        )


def _facts(info: IndexInfo) -> Iterable[tuple[str, str]]:
    yield "index", f"{info.name} of {info.set}, over tap {info.tap} ({info.dim} dimensions, {info.metric})"
    yield "kind", f"{info.kind}{f': {info.built}' if info.built else ''}"
    if info.options:
        yield "options", ", ".join(f"{name}={value}" for name, value in info.options.items())
    yield "state", info.state + (f": {info.detail}" if info.detail else "")
    yield "rows", f"{info.rows:,} ({info.delta_rows:,} written and {info.deleted_rows:,} gone since the build)"
    if info.held_out:
        measured = f"{info.held_out:,} {'queries of your own' if info.own_queries else 'rows held out'}"
        yield "recall", f"{info.recall:.4f} at effort {info.effort}, wanted {info.target_recall:g} ({measured})"
    for live in info.live_recall:
        which = f"filters that leave {live.above:.0%} to {live.up_to:.0%}" if live.filtered else "no filter"
        yield "live recall", f"{live.recall:.4f} of {live.searches:,} of your searches, repeated exactly ({which})"
    yield "built in", output.seconds(info.build_seconds)
    yield "memory", output.size(info.memory_bytes) if info.memory_bytes else "not loaded"
    yield "on disk", output.size(info.disk_bytes)
    yield "version", f"{info.version} of the set"
    yield "fingerprint", info.fingerprint
    if info.job:
        yield "job", f"{info.job.id}, {info.job.state}"

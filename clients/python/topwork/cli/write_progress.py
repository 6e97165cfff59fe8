"""A write under way on the command line: what was sent, what was acknowledged, what is said in the end."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import closing
from itertools import tee
from types import SimpleNamespace
from typing import Any

from topwork.cli import INTERRUPTED, output, progress
from topwork.cli.output import counted, seconds
from topwork.cli.progress import WriteCounts
from topwork.cli.slow_start import explained
from topwork.cli.write_sources import WriteItem, WriteSource
from topwork.client import Client
from topwork.errors import TopworkError
from topwork.sets import Acknowledged

#: Failures named one by one before the rest is only counted.
NAMED = 5


class SkippedItems:
    """Bad items: the first few by name, and how many. `refuse` is for those that do not even reach the server."""

    def __init__(self) -> None:
        self.count = 0
        self.named: list[tuple[str, str]] = []

    def refuse(self, id: str, error: TopworkError, place: str = "") -> None:
        """`place` is the line of the file that holds it."""
        self.count += 1
        if len(self.named) < NAMED:
            self.named.append((id, f"{place}: {_said(error)}" if place else _said(error)))

    def take(self, reply: Acknowledged, done: Sequence[WriteItem]) -> None:
        """`done` are the entries that the reply answers."""
        for position, error in reply.failures.items():
            self.refuse(reply.failed_ids[position], error, done[position - reply.start].place)

    def report(self) -> None:
        for id, message in self.named:
            output.say(f"skipped {id!r}: {message}")
        if self.count > len(self.named):
            output.say(f"skipped {self.count - len(self.named):,} more")


def _said(error: TopworkError) -> str:
    return error.message + (f" ({error.remedy})" if error.remedy else "")


def send(
    client: Client, arguments: SimpleNamespace, call: dict[str, Any], source: WriteSource, skipped: SkippedItems
) -> tuple[WriteCounts, BaseException | None]:
    """What was done, and what ended it early: Ctrl-C or an error, which then names the item by its id."""
    pending: deque[WriteItem] = deque()
    tally = WriteCounts(ready="vectors" in call)
    ids, metadata, *items = tee(source.entries, 2 if tally.ready else 3)  # one that nobody reads would keep all entries
    if items:
        call["items"] = (entry.item for entry in items.pop())
    options = {"taps": arguments.tap, "options": dict(arguments.option), "keep_inputs": arguments.keep_inputs}
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
    """The ids; `pending` is what was sent and not yet acknowledged."""
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


def finish(
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
    what = "run the same command again to go on" if isinstance(ended, KeyboardInterrupt) else "run it again when that is mended"
    return f"{counted(tally.stored, 'item')} {verb} stored; {what}: nothing is encoded twice"


def _summary(name: str, tally: WriteCounts, skipped: SkippedItems, elapsed: float) -> str:
    """5,000 items in birds (4,950 new, 50 unchanged), 2 skipped, version 12, 31 s, 161/s."""
    done = tally.stored + skipped.count
    parts = [("new", tally.inserted), ("updated", tally.updated), ("unchanged", tally.unchanged)]
    said = ", ".join(f"{count:,} {what}" for what, count in parts if count)
    rate = f"{done / elapsed:,.0f}/s" if done >= elapsed else f"{done / elapsed:.2f}/s"
    left_out = f", {skipped.count:,} skipped" if skipped.count else ""
    changes = f" ({said})" if said else ""
    return f"{counted(tally.stored, 'item')} in {name}{changes}{left_out}, version {tally.version}, {seconds(elapsed)}, {rate}"


def _record(name: str, tally: WriteCounts, ended: BaseException | None, skipped: SkippedItems, elapsed: float) -> dict[str, Any]:
    counts = {"inserted": tally.inserted, "updated": tally.updated, "unchanged": tally.unchanged, "encoded": tally.encoded}
    failures = {"failed": skipped.count, "failures": [{"id": id, "message": message} for id, message in skipped.named]}
    items = tally.stored + skipped.count
    head = {"set": name, "items": items, **counts, **failures, "version": tally.version}
    return {**head, "seconds": round(elapsed, 3), "interrupted": ended is not None}

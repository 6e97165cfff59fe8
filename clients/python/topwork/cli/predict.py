"""`topwork predict`: what heads say of items, to the screen or into a file."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import click
import numpy as np

from topwork._display.number_text import counted
from topwork._files import record_files, save_features, save_predictions
from topwork._files.save_predictions import Found, Kept
from topwork.cli import output, vector_files
from topwork.cli.connection import connected, connection
from topwork.cli.inputs import ENCODING, OF_A_FILE, blamed, encoding_flags, gather, source_flags
from topwork.cli.output import cut
from topwork.cli.verb import COUNT, PATH, by_name, names, verb
from topwork.client import Client
from topwork.errors import InvalidInput, TopworkError
from topwork.predictions import Prediction, Predictions

#: Items on a terminal; letters of an item and of its prediction.
SHOWN, ITEM, PREDICTION = 50, 60, 80
SHARE = click.FloatRange(0, 1)
PROMISE = click.FloatRange(0, 1, min_open=True, max_open=True)
EXAMPLES = """\
Items are given as to `topwork embed`: texts, paths, folders, - for lines of stdin, or --from a file of them. Those of a set are
predicted from its features; nothing is encoded.

examples:
  topwork predict birds-label photos/ --top 3
  topwork predict reviews-stars,reviews-topic --from new.csv --column body --keep id,date -o predictions.csv
  topwork predict birds-label photos/ --abstain 0.2 --unlike 0.01
  topwork predict scenes-boxes photos/ --min-score 0.5 --json
  topwork predict birds-label --set birds --where "label IS NULL" -o guessed.parquet
"""


@verb(
    EXAMPLES,
    only_with={**OF_A_FILE, "keep": ("source",), "id": ("set",), "where": ("set",)},
    not_with={"where": ("id",), **dict.fromkeys(ENCODING, ("set", "vector"))},
)
@click.argument("heads", type=names, metavar="HEAD[,HEAD...]")
@click.argument("items", nargs=-1, metavar="[ITEM]...")
@source_flags
@click.option("--keep", type=names, metavar="COLUMN,...", help="of the file, to stand beside the predictions")
@click.option("--set", default="", metavar="S", help="items of this set: all, or those of --id or --where")
@click.option("--id", multiple=True, metavar="ID", help="of an item of the set; may be repeated")
@click.option("--where", default="", metavar="SQL", help="of the set's items, those of which this is true")
@click.option("--vector", type=PATH, metavar="FILE", help=".npy (n, dim), or .npz of `topwork embed -o`")
@click.option("--top", type=COUNT, metavar="N", help="so many classes, best first (default: the best; JSON: all)")
@click.option("--coverage", type=PROMISE, metavar="P", help="the classes, or the band, that hold the truth so often (0.9)")
@click.option("--abstain", type=float, metavar="COST", help='of no answer, where a wrong one costs 1: "none of these" if unsure')
@click.option("--unlike", type=float, metavar="P", help="none of these, for items less typical of the training items (0.01)")
@click.option("--min-score", type=SHARE, metavar="P", help="of boxes (default: that of the best F1 on held-out items)")
@click.option("--max-overlap", type=SHARE, metavar="P", help="of boxes of one class (default: 0.6)")
@click.option("--max-boxes", type=COUNT, metavar="N", help="of an item (default: 100)")
@encoding_flags
@click.option("-o", "--out", type=PATH, metavar="FILE", help=".csv, .jsonl or .parquet")
@connection
def predict(arguments: SimpleNamespace) -> int:
    if sum(map(bool, (arguments.items, arguments.source, arguments.set, arguments.vector))) != 1:
        raise click.UsageError("name items, --from FILE, --set S or --vector FILE (one of them)")
    if arguments.keep and arguments.source.is_dir():
        raise click.UsageError("--keep names columns of a file, and --from names a folder")
    if arguments.out:
        save_features.chosen(save_predictions.WRITERS, arguments.out)
    kept = _kept(arguments)
    started = time.perf_counter()
    with connected(arguments) as client:
        items, query, refused = _query(client, arguments)
        with blamed(items):
            found = client.predict(
                arguments.heads,
                **query,
                top=arguments.top or 0,
                coverage=arguments.coverage or 0.0,
                abstain=arguments.abstain,
                unlike=arguments.unlike,
                min_score=arguments.min_score,
                max_overlap=arguments.max_overlap,
                max_boxes=arguments.max_boxes or 0,
                options=by_name("--option", arguments.option) or None,
                skip_bad_items=arguments.skip_bad_items,
                priority=arguments.priority,
                progress=not arguments.json,
            )
    assert isinstance(found, dict), "a list of heads was asked for"
    found = {head: replace(one, failures={**one.failures, **refused}) for head, one in found.items()}
    _show(found, [_name(item, i) for i, item in enumerate(items, 1)], kept, arguments, time.perf_counter() - started)
    return 0


def _kept(arguments: SimpleNamespace) -> dict[str, list[Any]]:
    """Read the file's own columns that stand beside the predictions."""
    if not arguments.keep:
        return {}
    table = record_files.opened(arguments.source, arguments.separator, arguments.encoding)
    for column in arguments.keep:
        table.check(column, "keep")
    records = list(table.every(arguments.keep))
    return {column: [record.values.get(column) for record in records] for column in arguments.keep}


def _query(client: Client, arguments: SimpleNamespace) -> tuple[Sequence[Any], dict[str, Any], Mapping[int, TopworkError]]:
    """Return the names of the items, the arguments of the call, and which records of a file hold no item."""
    if arguments.set:
        ids = arguments.id or client.read(arguments.set, taps=[], columns=[], where=arguments.where).ids
        if not ids:
            raise InvalidInput(f"no item of {arguments.set} is selected", remedy="look with `topwork read`")
        return ids, {"set": arguments.set, "ids": ids}, {}
    if arguments.vector:
        vectors = vector_files.single(arguments.vector)
        return vectors.labels(arguments.vector), {"vectors": vectors.features or vectors.rows}, {}
    encoder = client.head(arguments.heads[0]).encoder
    if not encoder:
        raise InvalidInput(f"head {arguments.heads[0]} reads ready vectors", remedy="give them with --vector, or name a --set")
    modality = client.encoder(encoder).reads
    inputs = gather(arguments, modality, skip=arguments.skip_bad_items)
    return inputs.names, {"items": inputs.items}, inputs.refused


def _name(item: Any, number: int) -> str:
    """Name an item; those of Parquet may be the bytes of files."""
    return f"row {number}" if isinstance(item, bytes) else str(item)


def _show(found: Found, items: Sequence[str], kept: Kept, arguments: SimpleNamespace, seconds: float) -> None:
    if arguments.out:
        save_predictions.save(found, items, arguments.out, all_classes=bool(arguments.top), kept=kept)
    if arguments.json:
        _print_json(found, items, kept, arguments)
        return
    if not arguments.out:
        _print(found, items, arguments.top or 1)
    target = f" -> {arguments.out}" if arguments.out else ""
    rate = f"{counted(len(items), 'item')} in {output.seconds(seconds)}, {len(items) / seconds:,.1f}/s{target}"
    output.console().print(rate, style="bold" if arguments.out else "dim", markup=False)
    failures = {i: error for one in found.values() for i, error in one.failures.items()}
    output.say_first("skipped", [f"{items[i]!r}: {failures[i]}" for i in sorted(failures)], len(failures))


def _print_json(found: Found, items: Sequence[str], kept: Kept, arguments: SimpleNamespace) -> None:
    """Print an object an item, a line each; of a file what was written."""
    if arguments.out:
        failed = len({i for one in found.values() for i in one.failures})
        output.as_json({"heads": list(found), "items": len(items), "failed": failed, "file": str(arguments.out)})
        return
    for record in save_predictions.records(found, items, kept):
        print(json.dumps(record))


def _print(found: Found, items: Sequence[str], top: int) -> None:
    shown = SHOWN if sys.stdout.isatty() else len(items)
    titles = list(found) if len(found) > 1 else ["says"]
    lines = (
        (cut(item, ITEM), *(cut(_text(one, i, top), PREDICTION) for one in found.values()))
        for i, item in enumerate(items[:shown])
    )
    output.rows(output.table("item", *titles), lines)
    if len(items) > shown:
        print(f"... and {len(items) - shown:,} more: -o FILE writes all")


def _text(found: Predictions, i: int, top: int) -> str:
    prediction: Prediction = found[i]
    if prediction.error:
        return "skipped"
    if prediction.abstained:
        promised = "" if prediction.candidates is None else f" ({_candidates(prediction)})"
        return f"{prediction}{promised}"
    if prediction.candidates is not None:
        return _candidates(prediction)
    if prediction.label is not None and top > 1:
        return ", ".join(f"{name} {p:.3f}" for name, p in prediction.probabilities.items())
    if prediction.mask is not None:
        return f"{'x'.join(map(str, prediction.mask.shape))}: {_shares(prediction.mask, found.names)}"
    return str(prediction)


def _candidates(prediction: Prediction) -> str:
    """Format as "owl 0.610 or wren 0.320"; of labels, which may all be true, as "owl 0.610, wren 0.320"."""
    known = prediction.probabilities  # of `top` names alone where that was asked for
    named = (f"{name} {known[name]:.3f}" if name in known else name for name in prediction.candidates or ())
    return (" or " if prediction.label is not None else ", ").join(named) or "no label"


def _shares(mask: Any, names: Sequence[str]) -> str:
    """Format as "owl 61%, background 39%"."""
    counts = np.bincount(mask.ravel(), minlength=len(names))[: len(names)]
    order = [i for i in np.argsort(-counts, kind="stable").tolist() if counts[i]]
    return ", ".join(f"{names[i]} {counts[i] / mask.size:.0%}" for i in order)

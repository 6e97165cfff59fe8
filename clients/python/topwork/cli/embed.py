"""`topwork embed`: items from the command line, from files or from stdin; features to a file or to the screen."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import click

from topwork._codec.messages import ROLES, ROW_DTYPES
from topwork._files import save_features
from topwork.cli import output
from topwork.cli.connection import connected, connection, explained
from topwork.cli.inputs import OF_A_FILE, Inputs, blamed, encoding_flags, gather, source_flags
from topwork.cli.verb import PATH, by_name, verb
from topwork.features import Features

#: Columns of a terminal: for the name of an item, for what of it a row covers, for a number and what goes before and after them.
NAME, SPAN, NUMBER, REST = 40, 19, 9, 5
NUMBERS = 6
EXAMPLES = """\
items, by what the encoder reads:
  texts    "a red bird"; - for lines of stdin; --from lines.txt, rows.csv or rows.jsonl --column text; or a folder of .txt
           (a word that is the path of a file here is refused: - takes any text as it is)
  media    paths of pictures, clips or recordings, folders of them, or --from a list of paths (relative ones from where it is)

examples:
  topwork embed all-minilm-l6-v2 "a red bird" "a blue whale"
  topwork embed all-minilm-l6-v2 --from reviews.csv --column body -o reviews.parquet
  topwork embed resnet50-thin photos/ --tap layer3 --tap pooled -o photos.npz
"""


@verb(EXAMPLES, only_with=OF_A_FILE)
@click.argument("encoder", metavar="ENCODER")
@click.argument("items", nargs=-1, metavar="[ITEM]...")
@source_flags
@click.option("--tap", multiple=True, metavar="T", help="default: the encoder's own; may be repeated")
@click.option("--dtype", type=click.Choice(list(ROW_DTYPES)), default="float32", show_default=True)
@click.option("--normalize", is_flag=True, help="rows of unit length")
@click.option("--dimensions", type=int, default=0, metavar="N", help="keep the first N")
@click.option(
    "--role", type=click.Choice(list(ROLES)), help="what the items are for: the encoder puts its prompt for that before them"
)
@encoding_flags
@click.option("-o", "--out", type=PATH, metavar="FILE", help=".npy, .npz or .parquet; one a tap")
@connection
def embed(arguments: SimpleNamespace) -> int:
    if bool(arguments.items) == bool(arguments.source):
        raise click.UsageError("name items, or a file of them with --from (one of the two)")
    if arguments.out:
        save_features.writer(arguments.out)
    started = time.perf_counter()
    with connected(arguments) as client, explained(arguments, arguments.encoder):
        modality = client.encoder(arguments.encoder).reads
        inputs = gather(arguments, modality, skip=arguments.skip_bad_items)
        with blamed(inputs.names):
            found = client.embed_taps(
                arguments.encoder,
                inputs.items,
                arguments.tap,
                dtype=arguments.dtype,
                normalize=arguments.normalize,
                dimensions=arguments.dimensions,
                options=by_name("--option", arguments.option),
                skip_bad_items=arguments.skip_bad_items,
                priority=arguments.priority,
                role=arguments.role,
                progress=not arguments.json,
            )
    seconds = time.perf_counter() - started
    found = {tap: replace(f, failures={**f.failures, **inputs.refused}) for tap, f in found.items()}
    written = _save(found, arguments.out, inputs) if arguments.out else {}
    if arguments.json:
        print(json.dumps({tap: _record(f, inputs, written.get(tap)) for tap, f in found.items()}))
    else:
        _print(found, inputs, written, seconds)
    return 0


def _save(found: dict[str, Features], out: Path, inputs: Inputs) -> dict[str, Path]:
    """Write one tap to the file that was named, several each to a file with the tap's name in it."""
    written = {tap: out if len(found) == 1 else out.with_name(f"{out.stem}.{tap}{out.suffix}") for tap in found}
    for tap, features in found.items():
        features.save(written[tap], inputs.names)
    return written


def _record(features: Features, inputs: Inputs, written: Path | None) -> dict[str, Any]:
    record = {**save_features.about(features), "rows": len(features), "items": len(features.counts)}
    if written:
        return {**record, "file": str(written)}
    record |= {"inputs": inputs.names, "counts": features.counts.tolist(), "features": features.rows.tolist()}
    for name in ("spans", "parts", "scales"):
        array = getattr(features, name)
        record |= {} if array is None else {name: array.tolist()}
    return record


def _print(found: dict[str, Features], inputs: Inputs, written: dict[str, Path], seconds: float) -> None:
    console = output.piped(highlight=False, soft_wrap=True)
    for tap, features in found.items():
        if not written:
            for line in _lines(features, inputs, console.width):
                console.print(line, markup=False)
        target = f" -> {written[tap]}" if written else ""
        console.print(f"{_summary(features)}{target}", markup=False, style="bold")
    items = len(inputs.names)
    noted = "".join(f", {name.replace('_', ' ')}: {count}" for name, count in _noted(next(iter(found.values()))).items())
    rate = f"{items} item{'s' * (items != 1)} in {seconds:.2f} s, {items / seconds:,.1f}/s"
    console.print(rate + noted, style="dim", markup=False)
    failures = next(iter(found.values())).failures
    output.say_first("skipped", [f"{inputs.names[item]!r}: {error}" for item, error in failures.items()], len(failures))


def _lines(features: Features, inputs: Inputs, columns: int, most: int = 20) -> Iterable[str]:
    """Format the first rows for so many columns: input, what of it a row covers, first numbers."""
    values = features.dequantized()
    name_width, numbers = _widths(columns - (0 if features.spans is None else SPAN))
    for row in range(min(len(features), most)):
        name = inputs.names[features.items[row]]
        cells = " ".join(f"{value:8.4f}" for value in values[row, :numbers])
        short = _short(name, name_width, inputs.are_paths)
        yield f"{short:{name_width}} {_span(features, row, name)}{cells}{' ...' if features.dim > numbers else ''}"
    if len(features) > most:
        yield f"... and {len(features) - most} more rows: -o FILE writes all"


def _widths(columns: int) -> tuple[int, int]:
    """Divide the columns between the name and numbers: where room is short, first fewer numbers, then less of the name."""
    numbers = min(max((columns - REST - NAME) // NUMBER, 3), NUMBERS)
    return min(max(columns - REST - numbers * NUMBER, 12), NAME), numbers


def _short(name: str, width: int, is_path: bool) -> str:
    """Shorten a name where it tells least: a path before its end, a text after its beginning."""
    if len(name) <= width:
        return name
    return f"...{name[3 - width :]}" if is_path else f"{name[: width - 3]}..."


def _noted(features: Features) -> Counter[str]:
    """Add up the notes of all items, such as unknown_words."""
    return sum((Counter(counts) for counts in features.notes.values()), Counter())


def _span(features: Features, row: int, name: str) -> str:
    """Format what of its item a row covers."""
    if features.spans is None:
        return ""
    span = features.spans[row].tolist()
    if features.span_kind == "characters":
        covered = repr(name[int(span[0]) : int(span[1])])
    elif features.span_kind == "seconds":
        covered = f"{span[0]:.2f}-{span[1]:.2f} s"
    else:
        covered = ",".join(f"{edge:.0f}" for edge in span)
    return f"{covered:>18} "


def _summary(features: Features) -> str:
    numerics = features.numerics
    how = f", {numerics.provider} {numerics.precision} (parity {numerics.parity:.6f})" if numerics else ""
    size = f"{len(features)} x {features.dim} {features.dtype}"
    return f"{features.encoder}/{features.tap}: {size}, fingerprint {features.fingerprint[:12]}{how}"

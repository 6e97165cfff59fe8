"""Predictions as records, and as files: .csv, .jsonl, .parquet. A file appears whole or not at all."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, TypeAlias

from topwork._files import save_features
from topwork.annotations import mask

if TYPE_CHECKING:
    from topwork.predictions import Prediction, Predictions

Found: TypeAlias = "Mapping[str, Predictions]"
#: Columns of the caller's own, with a value an item.
Kept = Mapping[str, Sequence[Any]]
#: Fields of a prediction that are written as they are, where they are filled.
PLAIN = ("label", "probability", "labels", "abstained", "typicality", "candidates", "probabilities", "value", "low", "high")
#: A cell of a table: what csv and Parquet hold.
Cell = str | float | list[str] | None


def save(found: Found, names: Sequence[str], path: Path, *, all_classes: bool, kept: Kept) -> None:
    """Write predictions to a file; `names` are the items'. With `all_classes` tables hold the probabilities of all classes."""
    write = save_features.chosen(WRITERS, path)
    with save_features.whole(path) as file:
        write(found, names, file, all_classes, kept)


def records(found: Found, names: Sequence[str], kept: Kept) -> Iterator[dict[str, Any]]:
    """Yield an object an item, as JSON has it; the predictions of several heads are objects in it by the head's name, and so are
    those of one head where a kept column has the name of one of their fields."""
    for i, name in enumerate(names):
        own = {column: values[i] for column, values in kept.items()}
        plain = {head: record(predictions[i]) for head, predictions in found.items()}
        first = next(iter(plain.values()))
        yield {"item": name, **own, **(first if len(plain) == 1 and not own.keys() & first.keys() else plain)}


def record(found: Prediction) -> dict[str, Any]:
    """Convert the filled fields of a prediction to plain values, and a mask to rows of numbers."""
    if found.error:
        return {"error": str(found.error)}
    plain: dict[str, Any] = {}
    for name in PLAIN:
        value = getattr(found, name)
        plain |= {} if value is None or value == {} else {name: value}
    if found.spans is not None:
        plain["spans"] = [span._asdict() for span in found.spans]
    if found.detections is not None:
        plain["detections"] = [asdict(one) for one in found.detections]
    if found.mask is not None:
        plain |= {"mask": found.mask.tolist(), "box": found.box}
        plain |= {} if found.confidences is None else {"confidences": found.confidences.tolist()}
    return plain


def cells(found: Prediction, all_classes: bool) -> dict[str, Cell]:
    """Convert a prediction to cells: what is nested becomes JSON, a mask what `topwork.mask` writes."""
    plain = record(found)
    plain.pop("confidences", None)
    if not all_classes:
        plain.pop("probabilities", None)
    if found.mask is not None:
        plain["mask"] = mask(found.mask)
    made = {name: json.dumps(value) if isinstance(value, dict | list | tuple) else value for name, value in plain.items()}
    return made | ({} if found.labels is None else {"labels": list(found.labels)})


def table(found: Found, names: Sequence[str], all_classes: bool, kept: Kept) -> dict[str, list[Cell]]:
    """Make columns of one length; those of several heads begin with the head's name, and so do those of one head where a kept
    column has the name of one of them."""
    columns: dict[str, list[Cell]] = {"item": list(names), **{name: list(values) for name, values in kept.items()}}
    for head, predictions in found.items():
        rows = [cells(prediction, all_classes) for prediction in predictions]
        titles = list(dict.fromkeys(title for row in rows for title in row))
        prefix = f"{head}." if len(found) > 1 or columns.keys() & set(titles) else ""
        for title in titles:
            columns[prefix + title] = [row.get(title) for row in rows]
    return columns


def _csv(found: Found, names: Sequence[str], file: IO[bytes], all_classes: bool, kept: Kept) -> None:
    columns = table(found, names, all_classes, kept)
    text = io.TextIOWrapper(file, "utf-8", newline="", write_through=True)
    writer = csv.writer(text)
    writer.writerow(columns)
    for row in zip(*columns.values(), strict=True):
        writer.writerow("" if cell is None else json.dumps(cell) if isinstance(cell, list) else cell for cell in row)
    text.detach()


def _jsonl(found: Found, names: Sequence[str], file: IO[bytes], all_classes: bool, kept: Kept) -> None:
    for line in records(found, names, kept):
        file.write(json.dumps(line, ensure_ascii=False).encode() + b"\n")


def _parquet(found: Found, names: Sequence[str], file: IO[bytes], all_classes: bool, kept: Kept) -> None:
    pa, parquet = save_features.pyarrow()
    about = {head: {"task": each.task, "names": each.names, "version": each.version} for head, each in found.items()}
    made = pa.table(table(found, names, all_classes, kept))
    parquet.write_table(made.replace_schema_metadata({"topwork": json.dumps(about)}), file)


WRITERS = {".csv": _csv, ".jsonl": _jsonl, ".parquet": _parquet}

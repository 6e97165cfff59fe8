"""Predictions as records, and as files: .csv, .jsonl, .parquet. A file appears whole or not at all."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

from topwork import _saving
from topwork.labelling import mask
from topwork.predictions import Prediction, Predictions

Found = Mapping[str, Predictions]
#: A cell of a table: what csv and Parquet hold.
Cell = str | float | list[str] | None


def save(found: Found, names: Sequence[str], path: Path, *, all_classes: bool) -> None:
    """`names` are those of the items; with `all_classes` tables hold the probabilities of more than the best class."""
    write = _saving.chosen(WRITERS, path)
    with _saving.whole(path) as file:
        write(found, names, file, all_classes)


def records(found: Found, names: Sequence[str]) -> Iterator[dict[str, Any]]:
    """An object an item, as JSON says it; of several heads an object each in it, by the head's name."""
    for i, name in enumerate(names):
        said = {head: record(predictions[i]) for head, predictions in found.items()}
        yield {"item": name, **(next(iter(said.values())) if len(said) == 1 else said)}


def record(found: Prediction) -> dict[str, Any]:
    """What there is of it, in plain values; a mask as rows of numbers."""
    if found.error:
        return {"error": str(found.error)}
    plain: dict[str, Any] = {}
    for name in ("label", "probability", "labels", "probabilities", "value", "low", "high"):
        value = getattr(found, name)
        plain |= {} if value is None or value == {} else {name: value}
    if found.spans is not None:
        plain["spans"] = [span._asdict() for span in found.spans]
    if found.mask is not None:
        plain |= {"mask": found.mask.tolist(), "box": found.box}
        plain |= {} if found.confidences is None else {"confidences": found.confidences.tolist()}
    return plain


def cells(found: Prediction, all_classes: bool) -> dict[str, Cell]:
    """The same in one level: what is nested as JSON, a mask as `topwork.mask` writes it."""
    plain = record(found)
    plain.pop("confidences", None)
    if not all_classes:
        plain.pop("probabilities", None)
    if found.mask is not None:
        plain["mask"] = mask(found.mask)
    made = {name: json.dumps(value) if isinstance(value, dict | list | tuple) else value for name, value in plain.items()}
    return made | ({} if found.labels is None else {"labels": list(found.labels)})


def table(found: Found, names: Sequence[str], all_classes: bool) -> dict[str, list[Cell]]:
    """Columns of one length; those of several heads begin with the head's name."""
    columns: dict[str, list[Cell]] = {"item": list(names)}
    for head, predictions in found.items():
        prefix = f"{head}." if len(found) > 1 else ""
        rows = [cells(prediction, all_classes) for prediction in predictions]
        for title in dict.fromkeys(title for row in rows for title in row):
            columns[prefix + title] = [row.get(title) for row in rows]
    return columns


def _csv(found: Found, names: Sequence[str], file: IO[bytes], all_classes: bool) -> None:
    columns = table(found, names, all_classes)
    text = io.TextIOWrapper(file, "utf-8", newline="", write_through=True)
    writer = csv.writer(text)
    writer.writerow(columns)
    for row in zip(*columns.values(), strict=True):
        writer.writerow("" if cell is None else json.dumps(cell) if isinstance(cell, list) else cell for cell in row)
    text.detach()


def _jsonl(found: Found, names: Sequence[str], file: IO[bytes], all_classes: bool) -> None:
    for line in records(found, names):
        file.write(json.dumps(line, ensure_ascii=False).encode() + b"\n")


def _parquet(found: Found, names: Sequence[str], file: IO[bytes], all_classes: bool) -> None:
    pa, parquet = _saving.pyarrow()
    about = {head: {"task": said.task, "names": said.names, "version": said.version} for head, said in found.items()}
    made = pa.table(table(found, names, all_classes))
    parquet.write_table(made.replace_schema_metadata({"topwork": json.dumps(about)}), file)


WRITERS = {".csv": _csv, ".jsonl": _jsonl, ".parquet": _parquet}

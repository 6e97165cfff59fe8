"""Items of the command line: words, files of them, folders, stdin."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import click

from topwork._codec.messages import PRIORITIES
from topwork.cli import folders, record_files
from topwork.cli.record_files import LINE, RecordFile, text_of
from topwork.cli.text_encoding import name as encoding_name
from topwork.cli.verb import PATH, flags
from topwork.errors import InvalidInput, TopworkError


@dataclass(frozen=True)
class Inputs:
    """What is embedded, and how each is named in what is written. `refused` says, by position, why a record of a file holds no
    item; None stands in its place."""

    names: Sequence[str]
    items: Iterable[Any]
    are_paths: bool = False
    refused: Mapping[int, TopworkError] = field(default_factory=dict)


source_flags = flags(
    click.option("--from", "source", type=PATH, metavar="FILE", help=".txt, .csv, .tsv, .jsonl, .parquet, or a folder"),
    click.option("--column", metavar="C", help="its column of texts or paths (default: text or path, or the only one)"),
    click.option("--separator", metavar="S", help="what is between the columns of a .csv (default: a comma)"),
    click.option(
        "--encoding", type=encoding_name, metavar="E", help="of the file's letters: cp1252, latin-1, utf-16 ... (default: utf-8)"
    ),
)
priority_flag = click.option(
    "--priority",
    type=click.Choice(list(PRIORITIES)),
    default="normal",
    show_default=True,
    help="who goes first where many wait",
)


def gather(arguments: SimpleNamespace, modality: str, *, skip: bool = False) -> Inputs:
    """All inputs of one command, of `source_flags`. Raises InvalidInput where a file does not hold what was asked for;
    with `skip` its bad records are `refused`."""
    source: Path | None = arguments.source
    refused: dict[int, TopworkError] = {}
    items: list[Any] | None = None
    if source is None:
        names = [name for word in arguments.items for name in _expanded(word, modality)]
    elif source.is_dir():
        names = _folder(source, modality)
        if modality == "text":
            return Inputs(names, _Contents(names, arguments.encoding), are_paths=True)
    else:
        names, items = _listed(arguments, modality, refused, skip)
    if not names:
        raise InvalidInput("there are no items", remedy="name some, or a file that holds some")
    return Inputs(names, names if items is None else items, are_paths=modality != "text", refused=refused)


def stdin_lines() -> Iterator[str]:
    return (line.rstrip("\n") for line in sys.stdin)


def item_column(table: RecordFile, column: str | None, modality: str) -> str:
    """Which column holds the items. Raises InvalidInput where the file has none such."""
    if table.columns == ():
        if column:
            table.check(column, "--column")
        return LINE
    if table.columns and not column and len(table.columns) == 1:
        return table.columns[0]
    chosen = column or ("text" if modality == "text" else "path")
    table.check(chosen, "--column")
    return chosen


class _Contents(Sequence[str]):
    """The texts of files, read one by one."""

    def __init__(self, names: Sequence[str], encoding: str | None) -> None:
        self._names, self._encoding = names, encoding

    def __len__(self) -> int:
        return len(self._names)

    def __getitem__(self, index: Any) -> Any:
        return folders.contents(Path(self._names[index]), self._encoding)


def _expanded(word: str, modality: str) -> Iterable[str]:
    if word == "-":
        return stdin_lines()
    if modality != "text" and os.path.isdir(word):
        return _folder(Path(word), modality)
    return [word]


def _folder(folder: Path, modality: str) -> list[str]:
    folders.count(folder, modality)
    return [str(path) for path in folders.files(folder, modality)]


def _listed(
    arguments: SimpleNamespace, modality: str, refused: dict[int, TopworkError], skip: bool
) -> tuple[list[Any], list[Any]]:
    """Names and items: texts; or paths, relative ones from where the file is."""
    table = record_files.opened(arguments.source, arguments.separator, arguments.encoding)
    chosen = item_column(table, arguments.column, modality)
    names, items = list[Any](), list[Any]()
    for record in table.every([chosen]):
        try:
            if record.error:
                raise record.error
            item = text_of(table, chosen, record)
        except InvalidInput as error:
            if not skip:
                raise
            refused[len(items)] = error
            names.append(f"{table.path.name} {table.place} {record.line}")
            items.append(None)
        else:
            read = item if modality == "text" or isinstance(item, bytes) else str(table.path.parent / item)
            names.append(read)
            items.append(read)
    return names, items

"""Items of the command line: words, files of them, folders, stdin."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from topwork import _cli_folders, _cli_tables
from topwork._cli_tables import LINE, Table
from topwork._cli_values import text_of
from topwork.errors import InvalidInput


@dataclass(frozen=True)
class Inputs:
    """What is embedded, and how each is named in what is written."""

    names: Sequence[str]
    items: Iterable[Any]
    are_paths: bool = False


def add_source(parser: argparse.ArgumentParser, what: str = ".txt, .csv, .tsv, .jsonl, .parquet, or a folder") -> None:
    """The flags that name a file of items."""
    parser.add_argument("--from", dest="source", type=Path, metavar="FILE", help=what)
    parser.add_argument("--column", metavar="C", help="its column of texts or paths (default: text or path, or the only one)")
    parser.add_argument("--separator", metavar="S", help="what is between the columns of a .csv (default: a comma)")


def gather(words: Sequence[str], source: Path | None, column: str | None, modality: str, separator: str | None = None) -> Inputs:
    """All inputs of one command. Raises InvalidInput where a file does not hold what was asked for."""
    if source is None:
        names = [name for word in words for name in _expanded(word, modality)]
    elif source.is_dir():
        names = _folder(source, modality)
        if modality == "text":
            return Inputs(names, _Contents(names), are_paths=True)
    else:
        names = list(_listed(source, column, modality, separator))
    if not names:
        raise InvalidInput("there are no items", remedy="name some, or a file that holds some")
    return Inputs(names, names, are_paths=modality != "text")


def stdin_lines() -> Iterator[str]:
    return (line.rstrip("\n") for line in sys.stdin)


def item_column(table: Table, column: str | None, modality: str) -> str:
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

    def __init__(self, names: Sequence[str]) -> None:
        self._names = names

    def __len__(self) -> int:
        return len(self._names)

    def __getitem__(self, index: Any) -> Any:
        return _cli_folders.contents(Path(self._names[index]))


def _expanded(word: str, modality: str) -> Iterable[str]:
    if word == "-":
        return stdin_lines()
    if modality != "text" and os.path.isdir(word):
        return _folder(Path(word), modality)
    return [word]


def _folder(folder: Path, modality: str) -> list[str]:
    _cli_folders.count(folder, modality)
    return [str(path) for path in _cli_folders.files(folder, modality)]


def _listed(path: Path, column: str | None, modality: str, separator: str | None) -> Iterator[Any]:
    """Texts; or paths, relative ones from where the file is."""
    table = _cli_tables.opened(path, separator)
    chosen = item_column(table, column, modality)
    for record in table.records([chosen]):
        item = text_of(table, chosen, record)
        yield item if modality == "text" or isinstance(item, bytes) else str(path.parent / item)

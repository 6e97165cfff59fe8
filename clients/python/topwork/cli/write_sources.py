"""What `topwork write` sends: ids, items and metadata out of folders, files, words and stdin, one by one."""

from __future__ import annotations

import hashlib
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

from topwork._files import record_files
from topwork._files.record_files import Record, RecordFile
from topwork._files.record_values import id_of, item_column, metadata_of, text_of
from topwork._files.text_encoding import decoded
from topwork.cli.inputs import check_folder_flags, check_words, count_files, files_in, item_columns, item_of, stdin_lines
from topwork.cli.schema_inference import EMPTY, MOULD, InferredSchema, SchemaRequest, survey
from topwork.errors import InvalidInput, TopworkError

#: Characters of a text that is its own id; of a longer one its beginning and a digest.
LONGEST_ID = 100
#: Metadata of a folder's files.
FOLDER_COLUMNS = ("folder", "name")


class WriteItem(NamedTuple):
    """One item: a text, a path, or (of .parquet) the bytes of a file; None where vectors are written. `place` is where in a
    file of items it stands."""

    id: str
    item: Any
    metadata: Mapping[str, Any]
    place: str = ""


@dataclass(frozen=True)
class InputSelection:
    """Selection of the inputs, and as what they are read: see the flags of `topwork write`.

    `refuse` is called with the id of an item that cannot be read, where such items are skipped.
    """

    modality: str = "text"
    column: str | None = None
    id: str | None = None
    metadata: Sequence[str] | None = None
    kinds: Mapping[str, str] = field(default_factory=dict)
    separator: str | None = None
    encoding: str | None = None
    refuse: Callable[[str, TopworkError], object] | None = None


@dataclass(frozen=True)
class WriteSource:
    """Items in order, each read as it is asked for; `total` is None where it is not known; `notes` are printed once."""

    entries: Iterable[WriteItem]
    total: int | None
    notes: Sequence[str] = ()


def from_words(words: Sequence[str], taken: InputSelection) -> WriteSource:
    """Take texts, or paths of files and folders; - is stdin, a line an item."""
    named = [Path(word) for word in words if taken.modality != "text" and os.path.isdir(word)]
    if taken.column or taken.id or taken.separator or taken.encoding:
        raise InvalidInput(
            "--column, --id, --separator and --encoding are for files of items", remedy="name the file with --from"
        )
    check_words(words, taken.modality)
    if taken.modality == "text" and (lost := next((word for word in words if os.path.isdir(word)), None)):
        raise InvalidInput(f"{lost} is a folder, among texts", remedy="write folders one by one")
    sizes = [count_files(folder, taken.modality) for folder in named]
    total = None if "-" in words else sum(sizes) + len(words) - len(named)
    entries = chain.from_iterable(_of_word(word, taken) for word in words)
    return WriteSource(_once(entries), total)


def from_path(path: Path, taken: InputSelection) -> WriteSource:
    """Take a folder, or a file of items. Raises InvalidInput before anything of a file is sent that is not sound."""
    if path.is_dir():
        check_folder_flags(path, taken, taken.modality)
        return WriteSource(_of_folder(path, taken), count_files(path, taken.modality))
    table = record_files.opened(path, taken.separator, taken.encoding)
    item = item_column(table, taken.column, item_columns(taken.modality))
    return _of_table(table, item, taken, lambda record: _item(table, item, record, taken.modality))


def is_source(path: Path) -> bool:
    """Tell whether it is a folder, or a file of items."""
    return os.path.isdir(path) or (record_files.suffix_of(path) in record_files.TABLES and os.path.isfile(path))


def from_names(names: Sequence[str]) -> WriteSource:
    """Take ids alone, for vectors."""
    return WriteSource(_once(WriteItem(_text_id(name), None, {}) for name in names), len(names))


def from_records(path: Path, taken: InputSelection) -> WriteSource:
    """Take ids and metadata alone, for vectors that are in another file."""
    table = record_files.opened(path, taken.separator, taken.encoding)
    return _of_table(table, None, taken, lambda record: None)


def _of_table(table: RecordFile, item: str | None, taken: InputSelection, read: Callable[[Record], Any]) -> WriteSource:
    found = survey(table, SchemaRequest(item, taken.id, taken.metadata, taken.kinds, skip=taken.refuse is not None))
    if not found.total:
        raise InvalidInput(f"{table.path} holds no items", remedy="give another file")
    columns = None if table.columns is None else _wanted(item, taken.id, found)
    return WriteSource(_records(table, columns, found, taken, read), found.total, _notes(found))


def _wanted(item: str | None, id_column: str | None, found: InferredSchema) -> list[str]:
    named = [column for column in (item, id_column) if column is not None]
    return list(dict.fromkeys([*named, *(column.source for column in found.columns)]))


def _records(
    table: RecordFile, columns: Sequence[str] | None, found: InferredSchema, taken: InputSelection, read: Callable[[Record], Any]
) -> Iterator[WriteItem]:
    for number, record in enumerate(table.every(columns), 1):
        name = f"{table.path.stem}:{number}"
        try:
            if record.error:
                raise record.error
            name = id_of(table, taken.id, record) if taken.id else name
            place = f"{table.path.name} {table.place} {record.line}"
            entry = WriteItem(name, read(record), metadata_of(table, found.columns, record), place)
        except TopworkError as error:
            _refuse(name, error, taken)
        else:
            yield entry


def _item(table: RecordFile, column: str, record: Record, modality: str) -> Any:
    return item_of(text_of(table, column, record), modality, table.path.parent)


def _notes(found: InferredSchema) -> list[str]:
    renamed = [f"{column.source!r} is {column.name}" for column in found.columns if column.name != column.source]
    left_out = [f"column {column!r} is left out: {reason}" for column, reason in found.left_out.items()]
    mould = [MOULD] if {*found.left_out.values()} - {EMPTY} else []
    return [*([f"metadata columns need names for SQL: {', '.join(renamed)}"] if renamed else []), *left_out, *mould]


def _of_word(word: str, taken: InputSelection) -> Iterator[WriteItem]:
    if word == "-":
        return (_single(line, taken, f"stdin:{number}") for number, line in enumerate(stdin_lines(), 1))
    if taken.modality != "text" and os.path.isdir(word):
        return _of_folder(Path(word), taken)
    return iter([_single(word, taken)])


def _single(word: str, taken: InputSelection, name: str | None = None) -> WriteItem:
    path = item_of(word, taken.modality)
    if not isinstance(path, Path):
        return WriteItem(name or _text_id(word), word, {})
    return WriteItem(_sendable(path.as_posix()), path, _chosen({"name": path.name}, taken))


def _text_id(text: str) -> str:
    if len(text) <= LONGEST_ID:
        return text
    return f"{text[: LONGEST_ID // 2]}... {hashlib.sha256(text.encode(errors='replace')).hexdigest()[:16]}"


def _of_folder(root: Path, taken: InputSelection) -> Iterator[WriteItem]:
    """Take a folder's files; ids are paths from the folder on; `folder` is missing for files that lie in it directly."""
    for path in files_in(root, taken.modality):
        inside = path.relative_to(root)
        name, folder = _sendable(inside.as_posix()), inside.parent.as_posix()
        metadata = {"name": inside.name} | ({} if folder == "." else {"folder": folder})
        try:
            item = path if taken.modality != "text" else decoded(path, taken.encoding)
        except TopworkError as error:
            _refuse(name, error, taken)
        else:
            yield WriteItem(name, item, _chosen(metadata, taken))


def _chosen(metadata: Mapping[str, Any], taken: InputSelection) -> dict[str, Any]:
    wanted = FOLDER_COLUMNS if taken.metadata is None else taken.metadata
    unknown = [name for name in wanted if name not in FOLDER_COLUMNS]
    if unknown:
        raise InvalidInput(f"files have no {unknown[0]!r}", remedy=f"--metadata is one of {', '.join(FOLDER_COLUMNS)}")
    return {name: value for name, value in metadata.items() if name in wanted}


def _refuse(name: str, error: TopworkError, taken: InputSelection) -> None:
    if taken.refuse is None:
        raise error
    taken.refuse(name, error)


def _once(entries: Iterable[WriteItem]) -> Iterator[WriteItem]:
    """Refuse an id that comes twice: two folders may hold files of one name."""
    seen: set[int] = set()
    for entry in entries:
        if hash(entry.id) in seen:
            raise InvalidInput(f"{entry.id!r} comes twice", remedy="write one folder after the other, or their common parent")
        seen.add(hash(entry.id))
        yield entry


def _sendable(name: str) -> str:
    try:
        name.encode()
    except UnicodeEncodeError:
        shown = name.encode(sys.getfilesystemencoding(), "surrogateescape")
        raise InvalidInput(f"the name of {shown!r} is not UTF-8", remedy="rename it") from None
    return name

"""Items of the command line: words, files of them, folders, stdin."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from types import SimpleNamespace
from typing import Any, TypeAlias

import click

from topwork._codec.items import IMAGES_AND_TEXTS, PATH_BEGINNINGS, PICTURE_SUFFIXES, READS, is_picture_path, not_regular
from topwork._codec.messages import PRIORITIES
from topwork._files import record_files
from topwork._files.record_values import item_column, text_of
from topwork._files.text_encoding import decoded
from topwork.cli.output import NAMED, say_first
from topwork.cli.verb import PATH, encoding_name, flags, key_value, separator
from topwork.errors import InvalidInput, TopworkError
from topwork.file_kinds import ENOUGH, file_kind

#: Called with a path and why it is not taken.
LeftOut: TypeAlias = Callable[[Path, str], object]
SUFFIXES: Mapping[str, frozenset[str]] = {
    "text": frozenset({".txt"}),
    "image": PICTURE_SUFFIXES,
    IMAGES_AND_TEXTS: PICTURE_SUFFIXES,
    "video": frozenset({".mp4", ".m4v", ".mov", ".webm", ".mkv", ".avi", ".mpg", ".mpeg", ".ogv"}),
    "audio": frozenset({".wav", ".flac", ".mp3", ".ogg", ".oga", ".opus", ".m4a", ".aac", ".aif", ".aiff", ".wma"}),
    "tensor": frozenset({".npy"}),
}


#: How names end that a word has as a path, and not as a text.
_SUFFIXES = frozenset().union(*SUFFIXES.values(), record_files.TABLES, (".pdf", ".zip"))


@dataclass(frozen=True)
class Inputs:
    """Items to embed, and how each is named in what is written. `refused` says, by position, why a record of a file holds no
    item; None stands in its place."""

    names: Sequence[str]
    items: Iterable[Any]
    are_paths: bool = False
    refused: Mapping[int, TopworkError] = field(default_factory=dict)


@contextmanager
def blamed(names: Sequence[Any]) -> Iterator[None]:
    """Let an error name the file that it blames, beside its number among the items of those names."""
    try:
        yield
    except TopworkError as error:
        name = str(names[error.item]) if error.item is not None and error.item < len(names) else ""
        if name not in error.message and os.path.isfile(name):
            error.message = f"{name}: {error.message}"
        raise


source_flags = flags(
    click.option("--from", "source", type=PATH, metavar="FILE", help=".txt, .csv, .tsv, .jsonl, .parquet, or a folder"),
    click.option("--column", metavar="C", help="its column of texts or paths (default: text or path, or the only one)"),
    click.option("--separator", type=separator, metavar="S", help="what is between the columns of a .csv (default: a comma)"),
    click.option(
        "--encoding", type=encoding_name, metavar="E", help="of the file's letters: cp1252, latin-1, utf-16 ... (default: utf-8)"
    ),
)
#: Flags of `source_flags` that do nothing without a file.
OF_A_FILE = dict.fromkeys(("column", "separator", "encoding"), ("source",))
#: The parameters of `encoding_flags`.
ENCODING = ("option", "skip_bad_items", "priority")
#: How items are encoded: of `embed`, `fill`, `write` and `predict`.
encoding_flags = flags(
    click.option("--option", multiple=True, type=key_value, metavar="K=V", help="what the encoder declares"),
    click.option("--skip-bad-items", is_flag=True, help="report bad items and go on"),
    click.option(
        "--priority",
        type=click.Choice(list(PRIORITIES)),
        default="normal",
        show_default=True,
        help="which requests go first where many wait",
    ),
)


def gather(arguments: SimpleNamespace, modality: str, *, skip: bool = False) -> Inputs:
    """Collect the inputs of one command, named by `source_flags` or as words. Raises InvalidInput where a file does not hold what
    was asked for; with `skip` its bad records are `refused`."""
    source: Path | None = arguments.source
    refused: dict[int, TopworkError] = {}
    items: Sequence[Any]
    if source is None:
        check_words(arguments.items, modality)
        names = [name for word in arguments.items for name in _expanded(word, modality)]
        items = [item_of(name, modality) for name in names] if modality == IMAGES_AND_TEXTS else names
    elif source.is_dir():
        check_folder_flags(source, arguments, modality)
        names = _folder(source, modality)
        items = [Path(name) for name in names]
        if modality == "text":
            return Inputs(names, _Contents(names, arguments.encoding), are_paths=True)
    else:
        names, items = _listed(arguments, modality, refused, skip)
    if not names:
        raise InvalidInput("there are no items", remedy="name some, or a file that holds some")
    paths = modality not in ("text", IMAGES_AND_TEXTS)
    return Inputs(names, items, are_paths=paths, refused=refused)


def check_folder_flags(folder: Path, arguments: Any, modality: str) -> None:
    """Raise InvalidInput for flags of files that do nothing of a folder's."""
    of_files = [name for name in ("column", "id", "separator") if getattr(arguments, name, None)]
    if of_files or (arguments.encoding and modality != "text"):
        flags = ", ".join(f"--{name}" for name in of_files or ["encoding"])
        raise InvalidInput(f"{folder} is a folder", remedy=f"leave {flags} out")


def stdin_lines() -> Iterator[str]:
    return (line.rstrip("\n") for line in sys.stdin)


def check_words(words: Iterable[str], modality: str) -> None:
    """Raise InvalidInput for a word that would be read as a text and looks like the path of what is there.

    It does where it ends as files do, or begins as paths do. Any other is a text, even if a file has that name.
    """
    for word in words if modality in ("text", IMAGES_AND_TEXTS) else ():
        if isinstance(item_of(word, modality), str) and (found := _found_there(word)):
            kind, remedy = found
            raise InvalidInput(
                f"{word} is {kind}, and this encoder reads {READS[modality]}",
                remedy=f"{remedy}; a text of these words goes by stdin, -",
            )


def _found_there(word: str) -> tuple[str, str] | None:
    """Name what lies at a path, and what to do; None where the word does not look like one, or nothing is there."""
    looks = word.startswith(PATH_BEGINNINGS)
    if (looks or word.endswith("/")) and os.path.isdir(word):
        return "a folder", f"--from {word} reads its files"
    if not os.path.isfile(word):
        return None
    suffix = record_files.suffix_of(Path(word))
    if not (looks or suffix in _SUFFIXES):
        return None
    kind = ""
    with suppress(OSError), open(word, "rb") as file:
        kind = file_kind(file.read(ENOUGH))
    if suffix in record_files.TABLES:
        return f"a file ({suffix})", f"--from {word} reads what it holds"
    return f"a file: {kind}" if kind else "a file", "name an encoder that reads such files"


def item_columns(modality: str) -> Sequence[str]:
    """The usual columns of items: of texts, or of paths."""
    return {"text": ("text",), IMAGES_AND_TEXTS: ("path", "text")}.get(modality, ("path",))


def item_of(word: str | bytes, modality: str, folder: Path | None = None) -> Any:
    """The item that a word or an entry of a file is: a text, the bytes of a file, or a path, a relative one from `folder` on.
    Where both pictures and texts are read, what ends as the name of a picture is a path."""
    if isinstance(word, bytes) or modality == "text" or (modality == IMAGES_AND_TEXTS and not is_picture_path(word)):
        return word
    return folder / word if folder else Path(word)


class _Contents(Sequence[str]):
    """The texts of files, read one by one."""

    def __init__(self, names: Sequence[str], encoding: str | None) -> None:
        self._names, self._encoding = names, encoding

    def __len__(self) -> int:
        return len(self._names)

    def __getitem__(self, index: Any) -> Any:
        return decoded(Path(self._names[index]), self._encoding)


def _expanded(word: str, modality: str) -> Iterable[str]:
    if word == "-":
        return stdin_lines()
    if modality != "text" and os.path.isdir(word):
        return _folder(Path(word), modality)
    return [word]


def _folder(folder: Path, modality: str) -> list[str]:
    count_files(folder, modality)
    return [str(path) for path in files_in(folder, modality)]


def _listed(
    arguments: SimpleNamespace, modality: str, refused: dict[int, TopworkError], skip: bool
) -> tuple[list[Any], list[Any]]:
    """Read names and items of a file: texts; or paths, relative ones from where the file is."""
    table = record_files.opened(arguments.source, arguments.separator, arguments.encoding)
    chosen = item_column(table, arguments.column, item_columns(modality))
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
            items.append(item_of(item, modality, table.path.parent))
            names.append(items[-1] if isinstance(items[-1], bytes) else str(items[-1]))
    return names, items


def files_in(folder: Path, modality: str, left_out: LeftOut = lambda path, reason: None) -> Iterator[Path]:
    """Find the folder's regular files of the right kind, also of folders in it, in the order of their names, as they are found.

    Hidden ones are not taken. Links are followed, and no folder is read twice, so a link that leads back ends there. What else is
    not taken is given to `left_out`, with the reason.
    """
    suffixes = SUFFIXES.get(modality, frozenset())
    folders_read = _FoldersRead(folder, left_out)
    for place, folders, names in os.walk(folder, onerror=folders_read.unreadable, followlinks=True):
        visible = sorted(name for name in folders if not name.startswith("."))
        folders[:] = [name for name in visible if folders_read.is_new(Path(place, name))]
        for name in sorted(names):
            path = Path(place, name)
            if path.suffix.lower() not in suffixes or name.startswith("."):
                continue
            if reason := not_regular(path):
                left_out(path, reason)
            else:
                yield path


class _FoldersRead:
    """The folders of one walk that were read, each once."""

    def __init__(self, root: Path, left_out: LeftOut) -> None:
        self._root, self._left_out = root, left_out
        self._read = {_identity(root)}

    def is_new(self, folder: Path) -> bool:
        """Tell whether a folder that was found is to be read now: not by a link, where the walk reads it under its own name."""
        found = _identity(folder)
        if found in self._read or (folder.is_symlink() and found in self._own):
            self._left_out(folder, f"it is {folder.resolve()}, which is read already")
            return False
        self._read.add(found)
        return True

    def unreadable(self, error: OSError) -> None:
        self._left_out(Path(error.filename), f"the folder cannot be read: {error.strerror}")

    @cached_property
    def _own(self) -> set[tuple[int, int]]:
        found = set()
        for place, folders, _ in os.walk(self._root):
            folders[:] = [name for name in folders if not name.startswith(".")]
            found.add(_identity(Path(place)))
        return found


def _identity(folder: Path) -> tuple[int, int]:
    """Identify a folder under all its names. One that cannot be looked at is itself: reading it fails with the reason."""
    try:
        state = folder.stat()
    except OSError:
        return -1, hash(folder)
    return state.st_dev, state.st_ino


def count_files(folder: Path, modality: str) -> int:
    """Count what `files_in` finds; print what is left out. Raises InvalidInput where there are none."""
    lost: list[str] = []
    found = sum(1 for _ in files_in(folder, modality, lambda path, reason: lost.append(f"{path}: {reason}")))
    if not found:
        suffixes = ", ".join(sorted(SUFFIXES.get(modality, ())))
        why = f"; left out: {'; '.join(lost[:NAMED])}" if lost else ""
        raise InvalidInput(f"{folder} holds no files of {suffixes}{why}", remedy="name another folder")
    say_first("left out", lost, len(lost))
    return found

"""Checks of files that others made, before anything reads them: links, kinds and sizes of a source's files, and what an archive
unpacks to. Errors are InvalidInput and name the file."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from fnmatch import fnmatch
from itertools import chain, islice
from pathlib import Path

from topwork_server.errors import InvalidInput

#: What a repository of the hub is read for.
HUB_FILES = ["*.json", "*.txt", "*.model", "*/config.json", "*.safetensors"]
#: Names in a model's folder that are read, those of the folders of its modules (1_Pooling) too.
READ = (*HUB_FILES, "*.bin", "*.onnx", "*.toml", "[0-9]_*")
#: Files that a source may have: a folder of more is not that of one model.
MOST_FILES = 20_000
#: Vocabularies, and the bytes that they may have: the largest published ones have 33 MB.
VOCABULARIES = (
    *("tokenizer.json", "vocab.json", "vocab.txt", "merges.txt", "added_tokens.json"),
    *("spiece.model", "spm.model", "sentencepiece.bpe.model", "tokenizer.model"),
)
LARGEST_VOCABULARY = 128 << 20
#: Bytes of other files that say what a model is.
LARGEST_DESCRIPTION = 32 << 20
#: An archive that unpacks to more files, or to more bytes and so many times its own, is none of weights, which hardly shrink.
MOST_ENTRIES, LEAST_BOMB, MOST_TIMES = 100_000, 256 << 20, 50
DISTRUST = "do not trust where it came from; get it from its publisher"


def check_files(place: Path) -> None:
    """Raise InvalidInput for a source whose files cannot be trusted to be read: for links that lead nowhere, back to themselves
    or out of its folder, and as `check_file` does."""
    check_links(place)
    inside = _roots(place) if os.path.isdir(place) else ()
    for path in _files_of(place):
        if inside and not _is_in(path, inside):
            raise InvalidInput(
                f"{path} is a link that leads out of its folder, to {os.readlink(path)}",
                remedy="copy the real file to its place; if others made the folder, do not trust it",
            )
        if not os.path.isdir(path):
            check_file(path)


def check_file(path: Path) -> None:
    """Raise InvalidInput for what is no regular file, which a read may wait for or never end, and for a file that says what a
    model is, and is too large for that."""
    try:
        status = path.stat()
    except OSError:  # who reads it says what is wrong
        return
    if not stat.S_ISREG(status.st_mode):
        raise InvalidInput(f"{path} is no regular file", remedy="copy the model again")
    if path.name in VOCABULARIES:
        most = LARGEST_VOCABULARY
    elif path.suffix in (".json", ".toml"):
        most = LARGEST_DESCRIPTION
    else:
        return
    if status.st_size > most:
        raise InvalidInput(
            f"{path} has {status.st_size:,} bytes, and such a file has {most:,} at most",
            remedy=f"it is read whole, and no model needs as much: {DISTRUST}",
        )


def check_links(place: Path) -> None:
    """Raise InvalidInput for a link that leads nowhere or back to itself: on the way to a source, or among the files that are
    read of it."""
    for path in (*reversed(place.parents), place, *_files_of(place)):
        if os.path.islink(path) and not os.path.exists(path):
            target = os.readlink(path)
            way = f"leads to {target}, which is not there" if _ends(path) else f"leads back to itself (by {target})"
            raise InvalidInput(f"{path} is a link that {way}", remedy="copy the real file to its place, or take the link away")


def _ends(link: Path) -> bool:
    """Tell whether a link, and those that it leads to, come to an end."""
    try:
        link.resolve(strict=True)
    except RuntimeError:  # before Python 3.13
        return False
    except OSError as error:
        return error.errno != errno.ELOOP
    return True


def _files_of(place: Path) -> Iterator[Path]:
    """List the files that may be read of a source: of a folder and those in it, or beside a file under its name."""
    if not os.path.isdir(place):
        yield from place.parent.glob(f"{place.stem}.*") if os.path.exists(place) else ()
        return
    paths = list(islice(chain(place.iterdir(), place.glob("*/*")), MOST_FILES + 1))
    yield from (path for path in paths if any(fnmatch(path.name, name) for name in READ))
    if len(paths) > MOST_FILES:
        raise InvalidInput(f"{place} holds more than {MOST_FILES:,} files", remedy="name the folder of one model")


def _roots(place: Path) -> tuple[str, ...]:
    """The folders in which the files of a folder may lie: itself, and the blobs beside the snapshots of the hub's own cache."""
    folder = os.path.realpath(place)
    snapshots = os.path.dirname(folder)
    blobs = [os.path.join(os.path.dirname(snapshots), "blobs")] if os.path.basename(snapshots) == "snapshots" else []
    return (folder, *blobs)


def _is_in(path: Path, roots: tuple[str, ...]) -> bool:
    real = os.path.realpath(path)
    return any(os.path.commonpath((real, root)) == root for root in roots)


class Unpacking:
    """Checks what an archive unpacks to, entry by entry, before any is written. `what` it is begins the errors; `size` is its
    own."""

    def __init__(self, what: str, size: int) -> None:
        self._what, self._size = what, size
        self._entries = self._bytes = 0

    def check(self, name: str, size: int, *, plain: bool) -> None:
        """Raise InvalidInput for an entry that is not `plain`, neither a file nor a folder, for a path that leads out, and where
        the archive unpacks to far more than it has."""
        if not plain or name.startswith(("/", "\\")) or ".." in name.replace("\\", "/").split("/"):
            raise InvalidInput(
                f"{self._what} holds {name!r}, which leads out of it or is neither a file nor a folder: nothing of it was kept",
                remedy=DISTRUST,
            )
        self._entries += 1
        self._bytes += size
        if self._entries > MOST_ENTRIES or self._bytes > max(LEAST_BOMB, MOST_TIMES * self._size):
            raise InvalidInput(
                f"{self._what} has {self._size:,} bytes, and unpacks to more than {self._bytes:,} in {self._entries:,} files:"
                " nothing of it was kept",
                remedy=DISTRUST,
            )

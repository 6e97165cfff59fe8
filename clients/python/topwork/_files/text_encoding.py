"""Files as text, .gz too: UTF-8 unless they begin with the mark of another encoding, or the caller names one."""

from __future__ import annotations

import codecs
import gzip
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, cast

from topwork.errors import InvalidInput

UTF8 = "utf-8-sig"
#: Byte order marks, the longer ones first: that of UTF-16 begins that of UTF-32.
MARKS = (
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
#: Bytes that are looked at.
HEAD = 1024


@contextmanager
def reading(path: Path, newline: str, encoding: str | None = None) -> Iterator[IO[str]]:
    """Open the file as text, without its byte order mark. Raises InvalidInput for what cannot be read."""
    try:
        chosen = encoding or _found(path)
        with _text(path, chosen, newline) as file:
            if file.read(1) != "\ufeff":
                file.seek(0)
            yield file
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise InvalidInput(f"{path} is no whole file of gzip: {error}", remedy="copy it again") from None
    except OSError as error:
        raise InvalidInput(f"{path} cannot be read: {error.strerror}") from None
    except LookupError:
        raise InvalidInput(
            f"there is no encoding {chosen!r} of texts", remedy="name one of Python's: utf-8, cp1252, latin-1, utf-16 ..."
        ) from None
    except UnicodeError as error:
        raise unreadable(path, error, chosen) from None


def decoded(path: Path, encoding: str | None = None) -> str:
    """Read all of a file. Raises InvalidInput."""
    with reading(path, "", encoding) as file:
        return file.read()


def unreadable(path: object, error: UnicodeError, encoding: str) -> InvalidInput:
    """Make the error that names the bad bytes: the position within a long file is not known."""
    bad = error.object[error.start : error.start + 8] if isinstance(error, UnicodeDecodeError) else b""
    where = f" at {bad!r}" if bad else ""
    named = "UTF-8" if encoding == UTF8 else encoding
    reason = error.reason if isinstance(error, UnicodeDecodeError) else error
    return InvalidInput(
        f"{path} is not {named}: {reason}{where}",
        remedy="say which it is: `encoding='cp1252'` (of Windows), latin-1, utf-16 ...",
    )


def is_gzip(path: Path) -> bool:
    """Tell by its name whether a file is compressed by gzip."""
    return path.suffix.lower() == ".gz"


def _text(path: Path, encoding: str, newline: str) -> IO[str]:
    if is_gzip(path):
        return cast(IO[str], gzip.open(path, "rt", encoding=encoding, newline=newline))
    return path.open(encoding=encoding, newline=newline)


def _found(path: Path) -> str:
    """Find the encoding by the mark. UTF-16 without one would pass as UTF-8 with a NUL after each letter."""
    with gzip.open(path) if is_gzip(path) else path.open("rb") as file:
        head = file.read(HEAD)
    marked = next((name for mark, name in MARKS if head.startswith(mark)), None)
    if marked is None and b"\0" in head:
        even, odd = head[::2].count(0), head[1::2].count(0)
        guess = "utf-16-le" if odd > even else "utf-16-be"
        if not _is_readable(head, guess):
            raise InvalidInput(f"{path} is binary, and no text: it holds NUL characters", remedy="name a file of text")
        raise InvalidInput(f"{path} holds NUL characters: it is no text, or not in UTF-8", remedy=f"try `encoding={guess!r}`")
    return marked or UTF8


def _is_readable(head: bytes, encoding: str) -> bool:
    """Tell whether the bytes are characters of that encoding, as bytes that are no text seldom are. The last may be cut."""
    try:
        text = codecs.getincrementaldecoder(encoding)().decode(head)
    except UnicodeDecodeError:
        return False
    return all(letter.isprintable() or letter.isspace() for letter in text)

"""Kinds of files, by how they begin: for messages about items that are of another kind than the encoder reads."""

from __future__ import annotations

import codecs

#: Bytes of a file that tell its kind.
ENOUGH = 512
#: How files begin, from a place on, and what they then are.
_BEGINNINGS: tuple[tuple[int, bytes, str], ...] = (
    (0, b"\x89PNG\r\n\x1a\n", "a picture (PNG)"),
    (0, b"\xff\xd8\xff", "a picture (JPEG)"),
    (0, b"GIF8", "a picture (GIF)"),
    (0, b"II*\0", "a picture (TIFF)"),
    (0, b"MM\0*", "a picture (TIFF)"),
    (8, b"WEBP", "a picture (WebP)"),
    (8, b"AVI ", "a video (AVI)"),
    (8, b"WAVE", "sound (WAV)"),
    (4, b"ftyp", "a video (MP4)"),
    (0, b"\x1aE\xdf\xa3", "a video (Matroska or WebM)"),
    (0, b"\0\0\x01\xba", "a video (MPEG)"),
    (0, b"OggS", "Ogg: a video, or sound"),
    (0, b"fLaC", "sound (FLAC)"),
    (0, b"ID3", "sound (MP3)"),
    (0, b"%PDF", "a PDF"),
    (0, b"PK\x03\x04", "a zip archive, or a document in one"),
    (0, b"\x1f\x8b", "a gzip archive"),
    (0, b"\x93NUMPY", "an array (.npy)"),
    (0, b"PAR1", "a table (.parquet)"),
)


def file_kind(data: bytes) -> str:
    """Name the kind of a file by its first bytes (`ENOUGH` of them): "a picture (PNG)", "a text"; "" where it is not known."""
    if not data:
        return "empty"
    kinds = (kind for start, mark, kind in _BEGINNINGS if data[start : start + len(mark)] == mark)
    return next(kinds, "a text" if _is_text(data[:ENOUGH]) else "")


def _is_text(data: bytes) -> bool:
    """Tell whether it is UTF-8 without control characters; the last character may be cut."""
    try:
        text = codecs.getincrementaldecoder("utf-8")().decode(data)
    except UnicodeDecodeError:
        return False
    return bool(text) and all(letter.isprintable() or letter.isspace() for letter in text)

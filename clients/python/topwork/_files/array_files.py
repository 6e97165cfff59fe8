"""Arrays that grow on disk: .npy files of which the length is known only in the end, and nothing is kept in memory."""

from __future__ import annotations

from array import array
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Protocol

import numpy as np

if TYPE_CHECKING:
    from topwork.features import Array

#: Bytes of a header of .npy (numpy's format 1.0), padded; any length fits in.
HEADER = 128
#: Texts that are padded at a time.
BATCH = 4096


class ArrayFile(Protocol):
    """`add` appends values; `finish` completes the file and gives its path."""

    def add(self, values: Any) -> None: ...

    def finish(self) -> Path: ...


class NumericArrayFile:
    """Numbers of one dtype, along the first axis. `file` is written from its start on."""

    def __init__(self, file: IO[bytes], path: Path | None = None) -> None:
        self._file, self._path = file, path
        self._length = 0
        self._dtype: np.dtype[Any] | None = None
        self._shape: tuple[int, ...] = ()
        file.write(bytes(HEADER))

    def add(self, values: Array) -> None:
        if self._dtype is None:
            self._dtype, self._shape = values.dtype, values.shape[1:]
        self._file.write(np.ascontiguousarray(values, self._dtype).reshape(-1).view(np.uint8).data)
        self._length += len(values)

    def finish(self) -> Path:
        self._file.seek(0)
        self._file.write(header(self._dtype or np.dtype(np.float32), (self._length, *self._shape)))
        self._file.flush()
        return self._path or Path()


class TextArrayFile:
    """Texts, which an array of numpy holds padded to the longest."""

    def __init__(self, file: IO[bytes], path: Path) -> None:
        self._file, self._path = file, path
        self._lengths = array("L")
        self._longest = 1

    def add(self, values: list[str]) -> None:
        for text in values:
            encoded = text.encode("utf-32-le")
            self._file.write(encoded)
            self._lengths.append(len(encoded))
            self._longest = max(self._longest, len(encoded) // 4)

    def finish(self) -> Path:
        self._file.seek(0)
        padded = self._path.with_suffix(".padded")
        dtype = np.dtype(f"<U{self._longest}")
        with padded.open("wb") as file:
            file.write(header(dtype, (len(self._lengths),)))
            for start in range(0, len(self._lengths), BATCH):
                texts = [self._file.read(size).ljust(dtype.itemsize, b"\0") for size in self._lengths[start : start + BATCH]]
                file.write(b"".join(texts))
        return padded


def header(dtype: np.dtype[Any], shape: tuple[int, ...]) -> bytes:
    """The magic, the version, the length, and a dict that ends in a line break."""
    about = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
    said = repr(about).encode().ljust(HEADER - 11) + b"\n"
    return b"\x93NUMPY\x01\x00" + len(said).to_bytes(2, "little") + said

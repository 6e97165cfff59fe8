"""Raw inputs as columns, and back: texts, the bytes of files, arrays as .npy. Nothing is ever unpickled."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

import numpy as np

from topwork_server.errors import InvalidInput, TopworkError
from topwork_server.types import AudioItem, ImageItem, Item, TextItem, VideoItem

StoredInput = tuple[str | None, str | None, str | None, bytes | None]


def to_arrays(items: Sequence[Item | None]) -> list[Any]:
    """Four Arrow arrays, as in schema.input_fields(): kind, text, pair, data."""
    import pyarrow as pa

    rows = [_stored(item, position) for position, item in enumerate(items)]
    kinds, texts, pairs, data = zip(*rows, strict=True) if rows else ((), (), (), ())
    return [pa.array(kinds, pa.string()), pa.array(texts, pa.string()), pa.array(pairs, pa.string()), _binary(data)]


def _binary(data: Sequence[bytes | None]) -> Any:
    import pyarrow as pa

    return pa.array(data, pa.large_binary())


def _stored(item: Item | None, position: int) -> StoredInput:
    match item:
        case None:
            return None, None, None, None
        case TextItem():
            return "text", item.text, item.pair, None
        case ImageItem():
            return "picture", None, None, item.data
        case VideoItem():
            return "clip", None, None, _content(item, position)
        case AudioItem():
            return "recording", None, None, _content(item, position)
        case _:
            return "array", None, None, _npy(np.asarray(item), position)


def _content(item: VideoItem | AudioItem, position: int) -> bytes:
    if isinstance(item.data, bytes):
        return item.data
    try:
        return item.data.read_bytes()
    except OSError as error:
        raise InvalidInput(f"the file {item.data} cannot be read: {error.strerror}", item=position) from error


def _npy(array: Any, position: int) -> bytes:
    if array.dtype.hasobject:
        raise InvalidInput("an array of Python objects cannot be kept", remedy="send numbers", item=position)
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=False)
    return buffer.getvalue()


def from_table(table: Any) -> list[Item | None]:
    """The items of a table with the columns of schema.input_fields()."""
    columns = [table[name].to_pylist() for name in ("input_kind", "input_text", "input_pair", "input_data")]
    return [_item(*row) for row in zip(*columns, strict=True)]


def _item(kind: str | None, text: str | None, pair: str | None, data: bytes | None) -> Item | None:
    match kind:
        case None:
            return None
        case "text":
            return TextItem(text or "", pair)
        case "picture":
            return ImageItem(data or b"")
        case "clip":
            return VideoItem(data or b"")
        case "recording":
            return AudioItem(data or b"")
        case "array":
            array: Item = np.load(io.BytesIO(data or b""), allow_pickle=False)
            return array
    raise TopworkError(f"a stored input is of the kind {kind!r}, which this server does not know", remedy="update the server")

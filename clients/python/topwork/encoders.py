"""What a server says of its encoders."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from topwork.features import Numerics


@dataclass(frozen=True)
class TapInfo:
    """A place in the trunk where features are read. `fingerprint` is empty before the encoder's first use (its export)."""

    name: str
    dim: int
    granularity: str
    grid: tuple[int, ...] = ()
    description: str = ""
    fingerprint: str = ""


@dataclass(frozen=True)
class OptionInfo:
    """One thing that `options` may set."""

    name: str
    type: str
    default: str
    description: str = ""


@dataclass(frozen=True)
class EncoderInfo:
    """One line of the catalogue.

    modality      "text", "image", "video" or "tensor": what it reads
    state         "absent" (`detail` says what fetches the weights), "fetched", "exporting", "ready", "loaded", "failed"
    numerics      None before the export
    parameters    0 where not known
    counters      since it was loaded: samples, batches, expired, cancelled, memory_splits, restarts
    """

    name: str
    modality: str
    taps: tuple[TapInfo, ...]
    default_tap: str
    parameters: int
    trained_on: str
    licence: str
    source: str
    description: str
    state: str
    detail: str
    numerics: Numerics | None
    options: tuple[OptionInfo, ...]
    plugin: str
    has_vocabulary: bool
    artifact_bytes: int
    counters: Mapping[str, int] = field(default_factory=dict)

    def tap(self, name: str | None = None) -> TapInfo | None:
        """The tap of that name (the default tap for None), where the server knows it yet."""
        return next((tap for tap in self.taps if tap.name == (name or self.default_tap)), None)


class Word(NamedTuple):
    """An entry of an encoder's vocabulary, and its cosine to what was asked."""

    word: str
    score: float

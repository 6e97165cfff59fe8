"""Records of a server's encoders."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

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
    """One thing that `options` may set.

    type        for a person to read: "integer, 1 to 500", "number or null"
    default     as JSON: "true", "0.5", "null"
    schema      the JSON Schema (2020-12) of the value: type, default, and enum, minimum, maximum where there are such
    """

    name: str
    type: str
    default: str
    description: str = ""
    schema: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class PromptInfo:
    """A text that an encoder's model names, to be put before what it reads; its name is for the option `prompt_name`.

    role        "query" or "document": what `role` of `embed` puts it before; "" for none
    default     whether it goes before all items of requests that set neither a role nor a prompt
    """

    name: str
    text: str
    role: str = ""
    default: bool = False


@dataclass(frozen=True)
class DeviceInfo:
    """Measurement of one provider that computes an encoder on the server's machine, with the inputs that its export kept.

    numerics              of the taps that it computes well enough, the worst of them
    invariance            least cosine between a row computed alone and the same row in a batch
    samples_per_second    of the default tap
    taps                  what it computes there; none where it is not used
    parity                by tap, minimum cosine to the reference
    detail                why it is not used, or not for all taps
    """

    numerics: Numerics
    invariance: float
    samples_per_second: float
    taps: tuple[str, ...]
    parity: Mapping[str, float]
    detail: str


@dataclass(frozen=True)
class TowerInfo:
    """The part of an encoder that reads one modality.

    taps          the names of its taps; the encoder's default tap is one of every tower
    parameters    0 where not known
    numerics      of the default tap; None before the export
    devices       what was measured on the server's machine, the one in use first
    """

    modality: str
    taps: tuple[str, ...]
    parameters: int
    numerics: Numerics | None
    devices: tuple[DeviceInfo, ...]


@dataclass(frozen=True, repr=False)
class EncoderInfo:
    """One line of the catalog.

    modality      "text", "image", "video", "audio" or "tensor": what it reads, the first of `modalities`; `reads` names all
    state         "absent" (`detail` says what fetches the weights), "fetched", "exporting", "ready", "loaded", "failed"
    numerics      None before the export
    parameters    0 where not known
    counters      since it was loaded: samples, batches, expired, cancelled, memory_splits, restarts
    devices       what was measured on the server's machine, the one in use first; empty before it was loaded there, and where
                  there is nothing to choose from
    heads         that came with it, without its own name: "imagenet", "mlm"; known after the export
    unused_weights    weights of the source that the encoder leaves out, by name, such as a classifier; known after the export
    modalities    all that it reads: several where it embeds them into one space
    towers        what reads each modality, where there are several
    prompts       that its model names, known after the export: `role` of `embed` has effect where one of them has a role
    """

    name: str
    modality: str
    taps: tuple[TapInfo, ...]
    default_tap: str
    parameters: int
    trained_on: str
    license: str
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
    devices: tuple[DeviceInfo, ...] = ()
    unused_weights: tuple[str, ...] = ()
    modalities: tuple[str, ...] = ()
    towers: tuple[TowerInfo, ...] = ()
    heads: tuple[str, ...] = ()
    prompts: tuple[PromptInfo, ...] = ()

    @property
    def reads(self) -> str:
        """All that it reads, as "image and text"."""
        return " and ".join(sorted(self.modalities) or (self.modality,))

    def tap(self, name: str | None = None) -> TapInfo | None:
        """The tap of that name (the default tap for None), where the server knows it yet."""
        return next((tap for tap in self.taps if tap.name == (name or self.default_tap)), None)

    def __repr__(self) -> str:
        tap = self.tap()
        default = f"{self.default_tap} {tap.dim}" if tap else self.default_tap
        more = f" and {len(self.taps) - 1} more taps" if len(self.taps) > 1 else ""
        return f"<EncoderInfo {self.name}: {self.reads}, {default}{more}, {self.state}>"


class Word(NamedTuple):
    """An entry of an encoder's vocabulary, and its cosine to what was asked."""

    word: str
    score: float

"""Records of a server's feature sets, and of what was written to them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from topwork._display import html
from topwork._display.number_text import counted
from topwork.encoders import TapInfo
from topwork.errors import TopworkError
from topwork.features import Numerics


@dataclass(frozen=True, repr=False)
class SetInfo:
    """A feature set, as it stands.

    encoder      empty for ready vectors that belong to no encoder of the server
    modality     what the encoder reads, the first of `modalities`: "text", "image", "video", "audio" or "tensor"; "unspecified"
                 without one
    taps         with the fingerprints of their features; `tap_columns` names the column of the Lance dataset of each
    dtype        "float32" or "float16", as stored
    columns      metadata: name -> "bool", "int", "float", "string", "time" or "strings"
    version      grows with each commit
    bytes        on the server's disk, all versions
    created      UTC
    numerics     of the device and precision that computed its rows
    path         on the server's disk: a folder that `lance.dataset(...)` opens
    damage       which of its files is damaged, empty where none is known to be: reading the newest version is `DataLoss`, and
                 these facts are of the newest version that can be read
    modalities   all that the encoder reads: items and queries may be of each
    """

    name: str
    encoder: str
    options: Mapping[str, Any]
    modality: str
    taps: tuple[TapInfo, ...]
    tap_columns: Mapping[str, str]
    dtype: str
    keeps_inputs: bool
    columns: Mapping[str, str]
    items: int
    version: int
    bytes: int
    created: datetime
    numerics: tuple[Numerics, ...]
    path: str
    indexes: tuple[str, ...]
    damage: str = ""
    modalities: tuple[str, ...] = ()

    @property
    def reads(self) -> str:
        """All that the encoder reads, as "image and text"."""
        return " and ".join(sorted(self.modalities) or (self.modality,))

    def __repr__(self) -> str:
        taps = ", ".join(f"{tap.name} {tap.dim}" for tap in self.taps)
        columns = f"; {html.listed(self.columns)}" if self.columns else ""
        return f"<SetInfo {self.name}: {counted(self.items, 'item')} of {self._of()}, version {self.version}; {taps}{columns}>"

    def _of(self) -> str:
        return self.encoder or "ready vectors"

    def _repr_html_(self) -> str:
        taps = ", ".join(f"{tap.name} ({tap.dim}, a row a {tap.granularity})" for tap in self.taps)
        columns = html.listed((f"{name} ({kind})" for name, kind in self.columns.items()), 5)
        pairs = [
            ("items", f"{self.items:,}"),
            ("encoder", self._of()),
            ("features", f"{taps}, {self.dtype}"),
            ("metadata", columns),
            ("indexes", ", ".join(self.indexes)),
            ("keeps inputs", "yes" if self.keeps_inputs else "no"),
            ("version", self.version),
            ("on disk", f"{self.bytes / 1e6:,.1f} MB"),
            ("created", self.created),
        ]
        return html.facts(self.name, pairs)


@dataclass(frozen=True)
class VersionInfo:
    """A version of a set that can still be read. `created` is UTC; one with `pins` is kept from pruning. Of `damaged_pins` the
    files are damaged: reading by their names raises DataLoss, and the set is not pruned, until they are removed."""

    version: int
    created: datetime
    pins: tuple[str, ...]
    damaged_pins: tuple[str, ...] = ()


@dataclass(frozen=True)
class Pruned:
    """Counts of a pruning: the versions that were removed, and the bytes of disk that this freed."""

    removed: int
    bytes: int


@dataclass(frozen=True)
class SavedSet:
    """Record of what `export_set` wrote: `items` of the `total` that were selected; `rows` are (rows, dim) by tap."""

    set: str
    path: Path
    items: int
    total: int
    version: int
    rows: Mapping[str, tuple[int, int]]
    bytes: int


@dataclass(frozen=True)
class UpdateReport:
    """Report of an update of metadata: the number of changed items, the ids that the set does not have, and the set's version."""

    updated: int
    missing: tuple[str, ...]
    version: int


@dataclass(frozen=True)
class Acknowledged:
    """Acknowledgement of one chunk of a write: its items are on disk, or in `failures`.

    watermark   all items of the input before this position are done
    start       the position of the chunk's first item
    version     of the set, with the chunk in it
    inserted    new ids; `updated` replaced what was there; `unchanged` were there already, with equal content and metadata
    encoded     items that went through the encoder; the others' features were known
    failures    by position in the input: why an item was skipped (only with skip_bad_items); `failed_ids` likewise
    """

    watermark: int
    start: int
    version: int
    inserted: int
    updated: int
    unchanged: int
    encoded: int
    failures: Mapping[int, TopworkError] = field(default_factory=dict)
    failed_ids: Mapping[int, str] = field(default_factory=dict)


@dataclass(frozen=True, repr=False)
class WriteReport:
    """Report of a whole write. `items` counts all of the input; the rest is as in `Acknowledged`, summed over its chunks.

    inserted + updated + unchanged + len(failures) == items. `version` is that of the last chunk; 0 where nothing was written.
    """

    items: int
    inserted: int
    updated: int
    unchanged: int
    encoded: int
    version: int
    failures: Mapping[int, TopworkError] = field(default_factory=dict)
    failed_ids: Mapping[int, str] = field(default_factory=dict)

    def __repr__(self) -> str:
        counts = {"new": self.inserted, "updated": self.updated, "unchanged": self.unchanged, "failed": len(self.failures)}
        changes = ", ".join(f"{count:,} {what}" for what, count in counts.items() if count)
        items = f"{counted(self.items, 'item')} ({changes or 'none'})"
        return f"<WriteReport: {items}, {self.encoded:,} encoded, version {self.version}>"

"""Describes one encoder of the catalog: its spec, how far it is on this disk, and its manifest."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from topwork_server.errors import NotReady
from topwork_server.models import pretrained_heads
from topwork_server.models.artifacts import Manifest
from topwork_server.models.chunk_taps import with_chunks
from topwork_server.models.towers import join_manifests
from topwork_server.types import EncoderSpec, FingerprintedTap, Granularity, Prompt

log = logging.getLogger(__name__)


class EncoderState(StrEnum):
    ABSENT = "absent"
    FETCHED = "fetched"
    READY = "ready"


@dataclass(frozen=True)
class CatalogEntry:
    """One encoder of the catalog. `detail` says what would fetch an ABSENT encoder; READY ones have a manifest and a folder.

    Of an encoder of several towers, `by_tower` has an entry for each; the manifest is of all of them, the folder the first's.
    """

    spec: EncoderSpec
    owner: str
    state: EncoderState
    detail: str = ""
    manifest: Manifest | None = None
    folder: Path | None = None
    by_tower: tuple[CatalogEntry, ...] = ()

    @property
    def towers(self) -> tuple[CatalogEntry, ...]:
        """An entry for each artifact: itself where there is one tower."""
        return self.by_tower or (self,)

    @property
    def taps(self) -> tuple[FingerprintedTap, ...]:
        """The taps that are served: those of its graphs, and chunks of their tokens; none before the export."""
        if len(self.towers) == 1:
            return with_chunks(self.spec, self.manifest.taps) if self.manifest else ()
        graphs = self.manifest.taps if self.manifest else ()
        return (*graphs, *(info for tower in self.towers for info in tower.taps if info.tap.granularity is Granularity.CHUNK))

    def tap(self, name: str) -> FingerprintedTap | None:
        """The tap of that name, where it is served."""
        return next((info for info in self.taps if info.tap.name == name), None)

    @property
    def weights_bytes(self) -> int:
        """Bytes of what is in memory where it is loaded: of its artifacts without the heads that it came with."""
        there = [(tower.manifest, tower.folder) for tower in self.towers]
        return sum(manifest.bytes - pretrained_heads.bytes_in(folder) for manifest, folder in there if manifest and folder)

    @property
    def prompts(self) -> Sequence[Prompt]:
        """The prompts that the model names; none before the export, nor where its plugin cannot read them."""
        found: dict[str, Prompt] = {}
        for tower in self.towers:
            try:
                named = tower.spec.encoder.prompts(tower.folder) if tower.folder else ()
            except Exception:  # a plugin may raise anything on files that are damaged
                log.exception("encoder=%s: its prompts cannot be read", self.spec.name)
                named = ()
            found |= {prompt.name: prompt for prompt in named}
        return list(found.values())

    def tower_with(self, tap: str) -> CatalogEntry:
        """The first tower that has a tap; the first of all where none has it."""
        return next((tower for tower in self.towers if tower.tap(tap)), self.towers[0])

    def check_taps(self, taps: Iterable[FingerprintedTap], than: str, remedy: str) -> None:
        """Raise NotReady where the encoder is not exported, or a tap has another fingerprint by now than it had in `than`."""
        if self.manifest is None:
            raise NotReady(f"the encoder {self.spec.name} is not ready", remedy=self.detail)
        for info in taps:
            now = self.tap(info.tap.name)
            if now is None or now.fingerprint != info.fingerprint:
                raise NotReady(f"the tap {info.tap.name} of {self.spec.name} has another fingerprint than {than}", remedy=remedy)


def join_entries(spec: EncoderSpec, towers: Sequence[CatalogEntry]) -> CatalogEntry:
    """Describe an encoder of several towers, which is as far as the one that is least far."""
    order = list(EncoderState)
    least = min(towers, key=lambda tower: order.index(tower.state))
    manifests = [tower.manifest for tower in towers if tower.manifest]
    whole = len(manifests) == len(towers)
    manifest, folder = (join_manifests(spec, manifests), towers[0].folder) if whole else (None, None)
    return CatalogEntry(spec, least.owner, least.state, least.detail, manifest, folder, tuple(towers))

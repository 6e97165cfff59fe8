"""A pinned version of a set, as another process than its writer reads it. It never writes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from topwork_server.errors import NotFound, NotReady
from topwork_server.sets import lance_io, reads
from topwork_server.sets.checksums import Checksums
from topwork_server.sets.model import ColumnType, Reading, Selection, Wanted
from topwork_server.sets.opening import version_of
from topwork_server.sets.versions import Readers
from topwork_server.sets.view import View


class Snapshot:
    """One version. Its rows and facts stay as they are; it must be pinned, or somebody may prune it."""

    def __init__(self, view: View) -> None:
        self._view = view
        self._readers = Readers()

    @property
    def version(self) -> int:
        return self._view.version

    @property
    def wanted(self) -> Wanted:
        return self._view.facts.wanted

    @property
    def columns(self) -> Mapping[str, ColumnType]:
        """Of metadata."""
        return self._view.columns

    def read(self, selection: Selection) -> Reading:
        """As FeatureSet.read says, always of this version."""
        return reads.read_view(self._view, self._readers, replace(selection, version=self.version))

    def contents(self, where: str = "") -> dict[str, str]:
        """By id, the SHA-256 digest (hex) of each item's content; "" where the writer did not say it."""
        condition = reads.checked(self._view, where) or None
        self._view.check()
        found: dict[str, str] = {}
        with lance_io.mapped("reading digests"):
            for batch in self._view.dataset.scanner(columns=["id", "content"], filter=condition).to_batches():
                digests = (digest or "" for digest in batch.column("content").to_pylist())
                found |= zip(batch.column("id").to_pylist(), digests, strict=True)
        return found


def snapshot(path: Path, name: str, version: int) -> Snapshot:
    """NotReady where the folder is no readable set, NotFound where the version is gone, DataLoss where it is damaged."""
    there = lance_io.manifests(path)
    if not there:
        raise NotReady(f"the feature set {name!r} cannot be opened: {path} holds no version")
    if version not in there:
        raise NotFound(
            f"the set {name!r} has no version {version}; the newest is {max(there)}", remedy="pin a version that must stay"
        )
    return Snapshot(version_of(Checksums(path, owner=False), name, version, alone=True))

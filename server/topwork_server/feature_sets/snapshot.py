"""A pinned version of a set, as another process than its writer reads it. It never writes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from topwork_server.errors import NotFound, NotReady
from topwork_server.feature_sets import lance_io, lance_layout, read_set
from topwork_server.feature_sets.checksums import Checksums
from topwork_server.feature_sets.dropped_sets import was_dropped, while_present
from topwork_server.feature_sets.latest_version import VersionReaders
from topwork_server.feature_sets.open_set import VersionView, open_newest, open_version
from topwork_server.feature_sets.set_types import ColumnType, ReadResult, Selection, SetDefinition


@dataclass(frozen=True)
class FolderPresence:
    """Presence of the set that was made at `created` (0.0: whichever is there), as its folder tells it."""

    path: Path
    name: str
    created: float

    def explain(self, error: Exception) -> Exception:
        """The error itself, or NotFound where the set was dropped, and perhaps another one made."""
        return was_dropped(self.name) if not self.path.is_dir() or self._was_replaced() else error

    def _was_replaced(self) -> bool:
        if not self.created:
            return False
        try:
            view, _ = open_newest(Checksums(self.path, owner=False), self.name)
            return self.is_other_set(view)
        except Exception:  # unknown
            return False

    def is_other_set(self, view: VersionView) -> bool:
        return self.created not in (0.0, view.set_metadata.created)


class Snapshot:
    """A version of a set. It never changes; it must be pinned, since others prune."""

    def __init__(self, view: VersionView, presence: FolderPresence) -> None:
        self.presence = presence
        self._view = view
        self._readers = VersionReaders()

    @property
    def version(self) -> int:
        return self._view.version

    @property
    def definition(self) -> SetDefinition:
        return self._view.set_metadata.definition

    @property
    def columns(self) -> Mapping[str, ColumnType]:
        """The metadata columns."""
        return self._view.columns

    @while_present
    def read(self, selection: Selection) -> ReadResult:
        """Read as FeatureSet.read does, always at this version."""
        return read_set.read_view(self._view, self.presence, self._readers, replace(selection, version=self.version))

    @while_present
    def content_hashes(self, where: str = "") -> dict[str, str]:
        """Map each id to the SHA-256 digest (hex) of each item's content; "" where the writer did not say it."""
        condition = read_set.safe_condition(self._view, where) or None
        self._view.check()
        found: dict[str, str] = {}
        with lance_io.map_errors("reading digests"):
            for batch in self._view.dataset.scanner(columns=["id", "content"], filter=condition).to_batches():
                digests = (digest or "" for digest in batch.column("content").to_pylist())
                found |= zip(batch.column("id").to_pylist(), digests, strict=True)
        return found


def open_snapshot(path: Path, name: str, version: int, created: float = 0.0) -> Snapshot:
    """Open a version of a set. NotFound where the set was dropped or the version is gone, NotReady where the folder is no
    readable set, DataLoss where it is damaged. `created` tells the set from another one of that name."""
    presence = FolderPresence(path, name, created)
    try:
        view = _view(path, name, version)
    except Exception as error:
        raise presence.explain(error) from error
    if presence.is_other_set(view):
        raise was_dropped(name)
    return Snapshot(view, presence)


def _view(path: Path, name: str, version: int) -> VersionView:
    there = lance_layout.manifests(path)
    if not there:
        raise NotReady(f"the feature set {name!r} cannot be opened: {path} holds no version")
    if version not in there:
        raise NotFound(
            f"the set {name!r} has no version {version}; the newest is {max(there)}", remedy="pin a version that must stay"
        )
    return open_version(Checksums(path, owner=False), name, version, alone=True)

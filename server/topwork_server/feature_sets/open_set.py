"""Opening a set: nothing reaches Lance before its checksum was compared, since Lance may abort the process on what is damaged.

The newest version is the one that the log of checksums knows, even where its manifest is gone. A manifest that is newer than the
log is of a commit whose process was killed, or of a set of an older server: a process of its own reads it first.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Container, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from topwork_server.errors import DataLoss, NotFound, NotReady, TopworkError
from topwork_server.feature_sets import lance_check, lance_io, lance_layout, schema, versions
from topwork_server.feature_sets.checksums import Checksums
from topwork_server.feature_sets.dropped_sets import was_dropped
from topwork_server.feature_sets.id_map import IdMap
from topwork_server.feature_sets.schema import SetMetadata
from topwork_server.feature_sets.set_types import ColumnType
from topwork_server.types import Array

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class VersionView:
    dataset: Any
    version: int
    set_metadata: SetMetadata
    columns: dict[str, ColumnType]
    id_map: IdMap | None = None
    checksums: Checksums | None = None
    files: Mapping[int, tuple[str, ...]] = field(default_factory=dict)  # data and deletion files, by fragment

    def check(self, addresses: Array | None = None) -> None:
        """Raise DataLoss where a file that is about to be read is damaged: all of them, or those that hold these rows."""
        if self.checksums is None:
            return None
        if addresses is None:
            return self.checksums.check(self.file_names)
        fragments = np.unique(lance_layout.fragments_of(addresses)).tolist()
        return self.checksums.check([name for fragment in fragments for name in self.files.get(fragment, ())])

    @property
    def file_names(self) -> list[str]:
        return [name for names in self.files.values() for name in names]

    @property
    def loaded_id_map(self) -> IdMap:
        assert self.id_map is not None, "the view is loaded"
        return self.id_map


def view_of(dataset: Any, name: str, checksums: Checksums, id_map: IdMap | None = None) -> VersionView:
    arrow, files = dataset.schema, lance_layout.files_of(dataset)
    return VersionView(
        dataset, dataset.version, schema.from_schema(arrow, name), schema.metadata_columns(arrow), id_map, checksums, files
    )


def view_after(view: VersionView, dataset: Any, id_map: IdMap, touched: Container[int]) -> VersionView:
    """Make the view of the version that a commit of rows alone made of the view's: `touched` fragments lost some."""
    return replace(
        view, dataset=dataset, version=dataset.version, id_map=id_map, files=lance_layout.files_of(dataset, view.files, touched)
    )


def record_version(view: VersionView) -> None:
    """Take the checksums of all files of a version that have none: those that its commit wrote, and its manifest."""
    assert view.checksums is not None
    view.checksums.record([*view.file_names, lance_layout.manifest_name(view.version)], time.time())


def open_newest(checksums: Checksums, name: str) -> tuple[VersionView, DataLoss | None]:
    """Open the newest version that can be read; the DataLoss says why a newer one cannot. NotReady where the folder is no set of
    ours, DataLoss where no version of it can be read."""
    path = checksums.path
    if not path.is_dir():
        raise was_dropped(name)
    if checksums.owner:
        _delete_special_files(checksums)
    known = {*lance_layout.manifests(path), checksums.newest_version} - {0}
    if not known:
        raise NotReady(f"the feature set {name!r} cannot be opened: {path} holds no version", remedy=_remedy(path))
    lost: DataLoss | None = None
    for version in sorted(known, reverse=True):
        try:
            return open_version(checksums, name, version), _with_newest_readable(lost, version)
        except _IncompleteCommit as torn:
            log.warning("%s: version %d was never acknowledged and is set aside: %s", path, version, torn)
        except DataLoss as error:
            lost = lost or error
    raise lost or DataLoss(f"the feature set {name!r} has no version that can be read", remedy=_remedy(path))


def open_version(checksums: Checksums, name: str, version: int, *, alone: bool = False) -> VersionView:
    """Open one version. DataLoss where its manifest or a deletion file is damaged, or a data file is gone. `alone`: this
    process serves no client, and may read by itself what has no checksum."""
    dataset = open_dataset_version(checksums, name, version, alone=alone)
    try:
        view = view_of(dataset, name, checksums)
    except NotReady as error:
        remedy = error.remedy or _remedy(checksums.path)
        raise NotReady(f"the feature set {name!r} cannot be opened: {error.message}", remedy=remedy) from error
    checksums.check(filter(lance_layout.is_deletion_file, view.file_names))
    return view


def open_dataset_version(checksums: Checksums, name: str, version: int, *, alone: bool = False) -> Any:
    """Open one version as `open_version` does, with only its manifest compared."""
    manifest = lance_layout.manifest_name(version)
    if manifest not in checksums.entries and not alone:
        _record_manifest(checksums, name, version, manifest)
    checksums.verify(manifest)
    try:
        with lance_io.map_errors(f"opening version {version} of the set {name!r}"):
            return lance_io.open_dataset(checksums.path, version)
    except TopworkError as error:
        raise DataLoss(f"the feature set {name!r} is damaged: {error.message}", remedy=_remedy(checksums.path)) from error


def open_checked_dataset(path: Path, version: int) -> Any:
    """Open one version in a process that serves no client, once every file of it was compared."""
    checksums = Checksums(path, owner=False)
    dataset = open_dataset_version(checksums, path.stem, version, alone=True)
    checksums.check([name for names in lance_layout.files_of(dataset).values() for name in names])
    return dataset


def _delete_special_files(checksums: Checksums) -> None:
    """Delete pipes and devices among the files that Lance reads without a checksum, hints and notes: it would wait for ever."""
    for name in lance_layout.unchecked_files(checksums.path):
        path = checksums.path / name
        if name not in checksums.entries and not path.is_file() and not path.is_dir():
            log.warning("%s is no regular file, and is deleted", path)
            path.unlink(missing_ok=True)


class _IncompleteCommit(Exception):
    """A commit that was killed before it was whole."""


def _record_manifest(checksums: Checksums, name: str, version: int, manifest: str) -> None:
    """Take the sum of a manifest that has none, once another process could read its version."""
    fault = lance_check.readable(checksums.path, version)
    if not fault:
        log.warning("%s: version %d has no checksum, and gets one now that another process has read it", checksums.path, version)
        checksums.record([manifest], (checksums.path / manifest).stat().st_mtime)
        return
    newer = 0 < checksums.newest_version < version
    if newer and checksums.owner and not lance_layout.is_whole_manifest(checksums.path / manifest):
        (checksums.path / manifest).rename(checksums.path / f"{manifest}.torn")
        raise _IncompleteCommit(fault)
    raise DataLoss(
        f"the feature set {name!r} is damaged: version {version} cannot be read: {fault}", remedy=_remedy(checksums.path)
    )


def _with_newest_readable(lost: DataLoss | None, version: int) -> DataLoss | None:
    """Name the newest version that can be read in the remedy."""
    if lost is None:
        return None
    remedy = f"put the file back from a copy, or read version {version}, the newest that is whole, or drop the set"
    return DataLoss(lost.message, remedy=remedy)


def _remedy(path: Path) -> str:
    return f"put the folder {path} right from a copy, or drop the set"


def find_damage(path: Path) -> Iterator[str]:
    """List files of a set that are not what was written, or that its newest version lacks. Reads all that has a checksum."""
    checksums = Checksums(path, owner=False)
    if checksums.log_damage:
        yield checksums.log_damage
    try:
        open_version(checksums, path.stem, max([*lance_layout.manifests(path), checksums.newest_version])).check()
    except (DataLoss, NotReady) as error:
        yield error.message
    except NotFound:
        return
    yield from (pin.damage.message for pin in versions.read_pins(checksums) if pin.damage)
    bad = {*checksums.damaged_files}
    for name in list(checksums.entries):
        if name in bad or not (path / name).exists():
            continue  # reported already, or pruned
        try:
            checksums.verify(name)
        except DataLoss as error:
            yield error.message

"""Maintenance of a set, in the commit thread while it is idle: small fragments are joined and old versions pruned."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Container
from typing import Any

from topwork_server.errors import DataLoss, TopworkError
from topwork_server.feature_sets import lance_io, lance_layout, versions
from topwork_server.feature_sets.checksums import Checksums
from topwork_server.feature_sets.commit import CommitWriter
from topwork_server.feature_sets.latest_version import LatestVersion
from topwork_server.feature_sets.open_set import VersionView

log = logging.getLogger(__name__)

# Fragments are joined in two steps, so that a row is copied about twice in its life and no step takes more than seconds.
SMALL_ROWS, LARGE_ROWS = 1 << 14, 1 << 18
LARGE_BYTES = 512 << 20
MANY_FRAGMENTS = 32
# A fragment with a greater share of deleted rows is rewritten.
DEAD_SHARE = 0.3

# Versions without a pin: kept for an hour, and the newest 256 of them (a thousand make a commit twice as slow).
KEEP_SECONDS = 3600.0
KEEP_VERSIONS = 256
PRUNE_SECONDS, PRUNE_COMMITS = 60.0, 128


class Maintenance:
    def __init__(self, current: LatestVersion, writer: CommitWriter) -> None:
        self._current, self._writer = current, writer
        self._compacted_at = -MANY_FRAGMENTS
        self._pruned_at = (float("-inf"), 0)

    def run_due(self, busy: Callable[[], bool]) -> None:
        """Compact and prune if due, in steps; stop between steps when something waits."""
        if self._writer.commits - self._compacted_at >= MANY_FRAGMENTS:
            self._compacted_at = self._writer.commits
            self.compact(busy)
        when, commits = self._pruned_at
        if not busy() and (time.monotonic() - when > PRUNE_SECONDS or self._writer.commits - commits > PRUNE_COMMITS):
            self._pruned_at = (time.monotonic(), self._writer.commits)
            self.prune(KEEP_SECONDS, KEEP_VERSIONS)

    def prune(self, older_than: float, most: int | None = None) -> tuple[int, int]:
        self._current.check()
        dataset, sums = self._current.view.dataset, self._current.checksums
        in_use = self._current.readers.versions_in_use() | {dataset.version}
        return _prune(dataset, sums, _prunable(sums, in_use, older_than, most))

    def compact(self, busy: Callable[[], bool] = lambda: False) -> int:
        """Join small fragments and rewrite those with many deleted rows: how many steps were done. Readers notice nothing."""
        self._current.check()
        target = self._target_rows()
        if target is None:
            return 0
        lance_io.load_lance()
        from lance.optimize import Compaction

        view = self._current.loaded_view()
        view.check()  # rows that are damaged must not get new checksums
        options = {"target_rows_per_fragment": target, "materialize_deletions_threshold": DEAD_SHARE}
        steps = 0
        for task in Compaction.plan(view.dataset, options).tasks:
            try:
                with lance_io.map_errors(f"joining fragments of {self._current.name}"):
                    self._run_compaction(task, target)
            except TopworkError:
                lance_io.delete_leftovers(self._current.view.dataset)
                raise
            steps += 1
            if busy():
                break
        return steps

    def _target_rows(self) -> int | None:
        """Rows a fragment should have after the next step; None where there is nothing to gain."""
        fragments = [fragment.metadata for fragment in self._current.view.dataset.get_fragments()]
        rows: int = sum(f.physical_rows for f in fragments)
        size: int = sum(file.file_size_bytes or 0 for f in fragments for file in f.files)
        large = min(LARGE_ROWS, max(MANY_FRAGMENTS, LARGE_BYTES * rows // max(1, size)))
        small = min(SMALL_ROWS, max(1, large // 4))
        if sum(f.physical_rows < small for f in fragments) > MANY_FRAGMENTS:
            return small
        if sum(f.physical_rows < large for f in fragments) > MANY_FRAGMENTS:
            return large
        wasted = any(f.deletion_file and f.deletion_file.num_deleted_rows > DEAD_SHARE * f.physical_rows for f in fragments)
        return small if wasted else None

    def _run_compaction(self, task: Any, target: int) -> None:
        from lance.optimize import Compaction

        view, began = self._current.loaded_view(), time.time()
        result = task.execute(view.dataset)
        lance_io.sync_files(self._current.path, lance_io.data_files(result.new_fragments))
        dataset = lance_io.copy_of(view.dataset)
        Compaction.commit(dataset, [result])
        lance_io.sync_version(self._current.path, dataset.version)
        self._writer.publish(dataset, _id_map_after(view, dataset))
        log.debug("fragments of %s joined to %d rows in %.2f s", self._current.name, target, time.time() - began)


def _id_map_after(view: VersionView, dataset: Any) -> Any:
    table = dataset.scanner(columns=["key"], with_row_address=True).to_table().sort_by("key")
    return view.loaded_id_map.with_addresses(table["key"].to_numpy(), table["_rowaddr"].to_numpy())


def _prunable(checksums: Checksums, in_use: Container[int], older_than: float, most: int | None = None) -> list[int]:
    """List the versions that may go: not in use, not pinned, and older than so many seconds (or beyond the newest
    `most`). DataLoss while a pin is damaged: it is not certain which version it keeps."""
    versions.check_pins(checksums)
    now = time.time()
    infos = versions.list_versions(checksums)
    beyond = {info.version for info in infos[:-most]} if most else set()
    old = (info for info in infos if now - info.time >= older_than or info.version in beyond)
    return [info.version for info in old if info.version not in in_use and not info.pins]


def _prune(dataset: Any, checksums: Checksums, chosen: list[int]) -> tuple[int, int]:
    """Delete those versions, and files that no version holds (of commits that never ended): (versions, bytes) removed.

    To be called where no commit is under way. The current version in the list is left, so it alone deletes leftovers only.
    Lance reads every manifest: damaged ones in the list go first, and another one is DataLoss, since its files are unknown.
    """
    # Else the record of a newest manifest that is gone would go too.
    checksums.verify(lance_layout.manifest_name(dataset.version))
    deleted = _delete_damaged(checksums, chosen)
    left = [version for version in chosen if version not in deleted]
    with lance_io.map_errors("pruning versions"):
        stats = dataset.cleanup_old_versions(
            versions=left or [dataset.version], delete_unverified=True, error_if_tagged_old_versions=False
        )
    checksums.rewrite(lance_layout.checked_files(checksums.path))
    return int(stats.old_versions) + len(deleted), int(stats.bytes_removed)


def _delete_damaged(checksums: Checksums, chosen: list[int]) -> list[int]:
    deleted = []
    for version, name in lance_layout.manifests(checksums.path).items():
        try:
            if name in checksums.entries:
                checksums.check([name])
        except DataLoss:
            if version not in chosen:
                raise
            versions.delete_path(checksums.path / name)
            deleted.append(version)
    return deleted

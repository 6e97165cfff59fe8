"""One version of a set: the dataset, its facts, columns and files, and (once needed) its roster."""

from __future__ import annotations

import time
from collections.abc import Container, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from topwork_server.feature_sets import lance_io, schema
from topwork_server.feature_sets.checksums import Checksums
from topwork_server.feature_sets.id_map import IdMap
from topwork_server.feature_sets.schema import SetMetadata
from topwork_server.feature_sets.set_types import ColumnType
from topwork_server.types import Array


@dataclass(frozen=True)
class VersionView:
    dataset: Any
    version: int
    facts: SetMetadata
    columns: dict[str, ColumnType]
    roster: IdMap | None = None
    sums: Checksums | None = None
    files: Mapping[int, tuple[str, ...]] = field(default_factory=dict)  # data and deletion files, by fragment

    def check(self, addresses: Array | None = None) -> None:
        """DataLoss where a file that is about to be read is damaged: all of them, or those that hold these rows."""
        if self.sums is None:
            return
        of = self.files if addresses is None else np.unique(np.asarray(addresses, np.uint64) >> np.uint64(32)).tolist()
        self.sums.check([name for fragment in of for name in self.files.get(fragment, ())])

    @property
    def here(self) -> IdMap:
        assert self.roster is not None, "the view is loaded"
        return self.roster


def view_of(dataset: Any, name: str, sums: Checksums, roster: IdMap | None = None) -> VersionView:
    arrow, files = dataset.schema, lance_io.files_of(dataset)
    return VersionView(
        dataset, dataset.version, schema.from_schema(arrow, name), schema.metadata_columns(arrow), roster, sums, files
    )


def view_after(view: VersionView, dataset: Any, roster: IdMap, touched: Container[int]) -> VersionView:
    """Of a version that a commit of rows alone made of the view's: `touched` fragments lost some."""
    return replace(
        view, dataset=dataset, version=dataset.version, roster=roster, files=lance_io.files_of(dataset, view.files, touched)
    )


def record_version(view: VersionView) -> None:
    """Take the checksums of all files of a version that have none: those that its commit wrote, and its manifest."""
    assert view.sums is not None
    names = [name for names in view.files.values() for name in names]
    view.sums.record([*names, lance_io.manifest_of(view.sums.path, view.version)], time.time())

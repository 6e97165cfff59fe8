"""One version of a set: the dataset, its metadata, columns and files, and (once needed) its id map."""

from __future__ import annotations

import time
from collections.abc import Container, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from topwork_server.feature_sets import lance_layout, schema
from topwork_server.feature_sets.checksums import Checksums
from topwork_server.feature_sets.id_map import IdMap
from topwork_server.feature_sets.schema import SetMetadata
from topwork_server.feature_sets.set_types import ColumnType
from topwork_server.types import Array


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
        """DataLoss where a file that is about to be read is damaged: all of them, or those that hold these rows."""
        if self.checksums is None:
            return
        of = self.files if addresses is None else np.unique(lance_layout.fragments_of(addresses)).tolist()
        self.checksums.check([name for fragment in of for name in self.files.get(fragment, ())])

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
    names = [name for names in view.files.values() for name in names]
    view.checksums.record([*names, lance_layout.manifest_name(view.version)], time.time())

"""One version of a set as its users hold it: the dataset, its facts and columns, and (once needed) its roster."""

from __future__ import annotations

import threading
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from topwork_server.errors import NotFound, NotReady, TopworkError
from topwork_server.sets import roster as rosters
from topwork_server.sets import schema
from topwork_server.sets.lance_io import mapped, open_dataset, plain
from topwork_server.sets.model import ColumnType
from topwork_server.sets.roster import Roster
from topwork_server.sets.schema import Facts


@dataclass(frozen=True)
class View:
    dataset: Any
    version: int
    facts: Facts
    columns: dict[str, ColumnType]
    roster: Roster | None = None

    @property
    def here(self) -> Roster:
        assert self.roster is not None, "the view is loaded"
        return self.roster


def view_of(dataset: Any, name: str, roster: Roster | None = None) -> View:
    arrow = dataset.schema
    return View(dataset, dataset.version, schema.from_schema(arrow, name), schema.metadata_columns(arrow), roster)


def opened(path: Path, name: str) -> View:
    """The latest version of the set in a folder. NotReady where the folder is not a readable set."""
    try:
        return view_of(open_dataset(path), name)
    except Exception as error:
        said = error.message if isinstance(error, TopworkError) else plain(error)
        raise NotReady(
            f"the feature set {name!r} cannot be opened: {said}",
            remedy=f"put the folder {path} right from a copy, or drop the set",
        ) from error


class Current:
    """The newest view, changed by the commit thread alone."""

    def __init__(self, path: Path, name: str) -> None:
        self.path, self.name = path, name
        self._loading = threading.Lock()
        self.view = opened(path, name)

    def loaded(self) -> View:
        """The newest view, with its roster."""
        view = self.view
        if view.roster is not None:
            return view
        with self._loading:
            # Commits load it first, so no view without a roster is ever replaced by another while this lock is held.
            if self.view.roster is None:
                with mapped(f"reading the ids of the set {self.name!r}"):
                    self.view = replace(self.view, roster=rosters.load(self.view.dataset))
            return self.view

    def publish(self, dataset: Any, roster: Roster) -> View:
        self.view = view_of(dataset, self.name, roster)
        return self.view

    def at(self, version: int) -> View:
        """The view of an older version, 0 for the newest. NotFound where it was pruned or never was."""
        view = self.view
        if version in (0, view.version):
            return view
        try:
            return view_of(view.dataset.checkout_version(version), self.name)
        except Exception as error:
            raise NotFound(
                f"the set {self.name!r} has no version {version}; the newest is {view.version}",
                remedy="list its versions; pin those that must stay",
            ) from error

"""`topwork forget` and `topwork prune`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace

from topwork._display.number_text import counted
from topwork.cli.confirmation import confirmed

from topwork_server.commands import pull
from topwork_server.errors import InvalidInput, NotReady
from topwork_server.home_lock import HomeLock
from topwork_server.models import artifacts
from topwork_server.models.catalog import Catalog
from topwork_server.regular_files import bytes_below


def forget(arguments: SimpleNamespace) -> int:
    catalog = pull.opened(arguments)
    name: str = arguments.name
    _check_own(catalog, name)
    with HomeLock(catalog.home):  # a server would not see what vanishes under it
        users = _users(catalog, name)
        if users:
            raise NotReady(f"on {name} stand {', '.join(users)}", remedy="drop or forget those first")
        if not confirmed(arguments, f"forget {name}", lambda: " with its files"):
            return 1
        catalog.delete(name)
    print(json.dumps({"forgotten": name}) if arguments.json else f"forgot {name}, and deleted what was made for it")
    return 0


def prune(arguments: SimpleNamespace) -> int:
    catalog = pull.opened(arguments)
    folders = {path: bytes_below(path) for path in catalog.unused_artifacts()}
    if not arguments.dry_run:
        if folders and not confirmed(arguments, f"delete {_counted(folders)}"):
            return 1
        unused = catalog.unused_artifacts()  # one may have come into use while the question stood
        folders = {path: size for path, size in folders.items() if path in unused}
        for path in folders:
            artifacts.discard(path)
        artifacts.sweep(catalog.home)
    _report(folders, arguments)
    return 0


def _report(folders: dict[Path, int], arguments: SimpleNamespace) -> None:
    total = sum(folders.values())
    if arguments.json:
        record = {"artifacts": {path.name: size for path, size in folders.items()}, "bytes": total}
        print(json.dumps(record | {"deleted": not arguments.dry_run}))
        return
    for path, size in folders.items():
        print(f"{_shown(size):>9}  {path.name}")
    verb = "would be deleted" if arguments.dry_run else "deleted"
    print(f"{_counted(folders)}: {verb}" if folders else "nothing to prune")


def _counted(folders: Mapping[Path, int]) -> str:
    return f"{counted(len(folders), 'artifact')} that no encoder refers to, {_shown(sum(folders.values()))}"


def _shown(size: int) -> str:
    """A number of bytes, in MB or where that would be 0.0 in kB."""
    return f"{size / 1e6:.1f} MB" if size >= 50_000 else f"{size / 1e3:.1f} kB"


def _check_own(catalog: Catalog, name: str) -> None:
    """Refuse an encoder that a plugin registers: only what a user added can be forgotten."""
    if name in catalog.added():
        if name in catalog.fine_tuned():
            raise InvalidInput(f"{name} goes with the head that it was made with", remedy="drop that head instead")
        return
    catalog.spec(name)  # NotFound where there is no such encoder at all
    raise InvalidInput(
        f"{name} is registered by a plugin and cannot be forgotten",
        remedy=f"its files are in {catalog.home}; `topwork prune` deletes artifacts that are out of date",
    )


def _users(catalog: Catalog, name: str) -> list[str]:
    """List what stands on an encoder in this home."""
    from topwork_server.feature_sets.set_registry import FeatureSets
    from topwork_server.heads.fine_tuned_encoders import FineTunedEncoders
    from topwork_server.heads.head_store import HeadStore

    sets = FeatureSets(catalog.home / "sets")
    try:
        return list(FineTunedEncoders(HeadStore(catalog.home / "heads"), sets, catalog).users(name))
    finally:
        sets.close()

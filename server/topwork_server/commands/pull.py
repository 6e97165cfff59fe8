"""`topwork pull` and `topwork export`."""

from __future__ import annotations

import json
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import SimpleNamespace
from typing import Any

from topwork.cli.encoders import unused_weights

from topwork_server.atomic_store import room_for
from topwork_server.config import usable_home
from topwork_server.errors import InvalidInput
from topwork_server.models import artifacts, pretrained_heads, unfinished
from topwork_server.models.catalog import Catalog
from topwork_server.models.catalog_entry import CatalogEntry, EncoderState
from topwork_server.models.source_refusals import check_target
from topwork_server.plugin_api.plugin_registry import PluginRegistry
from topwork_server.plugin_api.sources import Progress, quiet


def pull(arguments: SimpleNamespace) -> int:
    catalog = opened(arguments)
    artifacts.sweep(catalog.home)
    room = room_for(f"the encoder of {arguments.target} in {catalog.home}", "pull it again")
    with ended_by_signals(), room, _named(catalog, arguments) as (found, name):
        with _progress(f"fetching the weights of {name}", arguments.json or _is_fetched_first(arguments)) as progress:
            found.pull(name, progress)
        if found.entry(name).state is not EncoderState.READY:
            _make_environments(found, name, arguments.json)
            _export(found, name, arguments)
    return show(catalog.entry(name), arguments)


def export(arguments: SimpleNamespace) -> int:
    catalog = opened(arguments)
    artifacts.sweep(catalog.home)
    _export(catalog, arguments.name, arguments, force=arguments.force)
    return show(catalog.entry(arguments.name), arguments)


def settings_of(pairs: list[str]) -> dict[str, Any]:
    """{"layers": 6, "pool": "mean"} of ["layers=6", "pool=mean"]: a value is JSON where it reads as such, else text."""
    return dict(_setting(pair) for pair in pairs)


def _setting(pair: str) -> tuple[str, Any]:
    key, equals, value = pair.partition("=")
    if not equals or not key:
        raise InvalidInput(f"--set {pair}", remedy="write --set KEY=VALUE")
    try:
        return key, json.loads(value)
    except ValueError:
        return key, value


def opened(arguments: SimpleNamespace) -> Catalog:
    catalog = Catalog(PluginRegistry.load(), usable_home(arguments.home))
    unfinished.sweep(catalog.home / "encoders", catalog)
    return catalog


@contextmanager
def _named(catalog: Catalog, arguments: SimpleNamespace) -> Iterator[tuple[Catalog, str]]:
    """The encoder's name, and the catalog that has it. Weights that a URI names get theirs once the rest is done, in place of
    what it meant before: a server beside, and a killed process, leave that as it was."""
    target: str = arguments.target
    if ":" not in target:
        if arguments.name or arguments.family or arguments.set:
            raise InvalidInput(
                f"{target} has its name, family and settings from the catalog",
                remedy="give --name, --family and --set with a URI",
            )
        check_target(target)
        yield catalog, catalog.spec(target).name
        return
    name = catalog.name_for(target, arguments.name)
    try:
        with unfinished.scratch_folder(catalog.home / "encoders", name, recorded_last=True):
            with _progress(f"fetching {target}", arguments.json or not _is_fetched_first(arguments)) as progress:
                proposed = catalog.propose(target, name, arguments.family, settings_of(arguments.set), progress)
            yield proposed, name
            proposed.keep()
    except BaseException:
        with suppress(OSError):  # of a full disk, which the error tells
            unfinished.delete_unused(catalog, name)
        raise


def _is_fetched_first(arguments: SimpleNamespace) -> bool:
    """Tell whether only the weights themselves say what they read, so that they are fetched before they get their name."""
    return bool(arguments.target.startswith("tfhub:"))


@contextmanager
def ended_by_signals() -> Iterator[None]:
    """SIGTERM, and SIGHUP of a terminal that is closed, as Ctrl-C: what was begun is taken back. SIGHUP does nothing under
    `nohup`."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP)}
    for number, handler in before.items():
        if handler is not signal.SIG_IGN:
            signal.signal(number, lambda number, frame: sys.exit(128 + number))
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _make_environments(catalog: Catalog, name: str, json_wanted: bool) -> None:
    for environment in catalog.missing_environments(name):
        doing = f"making an environment with {environment.name}, once ({environment.megabytes:,} MB)"
        with _progress(doing, json_wanted) as progress:
            environment.make(catalog.home, progress)


def _export(catalog: Catalog, name: str, arguments: SimpleNamespace, *, force: bool = False) -> None:
    if arguments.json:
        catalog.export(name, force=force)
        return
    from rich.console import Console

    doing = f"exporting {name} and measuring its parity, in a process of its own"
    if not sys.stderr.isatty():
        _say(f"{doing}: this takes from half a minute to some minutes")
    with Console(stderr=True).status(doing):
        catalog.export(name, force=force)


def _say(text: str) -> None:
    print(f"topwork: {text}", file=sys.stderr, flush=True)


@contextmanager
def _progress(doing: str, json_wanted: bool) -> Iterator[Progress]:
    if json_wanted or not sys.stderr.isatty():
        if not json_wanted:
            _say(doing)
        yield quiet
        return
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, TextColumn, TransferSpeedColumn
    from rich.progress import Progress as Bar

    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with Bar(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(doing, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total or None)


def show(entry: CatalogEntry, arguments: SimpleNamespace) -> int:
    assert entry.manifest is not None, "export returns when the artifact is complete"
    if arguments.json:
        print(json.dumps(record(entry)))
    else:
        _table(entry)
    return 0


def record(entry: CatalogEntry) -> dict[str, Any]:
    assert entry.manifest is not None
    return {
        "name": entry.spec.name,
        "state": entry.state.value,
        "folder": str(entry.folder),
        "parameters": entry.manifest.parameters or entry.spec.parameters or 0,
        "bytes": entry.manifest.bytes,
        "reference": entry.manifest.reference,
        "heads": pretrained_heads.names_in(entry.folder) if entry.folder else [],
        "unused_weights": list(entry.manifest.unused),
        "remarks": list(entry.manifest.remarks),
        "taps": [
            {"name": info.tap.name, "dim": info.tap.dim, "fingerprint": info.fingerprint, **entry.manifest.parity[info.tap.name]}
            for info in entry.manifest.taps
        ],
    }


def _table(entry: CatalogEntry) -> None:
    from rich.console import Console
    from rich.table import Table

    facts = record(entry)
    table = Table("tap", "dim", "fingerprint", "minimum cosine", "max abs error", box=None, pad_edge=False)
    for tap in facts["taps"]:
        cosine, error = f"{tap['min_cosine']:.7f}", f"{tap['max_abs_error']:.1e}"
        table.add_row(tap["name"], str(tap["dim"]), tap["fingerprint"][:16], cosine, error)
    console = Console()
    parameters = f"{facts['parameters']:,} parameters, " if facts["parameters"] else ""
    size = f"{parameters}{facts['bytes'] / 1e6:.1f} MB"
    console.print(f"{facts['name']} is {facts['state']}: {size}, parity against {facts['reference']}", soft_wrap=True)
    console.print(table)
    if facts["heads"]:
        console.print(f"heads: {', '.join(facts['heads'])}", soft_wrap=True, markup=False)
    if entry.manifest is not None and entry.manifest.unused:
        console.print(f"not used: {unused_weights(entry.manifest.unused)}", soft_wrap=True, markup=False)
    for remark in facts["remarks"]:
        console.print(remark, soft_wrap=True, markup=False)

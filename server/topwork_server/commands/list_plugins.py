"""`topwork plugins`."""

from __future__ import annotations

import json
from dataclasses import asdict
from types import SimpleNamespace

from topwork_server.plugin_api.plugin_registry import PluginInfo, PluginRegistry


def run(arguments: SimpleNamespace) -> int:
    found = PluginRegistry.load().found()
    if arguments.json:
        print(json.dumps([asdict(plugin) for plugin in found]))
    else:
        _show(found)
    return 0


def _show(found: list[PluginInfo]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for heading in ("plugin", "distribution", "hooks", "encoders", "indexes", "trainers", "pretrainers"):
        table.add_column(heading, overflow="fold")
    for plugin in found:
        distribution = f"{plugin.distribution} {plugin.version}"
        lists = (plugin.hooks, plugin.encoders, plugin.indexes, plugin.trainers, plugin.pretrainers)
        table.add_row(plugin.name, distribution, *(", ".join(names) or "-" for names in lists))
    Console().print(table)

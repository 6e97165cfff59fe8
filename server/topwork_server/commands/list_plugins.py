"""`topwork plugins`."""

from __future__ import annotations

import json
import shutil
import textwrap
from dataclasses import asdict
from functools import partial
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
    """Print a paragraph a plugin: a table of so many lists is too wide for a terminal."""
    fill = partial(textwrap.fill, width=shutil.get_terminal_size().columns, break_on_hyphens=False, break_long_words=False)
    for plugin in found:
        print(f"{plugin.name} ({plugin.distribution} {plugin.version})")
        for what in ("encoders", "indexes", "trainers", "pretrainers", "hooks"):
            if names := getattr(plugin, what):
                print(fill(f"{what}: {', '.join(names)}", initial_indent="  ", subsequent_indent="    "))

"""Contracts of several encoders, whose fingerprints one other process computes: each start of torch costs seconds."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from functools import cache, partial
from pathlib import Path
from typing import ClassVar

import pytest
from topwork_server.models.catalog import Catalog
from topwork_server.plugin_api.plugin_registry import PluginRegistry
from topwork_server.runtime.export import publish_towers
from topwork_server.testing import EncoderContract
from topwork_server.testing import encoder as contract_module

FINGERPRINTS = """
import json, os, sys
from pathlib import Path
from topwork_server.models.catalog import Catalog
from topwork_server.models.towers import join_fingerprints
from topwork_server.plugin_api.plugin_registry import PluginRegistry
from topwork_server.runtime.export import fingerprints

answer = os.fdopen(os.dup(1), "w")
os.dup2(2, 1)  # the libraries print too
home, *names = sys.argv[1:]
catalog, found = Catalog(PluginRegistry.load(), Path(home)), {}
for name in names:
    spec = catalog.spec(name)
    towers = [(tower, catalog.weights(name, tower)) for tower in spec.towers]
    found[name] = join_fingerprints(spec, [fingerprints(*tower) for tower in towers])
json.dump(found, answer)
answer.close()
"""


def exported_here(home: Path, folders: Mapping[str, Path]) -> Path:
    """Add the models of folders, by name, to a home, and export them in this process, which has torch already."""
    catalog = Catalog(PluginRegistry.load(), home)
    for name, folder in folders.items():
        spec = catalog.add(f"file:{folder}", name)
        publish_towers(home, spec, partial(catalog.weights, name))
    return home


@cache
def fingerprints_elsewhere(home: Path, names: tuple[str, ...]) -> Mapping[str, dict[str, str]]:
    """Fingerprints by encoder and tap, as another process computes them with another hash of strings."""
    command = [sys.executable, "-P", "-c", FINGERPRINTS, str(home), *names]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "PYTHONHASHSEED": "random"})
    assert done.returncode == 0, done.stderr
    found: dict[str, dict[str, str]] = json.loads(done.stdout)
    return found


class SharesProcess(EncoderContract):
    """The contract of one of the encoders `names`, which stand in one home."""

    names: ClassVar[tuple[str, ...]]

    @pytest.fixture(autouse=True)
    def _one_other_process(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(
            contract_module, "export_fingerprints", lambda name, home: fingerprints_elsewhere(home, self.names)[name]
        )

"""How far features are from fp32 torch, and how far they move with their batch-mates, for each ready encoder:

    python -m benchmarks.agreement [ENCODER ...]

Parity is the record of the export. Batch invariance is measured here, over all taps: eight of the encoder's example inputs in
one batch, whatever the padding, and each alone.
"""

from __future__ import annotations

import sys

from topwork_server.config import default_home
from topwork_server.models.artifacts import MODEL
from topwork_server.models.catalog import Catalog
from topwork_server.plugin_api.plugin_registry import PluginRegistry
from topwork_server.runtime import parity
from topwork_server.runtime.session import Session


def main(names: list[str]) -> None:
    catalogue = Catalog(PluginRegistry.load(), default_home())
    print(f"{'encoder':>20}  {'taps':>4}  {'parity':>14}  {'max error':>9}  {'invariance':>14}  {'moves by':>9}")
    for name in names or catalogue.names():
        entry = catalogue.entry(name)
        if entry.manifest is None or entry.folder is None:
            continue
        encoder, record = entry.spec.encoder(entry.spec, entry.folder), entry.manifest.numerics
        taps = [info.tap for info in entry.manifest.taps]
        error, cosine = parity.invariance(encoder, taps, encoder.examples(entry.spec), Session(entry.folder / MODEL).run)
        print(f"{name:>20}  {len(taps):>4}  {record.parity:.12f}  {record.max_abs_error:>9.1e}  {cosine:.12f}  {error:>9.1e}")


if __name__ == "__main__":
    main(sys.argv[1:])

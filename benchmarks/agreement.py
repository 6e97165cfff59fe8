"""Measures how far features are from fp32 torch, and how far they move with the other samples of their batch, for each ready
encoder:

    python -m benchmarks.agreement [ENCODER ...]

Parity is the record of the export. Batch invariance is measured here, over all taps: eight of the encoder's example inputs in
one batch, padded as they need, and each alone.
"""

from __future__ import annotations

import sys

from topwork_server.models.artifacts import MODEL
from topwork_server.runtime import parity
from topwork_server.runtime.session import Session

from benchmarks import models
from benchmarks.measure import table


def main(names: list[str]) -> None:
    known = models.catalog()
    lines = []
    for name in names or [name for name in known.names() if known.entry(name).folder]:
        entry, folder, encoder = models.opened(name)
        assert entry.manifest is not None
        record, taps = entry.manifest.numerics, [info.tap for info in entry.manifest.taps]
        error, cosine = parity.invariance(encoder, taps, encoder.examples(entry.spec), Session(folder / MODEL).run)
        figures = [f"{record.parity:.12f}", record.max_abs_error, f"{cosine:.12f}", error]
        lines.append([name, len(taps), *figures])
    print(table(["encoder", "taps", "parity", "max error", "invariance", "moves by"], lines))


if __name__ == "__main__":
    main(sys.argv[1:])

"""How far features are from fp32 torch, and how far they move with their batch-mates, for each ready encoder:

    python -m benchmarks.agreement [ENCODER ...]

Parity is the record of the export. Batch invariance is measured here: the encoder's example inputs embedded together and each
alone, over all taps: largest absolute difference and least cosine of a row.
"""

from __future__ import annotations

import asyncio
import sys

from topwork_server.artifacts import Manifest
from topwork_server.catalogue import Catalogue
from topwork_server.config import Config
from topwork_server.engine import Ask, Engine
from topwork_server.parity import difference
from topwork_server.plugins import Plugins


async def main(names: list[str]) -> None:
    config = Config(provider="cpu")
    catalogue = Catalogue(Plugins.load(), config.home)
    engine = Engine(catalogue, config)
    print(f"{'encoder':>20}  {'taps':>4}  {'parity':>14}  {'max error':>9}  {'invariance':>14}  {'moves by':>9}")
    for name in names or catalogue.names():
        entry = catalogue.entry(name)
        if entry.manifest is not None:
            error, cosine = await invariance(engine, catalogue, name, entry.manifest)
            measured = entry.manifest.numerics
            print(
                f"{name:>20}  {len(entry.manifest.taps):>4}  {measured.parity:.12f}  {measured.max_abs_error:>9.1e}"
                f"  {cosine:.12f}  {error:>9.1e}"
            )
    await engine.close()


async def invariance(engine: Engine, catalogue: Catalogue, name: str, manifest: Manifest) -> tuple[float, float]:
    """(largest absolute difference, least cosine) of a row alone and among others."""
    spec = catalogue.spec(name)
    taps = tuple(info.tap.name for info in manifest.taps)
    options = {"truncate": True} if hasattr(spec.encoder.options, "truncate") else {}
    items = list(spec.encoder.examples(spec))
    ask = Ask(name, taps, options, skip_bad_items=True)  # GloVe does not know the words of every example
    together = await engine.embed(ask, items)
    worst, least = 0.0, 1.0
    for position, item in enumerate(items):
        alone = await engine.embed(ask, [item])
        for one, many in zip(alone.taps, together.taps, strict=True):
            start = int(many.counts[:position].sum())
            error, cosine = difference(one.rows, many.rows[start : start + int(many.counts[position])])
            worst, least = max(worst, error), min(least, cosine)
    return worst, least


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1:]))

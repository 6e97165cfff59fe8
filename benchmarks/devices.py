"""What each device of this machine makes of encoders, in process: items a second beside plain fp32 on the CPU, in turns, and how
near their rows are.

python -m benchmarks.devices [ENCODER ...] [--seconds S] [--json]     # of $TOPWORK_HOME; default: those that work offline
python -m benchmarks.devices --random resnet50 i3d                    # with random weights, exported into a folder of their own

Texts are docstring sentences of mixed lengths in batches of nearest length, pictures are photographs, clips those of the
examples. Of each device the best of several batch budgets counts; `whole` is plain fp32 on the graph with all taps, which is what
was served before there was one of the default tap alone.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from topwork_server.commands.demo import ENCODERS
from topwork_server.config import default_home, usable_cores
from topwork_server.models.artifacts import MODEL, graph_for
from topwork_server.models.catalog import Catalog, CatalogEntry
from topwork_server.plugin_api import example_inputs
from topwork_server.plugin_api.encoder import Encoder
from topwork_server.plugin_api.plugin_registry import PluginRegistry
from topwork_server.runtime.parity import difference
from topwork_server.runtime.providers import PLAIN, candidates
from topwork_server.runtime.session import RunnableSession
from topwork_server.runtime.session_factory import open_session
from topwork_server.types import Array, ImageItem, Item, Modality, Sample, TextItem

from benchmarks import inputs, random_nets
from benchmarks.batching import by_length

#: Items that are measured, and budgets that are tried, as shares of the encoder's own.
ITEMS = {Modality.TEXT: 200, Modality.IMAGE: 16, Modality.VIDEO: 4, Modality.TENSOR: 16}
BUDGETS = (0.5, 1.0, 2.0)


@dataclass(frozen=True)
class Side:
    name: str
    session: RunnableSession
    batches: Sequence[dict[str, Array]]


def items(encoder: Encoder) -> Sequence[Item]:
    modality = encoder.spec.modality
    if modality is Modality.TEXT:
        return [TextItem(sentence) for sentence in inputs.sentences()]
    return [ImageItem(data) for data in inputs.jpegs()] if modality is Modality.IMAGE else example_inputs.of(modality)


def samples(encoder: Encoder) -> list[Sample]:
    """So many, each prepared once; where there are fewer inputs they come again."""
    options = encoder.options(truncate=True) if hasattr(encoder.options(), "truncate") else encoder.options()
    wanted = ITEMS[encoder.spec.modality]
    found = list(islice((s for item in items(encoder) for s in encoder.preprocess(item, options)), wanted))
    return (found * wanted)[:wanted]


def sides(encoder: Encoder, folder: Path, prepared: Sequence[Sample]) -> Iterator[Side]:
    """Each device and budget; each sample alone; the whole graph plainly."""
    tap, threads = encoder.spec.default_tap, usable_cores()
    alone = [encoder.collate([sample]) for sample in prepared[:: max(len(prepared) // 16, 1)]]
    by_budget = {
        share: [encoder.collate(batch) for batch in by_length(encoder, prepared, encoder.budget * share)] for share in BUDGETS
    }
    for device in candidates("auto"):
        session = open_session(graph_for(folder, [tap], tap), device, threads)
        yield Side(f"{device} alone", session, alone)
        for share, made in by_budget.items():
            yield Side(f"{device} x{share:g}", session, made)
    yield Side("whole x1", open_session(folder / MODEL, PLAIN, threads), by_budget[1.0])


def timed(side: Side, tap: str) -> list[tuple[float, float]]:
    """Seconds, and CPU seconds, of each batch."""
    return [_timed(side.session, feeds, tap) for feeds in side.batches]


def _timed(session: RunnableSession, feeds: dict[str, Array], tap: str) -> tuple[float, float]:
    began, spent = time.perf_counter(), time.process_time()
    session.run([tap], feeds)
    return time.perf_counter() - began, time.process_time() - spent


def measure(entry: CatalogEntry, seconds: float) -> dict[str, object]:
    """Each batch counts with its best time of all rounds: on a machine that others use, those are what compares. CPU seconds
    compare even where nothing is ever left alone."""
    assert entry.folder is not None, f"{entry.spec.name} is not exported"
    encoder, tap = entry.spec.encoder(entry.spec, entry.folder), entry.spec.default_tap
    compared = list(sides(encoder, entry.folder, samples(encoder)))
    rounds: dict[str, list[list[tuple[float, float]]]] = {side.name: [] for side in compared}
    began = time.monotonic()
    while time.monotonic() - began < seconds or len(rounds[compared[-1].name]) < 3:
        for side in compared:
            rounds[side.name].append(timed(side, tap))
    rates, by_cpu = ({side.name: _rate(side, rounds[side.name], clock) for side in compared} for clock in (0, 1))
    found = {"encoder": entry.spec.name, "rates": rates, **summary(rates), "a_cpu_second": summary(by_cpu)["best"]}
    return {**found, "times_by_cpu": summary(by_cpu)["times"], "cosine": cosines(compared, tap)}


def _rate(side: Side, rounds: list[list[tuple[float, float]]], clock: int) -> float:
    best = [min(times[clock] for times in batch) for batch in zip(*rounds, strict=True)]
    return float(_samples(side) / sum(best))


def _samples(side: Side) -> int:
    return sum(len(next(iter(feeds.values()))) for feeds in side.batches)


def summary(rates: dict[str, float]) -> dict[str, object]:
    """Of each device: alone and at its best, and how many times that is what the plain one makes."""
    best: dict[str, float] = {}
    for name, found in rates.items():
        device, _, how = name.rpartition(" ")
        best[device if how != "alone" else name] = max(best.get(device if how != "alone" else name, 0.0), found)
    plain = {"alone": best[f"{PLAIN} alone"], "best": best[str(PLAIN)]}
    times = {name: round(found / plain["alone" if name.endswith("alone") else "best"], 2) for name, found in best.items()}
    return {"best": {name: round(found, 1) for name, found in best.items()}, "times": times}


def cosines(compared: Sequence[Side], tap: str) -> dict[str, float]:
    """The least, over the first batches of each device, to the plain one's rows."""
    found: dict[str, float] = {}
    plain = next(side for side in compared if side.name == f"{PLAIN} x1")
    for side in compared:
        if side.name.endswith(" x1"):
            pairs = zip(plain.batches[:20], side.batches[:20], strict=True)
            found[side.name] = min(
                difference(*(s.session.run([tap], f)[0] for s, f in zip((plain, side), p, strict=True)))[1] for p in pairs
            )
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("encoders", nargs="*", default=[])
    parser.add_argument("--random", nargs="+", choices=sorted(random_nets.NETS), default=[])
    parser.add_argument("--keep", type=Path, help="where those with random weights are exported to, and found again")
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        entries = [random_nets.exported(asked.keep or Path(scratch), name) for name in asked.random]
        catalogue = Catalog(PluginRegistry.load(), default_home())
        entries += [catalogue.entry(name) for name in asked.encoders or ([] if asked.random else ENCODERS)]
        for entry in entries:
            show(measure(entry, asked.seconds), asked.json)
    return 0


def show(found: dict[str, object], as_json: bool) -> None:
    if as_json:
        print(json.dumps({**found, "cores": os.cpu_count()}), flush=True)
        return
    print(found["encoder"])
    for title in ("best", "times", "a_cpu_second", "times_by_cpu", "cosine"):
        print(f"  {title}: " + ", ".join(f"{name} {value:.7g}" for name, value in found[title].items()), flush=True)  # type: ignore[attr-defined]


if __name__ == "__main__":
    raise SystemExit(main())

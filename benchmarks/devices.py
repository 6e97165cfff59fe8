"""Measures each device of this machine with encoders, in process: items a second beside plain fp32 on the CPU, in turns, and how
near their rows are.

python -m benchmarks.devices [ENCODER ...] [--seconds S] [--json]     # of $TOPWORK_HOME; default: those that work offline
python -m benchmarks.devices --random resnet50 i3d                    # with random weights, exported into a folder of their own

Texts are docstring sentences of mixed lengths in batches of nearest length, pictures are photographs, clips those of the
examples. Of each device the best of several batch budgets counts; `whole` is plain fp32 on the graph with all taps, which is what
was served before there was one of the default tap alone.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

from topwork_server.commands.demo import ENCODERS
from topwork_server.config import usable_cores
from topwork_server.models.artifacts import MODEL, graph_for
from topwork_server.plugin_api import example_inputs
from topwork_server.plugin_api.encoder import Encoder
from topwork_server.runtime.parity import difference
from topwork_server.runtime.providers import PLAIN, candidates
from topwork_server.runtime.session import RunnableSession
from topwork_server.runtime.session_factory import open_session
from topwork_server.types import Array, EncoderSpec, ImageItem, Item, Modality, Sample, TextItem

from benchmarks import inputs, models
from benchmarks.measure import show

#: Items that are measured, and budgets that are tried, as shares of the encoder's own.
ITEMS = {Modality.TEXT: 200, Modality.IMAGE: 16, Modality.VIDEO: 4, Modality.AUDIO: 4, Modality.TENSOR: 16}
LENIENT = {"truncate": True, "unknown": "zero"}
BUDGETS = (0.5, 1.0, 2.0)


@dataclass
class Backend:
    """A session and its batches. `best`: the least seconds, and CPU seconds, that each batch took in any round."""

    device: str
    way: str
    session: RunnableSession
    batches: Sequence[dict[str, Array]]
    tap: str
    best: list[tuple[float, float]] = field(default_factory=list)

    def run_batches(self) -> None:
        took = [self._timed(feeds) for feeds in self.batches]
        pairs = zip(self.best or took, took, strict=True)
        self.best = [(min(a[0], b[0]), min(a[1], b[1])) for a, b in pairs]

    def _timed(self, feeds: dict[str, Array]) -> tuple[float, float]:
        began, spent = time.perf_counter(), time.process_time()
        self.session.run([self.tap], feeds)
        return time.perf_counter() - began, time.process_time() - spent

    def rate(self, clock: int) -> float:
        """Samples a second (0) or a CPU second (1)."""
        return sum(len(next(iter(feeds.values()))) for feeds in self.batches) / sum(times[clock] for times in self.best)


def samples(encoder: Encoder) -> list[Sample]:
    """ITEMS samples, each prepared once; where there are fewer inputs they come again."""
    known = {name: value for name, value in LENIENT.items() if hasattr(encoder.options(), name)}
    options = encoder.options(**known)
    wanted = ITEMS[encoder.spec.modality]
    found = list(islice((s for item in _items(encoder.spec.modality) for s in encoder.preprocess(item, options)), wanted))
    return (found * wanted)[:wanted]


def _items(modality: Modality) -> Sequence[Item]:
    if modality is Modality.TEXT:
        return [TextItem(sentence) for sentence in inputs.sentences()]
    return [ImageItem(data) for data in inputs.jpegs()] if modality is Modality.IMAGE else example_inputs.of(modality)


def backends(encoder: Encoder, folder: Path, prepared: Sequence[Sample]) -> Iterator[Backend]:
    """Make a backend of each device with each sample alone and with each budget, and of the whole graph plainly."""
    tap, threads = encoder.spec.default_tap, usable_cores()
    ways = {"alone": [encoder.collate([sample]) for sample in prepared[:: max(len(prepared) // 16, 1)]]}
    for share in BUDGETS:
        batches = models.batches_by_length(encoder, prepared, encoder.budget * share)
        ways[f"x{share:g}"] = [encoder.collate(batch) for batch in batches]
    for device in candidates("auto"):
        session = open_session(graph_for(folder, [tap], tap), device, threads)
        yield from (Backend(str(device), way, session, batches, tap) for way, batches in ways.items())
    yield Backend("whole", "x1", open_session(folder / MODEL, PLAIN, threads), ways["x1"], tap)


def measured(spec: EncoderSpec, folder: Path, seconds: float) -> dict[str, object]:
    """Measure all backends. Each batch counts with its best time of all rounds: on a machine that others use, those are what
    compares. CPU seconds compare even where nothing is ever left alone."""
    encoder = spec.encoder(spec, folder)
    compared = list(backends(encoder, folder, samples(encoder)))
    began, rounds = time.monotonic(), 0
    while time.monotonic() - began < seconds or rounds < 3:
        rounds += 1
        for backend in compared:
            backend.run_batches()
    rates, by_cpu = best_rates(compared, 0), best_rates(compared, 1)
    return {
        "encoder": spec.name,
        "best": rates,
        "times": beside_plain(rates),
        "a_cpu_second": by_cpu,
        "times_by_cpu": beside_plain(by_cpu),
        "cosine": cosines(compared),
        "cores": os.cpu_count(),
    }


def best_rates(compared: Sequence[Backend], clock: int) -> dict[str, float]:
    """Return the rates of each device: one sample at a time, and its best budget."""
    best: dict[str, float] = {}
    for backend in compared:
        name = backend.device + " alone" * (backend.way == "alone")
        best[name] = round(max(best.get(name, 0.0), backend.rate(clock)), 1)
    return best


def beside_plain(rates: Mapping[str, float]) -> dict[str, float]:
    """Compute how many times as fast as plain fp32 each device is."""
    return {name: round(rate / rates[f"{PLAIN}{' alone' * name.endswith(' alone')}"], 2) for name, rate in rates.items()}


def cosines(compared: Sequence[Backend]) -> dict[str, float]:
    """The least, over the first batches of each device, to the plain one's rows."""
    same = {backend.device: backend for backend in compared if backend.way == "x1"}
    plain = same[str(PLAIN)]
    expected = [plain.session.run([plain.tap], feeds)[0] for feeds in plain.batches[:20]]
    return {
        device: min(
            difference(rows, backend.session.run([backend.tap], feeds)[0])[1]
            for rows, feeds in zip(expected, backend.batches, strict=False)
        )
        for device, backend in same.items()
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("encoders", nargs="*", default=[])
    parser.add_argument("--random", nargs="+", choices=sorted(models.RANDOM), default=[])
    parser.add_argument("--keep", type=Path, help="where those with random weights are exported to, and found again")
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        exported = [models.random_encoder(asked.keep or Path(scratch), name) for name in asked.random]
        opened = map(models.opened, asked.encoders or ([] if asked.random else ENCODERS))
        for spec, folder in [*exported, *((entry.spec, folder) for entry, folder, _ in opened)]:
            show(measured(spec, folder, asked.seconds), asked.json)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())

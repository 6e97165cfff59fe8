"""Measures whether transfer learning works, on real data (docs/transfer.md):

python -m benchmarks.transfer [--only DATASET ...] [--seeds 3] [--tuning-seeds 5] [--out FILE.json]
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

from topwork import Client
from topwork_server.config import default_home, usable_cores
from topwork_server.models.catalog import Catalog
from topwork_server.plugin_api.plugin_registry import PluginRegistry

from benchmarks.measure import table
from benchmarks.processes import server
from benchmarks.transfer import (
    alignment,
    datasets,
    detection,
    fine_tuning,
    frozen_features,
    joint,
    pretraining,
    tuners,
    uncertainty,
    word_similarity,
)
from benchmarks.transfer.random_baseline import random_encoder

TUNING, PRETRAINING, DOUBTS, DETECTION, WORDS = "tuning", "pretraining", "doubts", "detection", "words"
ADAPTERS, FEW, JOINT, ALIGNMENT, ALIGNMENT_RANDOM = "adapters", "few-labels", "joint", "alignment", "alignment-random"
SMALL = f"{pretraining.PREFIX}-small-bert"
#: Of the pretraining of each encoder, besides its time. A trunk that knows nothing takes a high rate.
PRETRAINING_OPTIONS: dict[str, dict[str, Any]] = {
    SMALL: {"epochs": 200, "tokens": 64, "evaluate_every": 100, "patience": 0, "learning_rate": 1e-3, "head_first": 0.0},
    "all-minilm-l6-v2": {"epochs": 20, "batch": 16, "tokens": 64, "evaluate_every": 200, "patience": 0},
}


def main() -> int:
    arguments = _parsed()
    home = default_home()
    plugins = PluginRegistry.load()
    catalog = Catalog(plugins, home)
    folder = home / "transfer"
    folder.mkdir(parents=True, exist_ok=True)
    seeds = list(range(arguments.seeds))
    known = datasets.all_of(folder, seeds)
    wanted = arguments.only or [
        *known,
        DETECTION,
        ALIGNMENT,
        ALIGNMENT_RANDOM,
        TUNING,
        ADAPTERS,
        FEW,
        JOINT,
        PRETRAINING,
        DOUBTS,
        WORDS,
    ]
    found: dict[str, Any] = {"seeds": arguments.seeds}
    if frozen := [known[name]() for name in wanted if name in known]:
        found["frozen"] = _frozen(home, catalog, frozen, seeds)
    if DETECTION in wanted:
        found["detection"] = _detection(home, catalog, seeds)
    if ALIGNMENT in wanted:
        found["alignment"] = _alignment(home, lambda: alignment.TRUNKS, seeds)
    if ALIGNMENT_RANDOM in wanted:
        made = partial(random_encoder, catalog, alignment.TRUNKS[0][0])
        found["alignment of random weights"] = _alignment(home, lambda: [(made(), ())], seeds[: alignment.RANDOM_SEEDS])
    if DOUBTS in wanted:
        found["doubts"] = _doubts(home, folder, seeds)
    if TUNING in wanted:
        found["tuning"] = _tuning(plugins, catalog, folder, range(arguments.tuning_seeds))
    if ADAPTERS in wanted:
        found["adapters"] = _tuners(plugins, catalog, folder, tuners.ADAPTERS, (0,), seeds)
    if FEW in wanted:
        found["few labels"] = _tuners(plugins, catalog, folder, tuners.FEW, tuners.SIZES, seeds)
    if JOINT in wanted:
        found["joint"] = _joint(home, known["reviews"](), seeds)
    if PRETRAINING in wanted:
        found["pretraining"] = _pretraining(home, catalog, known["reviews"](), seeds, arguments)
    if WORDS in wanted:
        found["words"] = _words(home, catalog, seeds)
    if arguments.out:
        arguments.out.write_text(json.dumps(found, indent=1) + "\n")
    return 0


def _parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.transfer")
    parser.add_argument(
        "--only",
        nargs="+",
        metavar="DATASET",
        help="stamps, fashion-mnist, reviews, supersenses, motions, detection, alignment, alignment-random, tuning,"
        " adapters, few-labels, joint, pretraining, doubts, words",
    )
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--tuning-seeds", type=int, default=5)
    parser.add_argument("--pretraining-seconds", type=float, default=3600)
    parser.add_argument("--pretraining-encoders", nargs="+", choices=PRETRAINING_OPTIONS, default=list(PRETRAINING_OPTIONS))
    parser.add_argument("--pretraining-items", type=int, help="of the reviews, fewer (default: all)")
    parser.add_argument("--out", type=Path)
    return parser.parse_args()


def _say(words: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {words}", file=sys.stderr, flush=True)


def _frozen(home: Path, catalog: Catalog, wanted: Sequence[datasets.Dataset], seeds: Sequence[int]) -> list[dict[str, Any]]:
    with server(home) as (address, _), Client(address, timeout=3600) as client:
        return _printed(line for data in wanted for line in frozen_features.lines(client, catalog, data, seeds, _say))


def _detection(home: Path, catalog: Catalog, seeds: Sequence[int]) -> list[dict[str, Any]]:
    with server(home) as (address, _), Client(address, timeout=3600) as client:
        return _printed(detection.lines(client, catalog, seeds, _say))


def _alignment(home: Path, trunks: Callable[[], alignment.Trunks], seeds: Sequence[int]) -> list[dict[str, Any]]:
    """Measure trunks, which are asked for once the server runs: at its start it deletes encoders that no head has."""
    with server(home) as (address, _), Client(address, timeout=3600) as client:
        return _printed(alignment.lines(client, trunks(), seeds, _say))


def _joint(home: Path, data: datasets.Dataset, seeds: Sequence[int]) -> list[dict[str, Any]]:
    with server(home) as (address, _), Client(address, timeout=3600) as client:
        return _printed(joint.lines(client, data, seeds, _say))


def _printed(lines: Iterable[frozen_features.Line]) -> list[dict[str, Any]]:
    found = []
    print("| data | target | labels | what the head reads | figure | value | 95% | baseline |\n|---|---|---|---|---|---|---|---|")
    for line in lines:
        found.append(asdict(frozen_features.rounded(line)))
        print(
            f"| {line.data} | {line.target} | {line.labels} | {line.reads} | {line.measure} | {line.value:.3f}"
            f" | {line.low:.3f} to {line.high:.3f} | {line.baseline:.3f} |",
            flush=True,
        )
    return found


def _pretraining(
    home: Path, catalog: Catalog, data: datasets.Dataset, seeds: Sequence[int], arguments: argparse.Namespace
) -> list[dict[str, Any]]:
    """Measure all-minilm-l6-v2, and a small BERT that knows nothing, as they are and trained further."""
    found = []
    some = slice(None, None, max(1, len(data.items) // (arguments.pretraining_items or len(data.items))))  # sorted by label
    data = replace(data, items=data.items[some], metadata=data.metadata[some])
    pretraining.forget(catalog)
    small = pretraining.random_bert(home / "transfer" / "small-bert", pretraining.unjudged(data), 0)
    catalog.add(f"file:{small}", SMALL)
    print("| data | target | encoder | tap | labels | figure | value | 95% |\n|---|---|---|---|---|---|---|---|")
    with server(home) as (address, _), Client(address, timeout=3600) as client:
        for encoder in arguments.pretraining_encoders:
            options = {**PRETRAINING_OPTIONS[encoder], "max_seconds": arguments.pretraining_seconds}
            # Of a BERT without a pooling of its own both are the same.
            taps = ["mean"] if encoder == SMALL else ["pooled", "mean"]
            reads = replace(data, encoder=encoder)
            for run in pretraining.domain_runs(client, reads, seeds, options, (500, 0), _say, taps):
                found.append(asdict(run))
                print(
                    f"| {run.data} | {run.target} | {run.encoder} | {run.tap} | {run.labels} | {run.measure} | {run.value:.3f}"
                    f" | {run.low:.3f} to {run.high:.3f} |",
                    flush=True,
                )
    pretraining.forget(catalog)
    return found


def _doubts(home: Path, folder: Path, seeds: Sequence[int]) -> list[dict[str, Any]]:
    found = []
    titles = "data, measured on, items, accuracy, coverage of 90%, size, typicality < 0.05, AUROC".split(", ")
    print(f"| {' | '.join(titles)} |\n{'|---' * len(titles)}|")
    with server(home) as (address, _), Client(address, timeout=3600) as client:
        for case in uncertainty.cases(folder):
            for one in uncertainty.measured(client, case, seeds, _say):
                found.append(asdict(one))
                print(uncertainty.line(one), flush=True)
    return found


def _words(home: Path, catalog: Catalog, seeds: Sequence[int]) -> list[dict[str, Any]]:
    found = []
    pretraining.forget(catalog)
    texts = list(word_similarity.docstrings())
    print("| judgments | encoder | pairs | correlation | 95% |\n|---|---|---|---|---|")
    with server(home) as (address, _), Client(address, timeout=3600) as client:
        for algorithm in ("skip-gram", "cbow"):
            for run in word_similarity.word_runs(client, texts, seeds, {"algorithm": algorithm}, _say):
                found.append({"algorithm": algorithm, **asdict(run)})
                print(
                    f"| {run.judgments} | {run.encoder} | {run.pairs} of {run.all_pairs} | {run.correlation:.3f}"
                    f" | {run.low:.3f} to {run.high:.3f} |",
                    flush=True,
                )
    pretraining.forget(catalog)
    return found


def _tuning(plugins: PluginRegistry, catalog: Catalog, folder: Path, seeds: Sequence[int]) -> dict[str, Any]:
    experiment = fine_tuning.Experiment(plugins, catalog, datasets.reviews(folder), usable_cores())
    found = []
    for run in fine_tuning.runs(experiment, catalog, seeds, _say):
        _say(f"accuracy {run.accuracy:.4f}, validation {run.scores}")
        found.append(run)
    lines = fine_tuning.summary(found)
    columns = ("way", "seeds", "mean", "deviation", "least", "most")
    cells = [[*(line[name] for name in columns), ", ".join(map(str, line["steps to it"]))] for line in lines]
    print("\n" + table([*columns, "steps to its best"], cells))
    return {"summary": lines, "runs": [asdict(run) for run in found]}


def _tuners(
    plugins: PluginRegistry, catalog: Catalog, folder: Path, ways: Any, sizes: Sequence[int], seeds: Sequence[int]
) -> list[dict[str, Any]]:
    experiment = fine_tuning.Experiment(plugins, catalog, datasets.reviews(folder), usable_cores())
    found = []
    for one in tuners.runs(experiment, plugins, ways, sizes, seeds, _say):
        _say(f"{one.way}, {one.size or 'all'}: accuracy {one.right.mean():.4f}")
        found.append(one)
    lines = tuners.summary(found)
    columns = list(lines[0])
    print("\n" + table(columns, [[line[name] for name in columns] for line in lines]))
    return lines


if __name__ == "__main__":
    raise SystemExit(main())

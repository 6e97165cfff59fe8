"""The linear trainer's sweep of 45 strengths, choice and refit beside one lbfgs fit of scikit-learn, in one run:

    python -m benchmarks.probe_sweep [--sklearn PYTHON] [--rows 50000] [--dim 768] [--classes 100] [--rounds 3] [--json]

Rows are Gaussian clusters around centres so near to each other that Bayes' rule is right 95.6% of the time; one label in ten of
those that are learnt from is random. Held-out accuracy is against true labels, which neither side sees. PYTHON is an environment
that has scikit-learn. It fits at C=1, its default, and at the C that gets the best held-out accuracy of CANDIDATES (looked for
in the first round, on the held-out rows: an advantage that Topwork does not get; the search is not timed). Sides take turns, a
seed a round; all get float32 rows in memory, and imports are not timed. Ratios are taken within a round.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

CANDIDATES = (1e-4, 3e-4, 1e-3, 3e-3, 1e-2)
HELD = 10_000
#: Length of a centre where the noise of a column is 1: 100 such are told apart by Bayes' rule 95.6% of the time.
LENGTH = 4.4


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--sklearn", metavar="PYTHON")
    parser.add_argument("--rows", type=int, default=50_000)
    parser.add_argument("--dim", type=int, default=768)
    parser.add_argument("--classes", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--peer", nargs="+", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.peer:
        print(json.dumps(peer(Path(asked.peer[0]), [float(c) for c in asked.peer[1:]])))
        return 0
    rounds, best = [], 0.0
    for seed in range(asked.rounds):
        with tempfile.TemporaryDirectory() as scratch:
            data = made(asked.rows, asked.dim, asked.classes, seed)
            found = {"seed": seed, "bayes": data.pop("bayes"), "topwork": ours(data, asked.classes)}
            if asked.sklearn:
                for name, array in data.items():
                    np.save(Path(scratch) / f"{name}.npy", array)
                tried = [] if best else theirs(asked.sklearn, scratch, CANDIDATES)
                best = best or max(tried, key=lambda one: one["accuracy"])["C"]
                found["best C"], found["default C"] = theirs(asked.sklearn, scratch, (best, 1.0))
            rounds.append(found)
    report(rounds, asked)
    return 0


def made(rows: int, dim: int, classes: int, seed: int) -> dict[str, Any]:
    """rows, labels (noisy), held, truth; and the accuracy of Bayes' rule on the held-out rows."""
    random = np.random.default_rng(seed)
    centres = random.standard_normal((classes, dim), dtype=np.float32) * np.float32(LENGTH / np.sqrt(dim))
    truth = random.integers(0, classes, rows + HELD)
    every = random.standard_normal((rows + HELD, dim), dtype=np.float32)
    every += centres[truth]
    labels = np.where(random.random(rows) < 0.1, random.integers(0, classes, rows), truth[:rows])
    held = every[rows:]
    bayes = (held @ centres.T - 0.5 * (centres**2).sum(axis=1)).argmax(axis=1) == truth[rows:]
    return {"rows": every[:rows].copy(), "labels": labels, "held": held, "truth": truth[rows:], "bayes": float(bayes.mean())}


def ours(data: dict[str, Any], classes: int) -> dict[str, Any]:
    """One head by the defaults."""
    from topwork_plugins.linear.plugin import LinearOptions, LinearTrainer
    from topwork_server import Examples, FeatureView, Target

    count = np.arange(len(data["labels"]))
    names = tuple(map(str, range(classes)))
    examples = Examples((FeatureView("tap", "row", data["rows"]),), Target.CLASSES, names, data["labels"], count, count)
    began = time.monotonic()
    [head] = LinearTrainer.fit(examples, [count], LinearOptions(), 0, os.cpu_count() or 1, lambda done, words: None)
    seconds = time.monotonic() - began
    accuracy = (head.scores(data["held"]).argmax(axis=1) == data["truth"]).mean()
    tried = {name: sum(trial.settings["model"] == name for trial in head.trials) for name in ("discriminant", "logistic")}
    return {"seconds": seconds, "accuracy": float(accuracy), "chosen": dict(head.chosen), "tried": tried}


def theirs(python: str, folder: str, strengths: tuple[float, ...]) -> list[dict[str, Any]]:
    command = [python, __file__, "--peer", folder, *map(str, strengths)]
    said = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    found: list[dict[str, Any]] = json.loads(said)
    return found


def peer(folder: Path, strengths: list[float]) -> list[dict[str, Any]]:
    """In the environment of scikit-learn, which need not have Topwork."""
    import warnings

    import sklearn
    from sklearn.linear_model import LogisticRegression

    warnings.simplefilter("ignore")
    data = {name: np.load(folder / f"{name}.npy") for name in ("rows", "labels", "held", "truth")}
    found = []
    for strength in strengths:
        began = time.monotonic()
        model = LogisticRegression(C=strength).fit(data["rows"], data["labels"])
        seconds = time.monotonic() - began
        accuracy = float((model.predict(data["held"]) == data["truth"]).mean())
        steps = int(model.n_iter_[0])
        versions = f"scikit-learn {sklearn.__version__}, numpy {np.__version__}"
        found.append({"C": strength, "seconds": seconds, "accuracy": accuracy, "steps": steps, "versions": versions})
    return found


def report(rounds: list[dict[str, Any]], asked: argparse.Namespace) -> None:
    sides = [name for name in ("topwork", "best C", "default C") if name in rounds[0]]
    summary = {
        side: {
            "seconds": statistics.median(found[side]["seconds"] for found in rounds),
            "accuracy": statistics.median(found[side]["accuracy"] for found in rounds),
            "times topwork": statistics.median(found[side]["seconds"] / found["topwork"]["seconds"] for found in rounds),
        }
        for side in sides
    }
    if asked.json:
        print(json.dumps({"rows": asked.rows, "dim": asked.dim, "classes": asked.classes, "summary": summary, "rounds": rounds}))
        return
    chosen, bayes = rounds[-1]["topwork"], statistics.median(found["bayes"] for found in rounds)
    print(f"{asked.rows} x {asked.dim}, {asked.classes} classes, {len(rounds)} seeds; Bayes accuracy {bayes:.3f}")
    print(f"topwork, numpy {np.__version__}: chose {chosen['chosen']} of {chosen['tried']}")
    if "best C" in rounds[0]:
        print(f"{rounds[0]['best C']['versions']}: best C {rounds[0]['best C']['C']:g}, {rounds[-1]['best C']['steps']} steps")
    print(f"{'':24}{'seconds':>10}{'held-out accuracy':>20}{'times topwork':>16}")
    for side, figures in summary.items():
        what = "topwork, 45 strengths" if side == "topwork" else f"one lbfgs fit, {side}"
        print(f"{what:24}{figures['seconds']:10.2f}{figures['accuracy']:20.4f}{figures['times topwork']:16.2f}")


if __name__ == "__main__":
    sys.exit(main())

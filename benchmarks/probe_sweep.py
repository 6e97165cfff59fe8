"""The linear trainer's sweep of 45 strengths, choice and refit beside one lbfgs fit of scikit-learn, in one run:

    python -m benchmarks.probe_sweep [--sklearn PYTHON] [--rows 50000] [--dim 768] [--classes 100] [--rounds 3] [--json]

Rows are Gaussian clusters around centers so near to each other that Bayes' rule is right 95.6% of the time; one label in ten of
those that are learned from is random. Held-out accuracy is against true labels, which neither side sees. PYTHON is an environment
that has scikit-learn. It fits at C=1, its default, and at the C that gets the best held-out accuracy of CANDIDATES (looked for
in the first round, on the held-out rows: an advantage that Topwork does not get; the search is not timed). Sides take turns, a
seed a round; all get float32 rows in memory, and imports are not timed. Ratios are taken within a round.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
import warnings
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from benchmarks.measure import median_ratio, table
from benchmarks.processes import Worker, answerer, questions

CANDIDATES = (1e-4, 3e-4, 1e-3, 3e-3, 1e-2)
HELD = 10_000
#: Length of a center where the noise of a column is 1: 100 such are told apart by Bayes' rule 95.6% of the time.
LENGTH = 4.4


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--sklearn", metavar="PYTHON")
    parser.add_argument("--rows", type=int, default=50_000)
    parser.add_argument("--dim", type=int, default=768)
    parser.add_argument("--classes", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--peer", action="store_true", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.peer:
        return answer_questions()
    rounds, best = [], 0.0
    for seed in range(asked.rounds):
        data = made(asked.rows, asked.dim, asked.classes, seed)
        found = {"seed": seed, "bayes": data.pop("bayes"), "topwork": fit_topwork(data, asked.classes)}
        if asked.sklearn:
            with tempfile.TemporaryDirectory() as folder, Worker("probe_sweep", "--peer", python=asked.sklearn) as peer:
                for name, array in data.items():
                    np.save(Path(folder) / f"{name}.npy", array)

                def fit(strength: float, peer: Worker = peer, folder: str = folder) -> Any:
                    return peer.ask("fit", patience=3600, folder=folder, C=strength)

                best = best or max(CANDIDATES, key=lambda strength: fit(strength)["accuracy"])
                found |= {"best C": fit(best), "default C": fit(1.0)}
        rounds.append(found)
    report(rounds, asked)
    return 0


def made(rows: int, dim: int, classes: int, seed: int) -> dict[str, Any]:
    """rows, labels (noisy), held, truth; and the accuracy of Bayes' rule on the held-out rows."""
    random = np.random.default_rng(seed)
    centers = random.standard_normal((classes, dim), dtype=np.float32) * np.float32(LENGTH / np.sqrt(dim))
    truth = random.integers(0, classes, rows + HELD)
    every = random.standard_normal((rows + HELD, dim), dtype=np.float32)
    every += centers[truth]
    labels = np.where(random.random(rows) < 0.1, random.integers(0, classes, rows), truth[:rows])
    held = every[rows:]
    bayes = (held @ centers.T - 0.5 * (centers**2).sum(axis=1)).argmax(axis=1) == truth[rows:]
    return {"rows": every[:rows].copy(), "labels": labels, "held": held, "truth": truth[rows:], "bayes": float(bayes.mean())}


def fit_topwork(data: dict[str, Any], classes: int) -> dict[str, Any]:
    """Fit one head by the defaults."""
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


def answer_questions() -> int:
    """Answer in the environment of scikit-learn, which need not have Topwork."""
    import sklearn
    from sklearn.linear_model import LogisticRegression

    warnings.simplefilter("ignore")
    answer = answerer()
    for asked in questions():
        data = {name: np.load(f"{asked['folder']}/{name}.npy") for name in ("rows", "labels", "held", "truth")}
        began = time.monotonic()
        model = LogisticRegression(C=asked["C"]).fit(data["rows"], data["labels"])
        seconds = time.monotonic() - began
        accuracy = float((model.predict(data["held"]) == data["truth"]).mean())
        versions = f"scikit-learn {sklearn.__version__}, numpy {np.__version__}"
        steps = int(model.n_iter_[0])
        answer({"C": asked["C"], "seconds": seconds, "accuracy": accuracy, "steps": steps, "versions": versions})
    return 0


def report(rounds: list[dict[str, Any]], asked: argparse.Namespace) -> None:
    summary = {}
    for side in (name for name in ("topwork", "best C", "default C") if name in rounds[0]):
        seconds = [found[side]["seconds"] for found in rounds]
        accuracy = median(found[side]["accuracy"] for found in rounds)
        times = median_ratio(seconds, [found["topwork"]["seconds"] for found in rounds])
        summary[side] = {"seconds": median(seconds), "accuracy": accuracy, "times topwork": times}
    if asked.json:
        print(json.dumps({"rows": asked.rows, "dim": asked.dim, "classes": asked.classes, "summary": summary, "rounds": rounds}))
        return
    chosen, bayes = rounds[-1]["topwork"], median(found["bayes"] for found in rounds)
    print(f"{asked.rows} x {asked.dim}, {asked.classes} classes, {len(rounds)} seeds; Bayes accuracy {bayes:.3f}")
    print(f"topwork, numpy {np.__version__}: chose {chosen['chosen']} of {chosen['tried']}")
    if "best C" in rounds[0]:
        print(f"{rounds[0]['best C']['versions']}: best C {rounds[0]['best C']['C']:g}, {rounds[-1]['best C']['steps']} steps")
    lines = [["topwork, 45 strengths" if s == "topwork" else f"one lbfgs fit, {s}", *f.values()] for s, f in summary.items()]
    print(table(["", "seconds", "held-out accuracy", "times topwork"], lines))


if __name__ == "__main__":
    sys.exit(main())

"""Throughput and latency side by side, in one run:

    python -m benchmarks.serving [--parts text,pictures,video,words] [--peers NAME,...] [--rounds 3] [--peer-rounds 2]
                                 [--open-rounds 1] [--seconds 2] [--json docs/benchmarks.json] [--page docs/benchmarks.md]
                                 [--again]

For each part: the in-process ceiling, Topwork in fp32 and with `--provider auto`, and those peers whose environments are here
(`make bench-peers`). They take turns, round by round; a ratio is taken within its turn, with the ceiling measured before and
after each load, because machines that are shared change their speed from minute to minute. Servers, ceiling and callers are
processes of their own on the same cores. The JSON file is written after each turn: the same command goes on where it was cut
off, and measures nothing twice unless the sources or settings have changed, or `--again` says so.
"""

from __future__ import annotations

import argparse
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil

from benchmarks.processes import WorkerError, end_processes
from benchmarks.serving import comparison, page, plan
from benchmarks.serving.comparison import Run
from benchmarks.serving.parts import PARTS, Part
from benchmarks.serving.peers import Library
from benchmarks.serving.plan import Turn
from benchmarks.serving.results import Results, rounded

ROUNDS = ("rounds", "peer_rounds", "open_rounds", "seconds")


def main() -> int:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    asked = _parsed()
    results = Results(asked.json, asked.again)
    todo = [turn for name in asked.parts for turn in _turns(PARTS[name], results, asked)]
    references: dict[str, Any] = {}
    say(f"{len(todo)} turns of {', '.join(asked.parts)}; results in {asked.json}")
    try:
        for number, turn in enumerate(todo, 1):
            name = turn.part.name
            if name not in references:  # the fp32 rows, once a run
                references[name] = comparison.reference(turn.part, asked.seconds)
            measure(turn, references[name], results, asked, f"turn {number} of {len(todo)}")
    finally:
        end_processes(psutil.Process().children(recursive=True))
    if asked.page:
        page.write(results.all, asked.page)
        say(f"wrote {asked.page}")
    return 0


def _parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.serving", description="Topwork beside its ceiling and its peers.")
    parser.add_argument("--parts", type=_names, default=list(PARTS), help=f"of {','.join(PARTS)}")
    parser.add_argument("--peers", type=_names, default=[], help="only these contenders (default: all that are installed)")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--peer-rounds", type=int, default=2, help="of those, with the peers")
    parser.add_argument("--open-rounds", type=int, default=1, help="of those, with the open loop")
    parser.add_argument("--seconds", type=float, default=2.0, help="of each load")
    parser.add_argument("--json", type=Path, default=Path("docs/benchmarks.json"))
    parser.add_argument("--page", type=Path, help="write the tables into this page")
    parser.add_argument("--again", action="store_true", help="measure again what was measured already")
    asked = parser.parse_args()
    if unknown := set(asked.parts) - set(PARTS):
        parser.error(f"no part {', '.join(sorted(unknown))}: there are {', '.join(PARTS)}")
    return asked


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]


def _turns(part: Part, results: Results, asked: argparse.Namespace) -> list[Turn]:
    """Return the turns that were not taken yet."""
    settings = {name: getattr(asked, name) for name in ROUNDS}
    try:
        able = plan.contenders(part, asked.peers, say)
    except LookupError as error:
        sys.exit(str(error))
    done = results.part(part.name, settings)["done"]
    return [turn for turn in plan.turns(part, able, settings) if turn.key not in done]


def measure(turn: Turn, reference: Any, results: Results, asked: argparse.Namespace, place: str) -> None:
    """Measure one turn, and keep it in the file. What fails is written down, and the others go on; the next run tries it
    again."""
    stored = results.all["parts"][turn.part.name]
    rows, capacity = reference
    stored.setdefault("capacity", round(capacity, 1))  # once a part, so that the open loop has the same rates in every round
    texts = [item for item in turn.part.items() if isinstance(item, str)]
    stored["words"] = sum(len(text.split()) for text in texts) / max(1, len(texts))
    name, began = turn.contender.name, time.monotonic()

    def progress(words: str) -> None:
        say(f"{place}: {turn.part.name}, round {turn.number + 1} of {asked.rounds}, {name}, {words}")

    try:
        run = Run(turn.part, asked.seconds, rows, stored["capacity"], turn.open_loop)
        work: Any = comparison.library_round if issubclass(turn.contender, Library) else comparison.peer_round
        about, records = work(turn.contender, run, progress)
    except (WorkerError, OSError, RuntimeError, ValueError, LookupError, TimeoutError, subprocess.SubprocessError) as error:
        progress(f"FAILED: {type(error).__name__}: {error}")
        stored["failed"][turn.key] = f"{type(error).__name__}: {error}"
    else:
        stored["contenders"][name] = about
        stored["done"].append(turn.key)
        stored["failed"].pop(turn.key, None)
        stored["records"] += [rounded({"contender": name, "round": turn.number} | record) for record in records]
    stored["seconds"] += round(time.monotonic() - began, 1)
    results.save()


def say(words: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {words}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())

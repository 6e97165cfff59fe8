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
from benchmarks.serving import contest, page, plan
from benchmarks.serving.contest import Course
from benchmarks.serving.parts import PARTS
from benchmarks.serving.peers import Library
from benchmarks.serving.plan import Progress, Turn
from benchmarks.serving.results import Results, rounded


def main() -> int:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    asked = _asked()
    results = Results(asked.json, asked.again)
    say = Progress(0).say
    todo = [turn for name in asked.parts for turn in _turns(PARTS[name], results, asked, say)]
    progress = Progress(sum(turn.estimate(asked.seconds) for turn in todo))
    progress.say(f"{len(todo)} turns of {', '.join(asked.parts)}; results in {asked.json}")
    try:
        for turn in todo:
            take(turn, results, asked, progress)
    finally:
        end_processes(psutil.Process().children(recursive=True))
    if asked.page:
        page.write(results.all, asked.page)
        progress.say(f"wrote {asked.page}")
    return 0


def _asked() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.serving", description="Topwork beside its ceiling and its peers.")
    parser.add_argument("--parts", type=_names, default=list(PARTS), help=f"of {','.join(PARTS)}")
    parser.add_argument("--peers", type=_names, default=[], help="only these contenders (default: all that are installed)")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--peer-rounds", type=int, default=2, help="of those, with the peers")
    parser.add_argument("--open-rounds", type=int, default=1, help="of those, with the open loop")
    parser.add_argument("--seconds", type=float, default=2.0, help="of each load")
    parser.add_argument("--json", type=Path, default=Path("docs/benchmarks.json"))
    parser.add_argument("--page", type=Path, help="render the tables and plots into this page")
    parser.add_argument("--again", action="store_true", help="measure anew what was measured already")
    asked = parser.parse_args()
    if unknown := set(asked.parts) - set(PARTS):
        parser.error(f"no part {', '.join(sorted(unknown))}: there are {', '.join(PARTS)}")
    return asked


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]


def _turns(part: Any, results: Results, asked: argparse.Namespace, say: Any) -> list[Turn]:
    """Those that were not taken yet."""
    settings = {name: getattr(asked, name) for name in ("rounds", "peer_rounds", "open_rounds", "seconds")}
    try:
        able = plan.contenders(part, asked.peers, say)
    except LookupError as error:
        sys.exit(str(error))
    stored = results.part(part.name, settings)
    return [t for t in plan.turns(part, able, settings) if t.key not in stored["done"]]


def take(turn: Turn, results: Results, asked: argparse.Namespace, progress: Progress) -> None:
    """One turn, kept in the file. What fails is written down, and the others go on; the next run tries it again."""
    stored = results.all["parts"][turn.part.name]
    name, began = turn.contender.name, time.monotonic()

    def say(words: str) -> None:
        progress.say(f"{turn.part.name}, round {turn.number + 1} of {asked.rounds}, {name}, {words}")

    try:
        course = Course(turn.part, asked.seconds, *_reference(turn, stored, asked.seconds), turn.open_loop)
        work: Any = contest.library_round if issubclass(turn.contender, Library) else contest.peer_round
        about, records = work(turn.contender, course, say)
    except (WorkerError, OSError, RuntimeError, ValueError, LookupError, TimeoutError, subprocess.SubprocessError) as error:
        say(f"FAILED: {type(error).__name__}: {error}")
        stored["failed"][turn.key] = f"{type(error).__name__}: {error}"
    else:
        stored["contenders"][name] = about
        stored["done"].append(turn.key)
        stored["failed"].pop(turn.key, None)
        stored["records"] += [rounded({"contender": name, "round": turn.number} | record) for record in records]
    took = time.monotonic() - began
    stored["seconds"] += round(took, 1)
    progress.done(turn.estimate(asked.seconds), took)
    results.save()


_references: dict[str, Any] = {}


def _reference(turn: Turn, stored: dict[str, Any], seconds: float) -> tuple[Any, float]:
    """The fp32 rows, once a run; the capacity once a part, so that the open loop has the same rates in every round."""
    name = turn.part.name
    if name not in _references:
        _references[name] = contest.reference(turn.part, seconds)
    stored.setdefault("capacity", round(_references[name][1], 1))
    texts = [item for item in turn.part.items() if isinstance(item, str)]
    stored["words"] = sum(len(text.split()) for text in texts) / max(1, len(texts))
    return _references[name][0], stored["capacity"]


if __name__ == "__main__":
    sys.exit(main())

"""Measures what HTTP costs a server that nobody asks: seconds until it is ready, and resident MiB then, with HTTP off and
with all doors, in turns.

python -m benchmarks.start [--rounds 5]
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from statistics import median

from topwork_server.config import default_home

from benchmarks.measure import table
from benchmarks.processes import scratch_home, server

SERVERS = {"--http off": ("--http", "off"), "all doors": ("--http", "127.0.0.1:0")}
#: What the doors may cost: seconds and MiB.
MOST = (0.5, 40.0)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.start")
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    measured: dict[str, list[tuple[float, float]]] = {name: [] for name in SERVERS}
    with scratch_home(default_home()) as home:
        for flags in SERVERS.values():
            _at_rest(home, *flags)  # files are compiled, and in memory
        for number in range(rounds):
            for name in list(SERVERS)[:: 1 if number % 2 == 0 else -1]:
                measured[name].append(_at_rest(home, *SERVERS[name]))
    off, on = ([median(column) for column in zip(*found, strict=True)] for found in measured.values())
    more = [with_doors - without for without, with_doors in zip(off, on, strict=True)]
    rows = [["--http off", *off], ["all doors", *on], ["more", *more], ["may be", *MOST]]
    print(table(["server", "seconds to ready", "MiB at rest"], rows))
    return int(any(cost > most for cost, most in zip(more, MOST, strict=True)))


def _at_rest(home: Path, *flags: str) -> tuple[float, float]:
    """Seconds until a server is ready, and its resident memory then, in MiB."""
    began = time.perf_counter()
    with server(home, *flags) as (_, process):
        return time.perf_counter() - began, process.memory_info().rss / 2**20


if __name__ == "__main__":
    sys.exit(main())

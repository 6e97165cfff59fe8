"""The JSON file of a run: written after each contender, so that a run that was cut off goes on where it stopped."""

from __future__ import annotations

import json
import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.serving import machine

Record = dict[str, Any]


class Results:
    """All parts that were measured on one machine. Those of another machine are put aside as FILE.old."""

    def __init__(self, path: Path, again: bool = False) -> None:
        self.path = path
        self._sources = machine.sources()
        here = machine.described()
        self.all: dict[str, Any] = {"machine": here, "parts": {}}
        if path.exists():
            before = json.loads(path.read_text())
            if before["machine"] == here:
                self.all = before
            else:
                path.rename(path.with_suffix(path.suffix + ".old"))
        self._again = again

    def part(self, name: str, settings: dict[str, Any]) -> dict[str, Any]:
        """What stands there, where it was measured from the same sources with the same settings; else a new one."""
        made = {"sources": self._sources, "settings": settings}
        known = self.all["parts"].get(name)
        if known is None or self._again or any(known[key] != value for key, value in made.items()):
            known = self.all["parts"][name] = made | {
                "commit": machine.commit(), "began": time.strftime("%Y-%m-%d %H:%M"), "seconds": 0.0,
                "contenders": {}, "records": [], "failed": {}, "done": [],
            }  # fmt: skip
        found: dict[str, Any] = known
        return found

    def save(self) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        partial = self.path.with_suffix(f"{self.path.suffix}.{os.getpid()}")
        partial.write_text(json.dumps(self.all, indent=1) + "\n")
        partial.replace(self.path)


def chosen(part: dict[str, Any], contender: str, load: str, **wanted: Any) -> list[Record]:
    """The records of one load of one contender, a round each."""
    return [
        r for r in part["records"]
        if r["contender"] == contender and r["load"] == load and all(r.get(key) == value for key, value in wanted.items())
    ]  # fmt: skip


def middle(records: list[Record], key: str | Callable[[Record], float | None]) -> float | None:
    """The median over the rounds; None where nobody measured it."""
    values = [key(r) if callable(key) else r.get(key) for r in records]
    known = [value for value in values if value is not None]
    return statistics.median(known) if known else None


def rounded(record: Record) -> Record:
    """Five significant digits are more than the machine repeats."""
    return {key: float(f"{value:.5g}") if isinstance(value, float) else value for key, value in record.items()}

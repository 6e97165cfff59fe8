"""Measures one contender in one round: it is started, checked, loaded in every way, and stopped again, in turns with its
ceiling."""

from __future__ import annotations

import json
import subprocess
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from benchmarks.processes import Worker, WorkerError, die_with_parent, end_processes, tree
from benchmarks.serving.page import load_name
from benchmarks.serving.parts import Part, model
from benchmarks.serving.peers import Library, Model, Peer, Rows
from benchmarks.serving.results import Record

#: Items whose rows are compared.
CHECKED = 32
#: Of the fp32 ceiling: the open loop's rates. A contender that falls behind one (OVERRUN) is not asked for more.
RATES = (0.1, 0.25, 0.5, 0.75, 1.0, 1.5, 2.0)
OVERRUN = 0.85
#: Seconds that a server has to answer its first request.
START = 240

Say = Callable[[str], None]


@dataclass(frozen=True)
class Run:
    """The settings of a round, for every contender. `capacity` is the fp32 ceiling in rows a second, measured once a part."""

    part: Part
    seconds: float
    reference: Rows
    capacity: float
    open_loop: bool

    def loads(self, peer: type[Peer]) -> list[Record]:
        """The closed loops, batched and streamed, in the words of the load generator."""
        found: list[Record] = [{"load": "closed", "callers": n, "size": 1} for n in self.part.callers]
        if self.part.batch and peer.most_items > 1:
            size = min(self.part.batch, peer.most_items)
            found.append({"load": "closed", "callers": self.part.batchers, "size": size})
        if peer.streams:
            found.append({"load": "streamed", "copies": self.part.copies})
        return found


def reference(part: Part, seconds: float) -> tuple[Rows, float]:
    """Rows of the first items, and rows a second at best, of the graph in fp32."""
    with Worker("serving.ceiling", part.name, "cpu fp32") as worker:
        return rows_of(worker), max(worker.ask("best", seconds=seconds * part.longer).values())


def peer_round(kind: type[Peer], run: Run, say: Say) -> tuple[dict[str, Any], list[Record]]:
    """Return what the peer is, and what was measured."""
    with ExitStack() as stack:
        peer = kind()
        address = stack.enter_context(running(peer, model(run.part)))
        pids = ",".join(str(pid) for pid in peer.pids())
        load = stack.enter_context(Worker("serving.load", kind.name, run.part.name, address, pids))
        found = [check(load, run)]
        load.ask("closed", callers=16, size=1, seconds=1.0)  # what is slow only the first time
        about: dict[str, Any] = {"device": peer.device(), "versions": peer.versions()}
        ceiling = None
        if kind.streams:
            ceiling = stack.enter_context(Worker("serving.ceiling", run.part.name, about["device"]))
        found += measured(load, ceiling, kind, run, say)
    return about, found


def measured(load: Worker, ceiling: Worker | None, kind: type[Peer], run: Run, say: Say) -> list[Record]:
    found, seconds = [], run.seconds * run.part.longer
    if ceiling:
        found.append(alone(ceiling, seconds))
    before = beside(ceiling, run.part, seconds)
    for details in run.loads(kind):
        record = details | answered(load, details, seconds)
        after = beside(ceiling, run.part, seconds)
        record |= {key: (value + after[key]) / 2 for key, value in before.items()}
        before = after
        found.append(record)
        say(described(record, run.part.unit))
    return found + (ladder(load, run, say) if run.open_loop else [])


def answered(load: Worker, details: Record, seconds: float) -> Record:
    """A load that fails is written down; the others may succeed."""
    how = {key: value for key, value in details.items() if key != "load"}
    try:
        found: Record = load.ask(details["load"], seconds=seconds, **how)
    except WorkerError as error:
        return {"failed": str(error)}
    return found


def ladder(load: Worker, run: Run, say: Say) -> list[Record]:
    """The open loop, rate by rate, until it is overrun."""
    found: list[Record] = []
    for share in RATES:
        rate = float(f"{share * run.capacity:.2g}")
        record = {"load": "open", "rate": rate} | load.ask("open", seconds=run.seconds, rate=rate)
        found.append(record)
        say(described(record, run.part.unit))
        if record["rows_per_s"] < OVERRUN * record["due_per_s"]:
            break
    return found


def alone(ceiling: Worker, seconds: float) -> Record:
    """Measure what the ceiling is asked once a round."""
    return {
        "load": "ceiling",
        "budgets": ceiling.ask("best", seconds=seconds),
        "pipeline": ceiling.ask("pipeline", seconds=seconds / 2),
        "preparing": ceiling.ask("preparing", seconds=seconds / 4),
    }


def beside(ceiling: Worker | None, part: Part, seconds: float) -> Record:
    """Measure what the ceiling is asked before and after each load: the machine may be another by then."""
    if ceiling is None:
        return {}
    single: Record = ceiling.ask("single", seconds=seconds / 6)
    return single | {"ceiling": ceiling.ask("pipeline" if part.whole else "rate", seconds=seconds / 3)}


def check(load: Worker, run: Run) -> Record:
    """The least cosine to the reference's rows."""
    rows = rows_of(load)
    expected = run.reference
    if rows.shape != expected.shape:
        raise WorkerError(f"rows {rows.shape} where {expected.shape} are expected")
    return {"load": "check", "items": CHECKED, "cosine": least_cosine(rows, expected)}


def least_cosine(rows: Rows, expected: Rows) -> float:
    """Return the least cosine of rows that may have been made unit length (peers do)."""
    return float(((rows * expected).sum(1) / np.linalg.norm(rows, axis=1) / np.linalg.norm(expected, axis=1)).min())


def rows_of(worker: Worker) -> Rows:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "rows.npy"
        worker.ask("rows", patience=START, count=CHECKED, path=str(path))
        rows: Rows = np.load(path)
        return rows


@contextmanager
def running(peer: Peer, model: Model) -> Iterator[str]:
    """Start the peer and yield its address; all of its processes are gone afterwards, also after an error."""
    begun: list[psutil.Process] = []
    slow = threading.Timer(START, lambda: end_processes(tree(peer.pids())))
    try:
        slow.start()
        address = peer.start(model)
        slow.cancel()
        begun = tree(peer.pids())
        yield address
    finally:
        slow.cancel()
        begun += tree(peer.pids())
        peer.stop()
        end_processes(begun)


def library_round(kind: type[Library], run: Run, say: Say) -> tuple[dict[str, Any], list[Record]]:
    """A library runs alone; it prints its own figures."""
    with tempfile.TemporaryDirectory() as folder:
        command = kind().command(model(run.part), written(run.part, Path(folder)), run.seconds)
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, timeout=START, preexec_fn=die_with_parent)
    figures = json.loads(done.stdout.splitlines()[-1])
    rows = np.asarray(figures["rows"], np.float32)
    found: list[Record] = [
        {"load": "check", "items": len(rows), "cosine": least_cosine(rows, run.reference[: len(rows)])},
        {"load": "in process", "size": 1, "rows_per_s": figures["one_by_one"]},
        {"load": "in process", "size": 0, "rows_per_s": figures["batched"]},
    ]
    for record in found[1:]:
        say(described(record, run.part.unit))
    return {"device": figures.get("device", "cpu fp32"), "versions": figures["versions"]}, found


def written(part: Part, folder: Path) -> Path:
    """The items as `Library.command` reads them."""
    names = []
    for index, item in enumerate(part.items()):
        if isinstance(item, bytes):
            path = folder / f"{index:04}"
            path.write_bytes(item)
            item = str(path)
        names.append(item)
    (folder / "items.json").write_text(json.dumps(names))
    return folder / "items.json"


def described(record: Record, unit: str) -> str:
    """Describe a result in one line of progress."""
    match record["load"]:
        case "closed":
            name = load_name(record)
        case "open":
            name = f"{record['rate']:g} a second"
        case "in process":
            name = "one by one" if record["size"] == 1 else "batched"
        case other:
            name = str(other)
    if "failed" in record:
        return f"{name}: FAILED: {record['failed']}"
    words = f"{name}: {record['rows_per_s']:,.1f} {unit}/s"
    if record.get("ceiling"):
        words += f", {record['rows_per_s'] / record['ceiling']:.3f} of the ceiling"
    if "p50_ms" in record:
        words += f", p50 {record['p50_ms']:.1f} p99 {record['p99_ms']:.1f} ms"
    errors = sum(record.get("errors", {}).values())
    return words + (f", {errors} errors" if errors else "")

"""One contender in one round: it is started, checked, loaded in every way, and stopped again, its ceiling in turns with it."""

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
from benchmarks.serving.parts import Part, subject
from benchmarks.serving.peers import Library, Peer, Rows, Subject
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
class Course:
    """What a round asks of every contender. `capacity` is the fp32 ceiling in rows a second, measured once a part."""

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


def peer_round(kind: type[Peer], course: Course, say: Say) -> tuple[dict[str, Any], list[Record]]:
    """What it is, and what was measured."""
    with ExitStack() as stack:
        peer = kind()
        address = stack.enter_context(running(peer, subject(course.part)))
        pids = ",".join(str(pid) for pid in peer.pids())
        load = stack.enter_context(Worker("serving.load", kind.name, course.part.name, address, pids))
        found = [check(load, course)]
        load.ask("closed", callers=16, size=1, seconds=1.0)  # what is slow only the first time
        about: dict[str, Any] = {"device": peer.device(), "versions": peer.versions()}
        ceiling = None
        if kind.streams:
            ceiling = stack.enter_context(Worker("serving.ceiling", course.part.name, about["device"]))
        found += measured(load, ceiling, kind, course, say)
    return about, found


def measured(load: Worker, ceiling: Worker | None, kind: type[Peer], course: Course, say: Say) -> list[Record]:
    found, seconds = [], course.seconds * course.part.longer
    if ceiling:
        found.append(alone(ceiling, seconds))
    before = beside(ceiling, course.part, seconds)
    for details in course.loads(kind):
        record = details | asked_for(load, details, seconds)
        after = beside(ceiling, course.part, seconds)
        record |= {key: (value + after[key]) / 2 for key, value in before.items()}
        before = after
        found.append(record)
        say(described(record, course.part.unit))
    return found + (ladder(load, course, say) if course.open_loop else [])


def asked_for(load: Worker, details: Record, seconds: float) -> Record:
    """A load that fails is written down; the others may do."""
    try:
        measured: Record = load.ask(details["load"], seconds=seconds, **without_load(details))
    except WorkerError as error:
        return {"failed": str(error)}
    return measured


def ladder(load: Worker, course: Course, say: Say) -> list[Record]:
    """The open loop, rate by rate, until it is overrun."""
    found: list[Record] = []
    for share in RATES:
        rate = float(f"{share * course.capacity:.2g}")
        record = {"load": "open", "rate": rate} | load.ask("open", seconds=course.seconds, rate=rate)
        found.append(record)
        say(described(record, course.part.unit))
        if record["rows_per_s"] < OVERRUN * record["due_per_s"]:
            break
    return found


def alone(ceiling: Worker, seconds: float) -> Record:
    """What the ceiling is asked once a round."""
    return {
        "load": "ceiling",
        "budgets": ceiling.ask("best", seconds=seconds),
        "pipeline": ceiling.ask("pipeline", seconds=seconds / 2),
        "preparing": ceiling.ask("preparing", seconds=seconds / 4),
    }


def beside(ceiling: Worker | None, part: Part, seconds: float) -> Record:
    """What the ceiling is asked before and after each load: the machine may be another by then."""
    if ceiling is None:
        return {}
    single: Record = ceiling.ask("single", seconds=seconds / 6)
    return single | {"ceiling": ceiling.ask("pipeline" if part.whole else "rate", seconds=seconds / 3)}


def check(load: Worker, course: Course) -> Record:
    """The least cosine to the reference's rows."""
    rows = rows_of(load)
    expected = course.reference
    if rows.shape != expected.shape:
        raise WorkerError(f"rows {rows.shape} where {expected.shape} are expected")
    return {"load": "check", "items": CHECKED, "cosine": least_cosine(rows, expected)}


def least_cosine(rows: Rows, expected: Rows) -> float:
    """Of rows that may have been made unit length (peers do)."""
    return float(((rows * expected).sum(1) / np.linalg.norm(rows, axis=1) / np.linalg.norm(expected, axis=1)).min())


def rows_of(worker: Worker) -> Rows:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "rows.npy"
        worker.ask("rows", patience=START, count=CHECKED, path=str(path))
        rows: Rows = np.load(path)
        return rows


@contextmanager
def running(peer: Peer, served: Subject) -> Iterator[str]:
    """Its address; all of its processes are gone afterwards, whatever happened."""
    begun: list[psutil.Process] = []
    slow = threading.Timer(START, lambda: end_processes(tree(peer.pids())))
    try:
        slow.start()
        address = peer.start(served)
        slow.cancel()
        begun = tree(peer.pids())
        yield address
    finally:
        slow.cancel()
        begun += tree(peer.pids())
        peer.stop()
        end_processes(begun)


def library_round(kind: type[Library], course: Course, say: Say) -> tuple[dict[str, Any], list[Record]]:
    """A library runs alone; it says its figures itself."""
    with tempfile.TemporaryDirectory() as folder:
        command = kind().command(subject(course.part), written(course.part, Path(folder)), course.seconds)
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, timeout=START, preexec_fn=die_with_parent)
    said = json.loads(done.stdout.splitlines()[-1])
    rows = np.asarray(said["rows"], np.float32)
    found: list[Record] = [
        {"load": "check", "items": len(rows), "cosine": least_cosine(rows, course.reference[: len(rows)])},
        {"load": "in process", "size": 1, "rows_per_s": said["one_by_one"]},
        {"load": "in process", "size": 0, "rows_per_s": said["batched"]},
    ]
    for record in found[1:]:
        say(described(record, course.part.unit))
    return {"device": said.get("device", "cpu fp32"), "versions": said["versions"]}, found


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


def without_load(details: Record) -> Record:
    return {key: value for key, value in details.items() if key != "load"}


def load_name(record: Record) -> str:
    """In words."""
    match record["load"]:
        case "closed" if record["size"] == 1:
            return f"{record['callers']} caller{'s' if record['callers'] > 1 else ''}"
        case "closed":
            return f"{record['callers']} callers, {record['size']} a request"
        case "open":
            return f"{record['rate']:g} a second"
        case "in process":
            return "one by one" if record["size"] == 1 else "batched"
        case other:
            return str(other)


def described(record: Record, unit: str) -> str:
    """One line of progress."""
    if "failed" in record:
        return f"{load_name(record)}: FAILED: {record['failed']}"
    words = f"{load_name(record)}: {record['rows_per_s']:,.1f} {unit}/s"
    if record.get("ceiling"):
        words += f", {record['rows_per_s'] / record['ceiling']:.3f} of the ceiling"
    if "p50_ms" in record:
        words += f", p50 {record['p50_ms']:.1f} p99 {record['p99_ms']:.1f} ms"
    errors = sum(record.get("errors", {}).values())
    return words + (f", {errors} errors" if errors else "")

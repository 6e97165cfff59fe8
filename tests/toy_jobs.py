"""What jobs of tests do, in their own processes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from topwork_server import InvalidInput
from topwork_server.blocking_calls import Report

Arguments = Mapping[str, Any]


def add(arguments: Arguments, report: Report) -> dict[str, Any]:
    print("what a library prints does not disturb the answer")
    report(0.5, "adding")
    return {"sum": sum(arguments["numbers"])}


def surroundings(arguments: Arguments, report: Report) -> dict[str, Any]:
    return {
        "pid": os.getpid(),
        "niceness": os.getpriority(os.PRIO_PROCESS, 0),
        "session": os.getsid(0),
        "threads": os.environ["OMP_NUM_THREADS"],
        "stdin": sys.stdin.read(),
    }


def creep(arguments: Arguments, report: Report) -> dict[str, Any]:
    """For ever, after one hundredth in a fifth of a second."""
    report(0.5, "creeping")
    threading.Event().wait(0.2)
    report(0.51, "crept")
    threading.Event().wait()
    return {}


def hold(arguments: Arguments, report: Report) -> dict[str, Any]:
    """For ever. `deaf`: SIGTERM does not end it; `child`: with a process of its own; `pids`: a file to write both pids to;
    `scratch`: with a temporary file."""
    pids = [os.getpid()]
    if arguments.get("deaf"):
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if arguments.get("child"):
        pids.append(subprocess.Popen(["sleep", "1000"]).pid)
    if arguments.get("pids"):
        Path(arguments["pids"]).write_text(" ".join(map(str, pids)))
    if arguments.get("scratch"):
        tempfile.mkdtemp()
    report(0.25, "holding " + " ".join(map(str, pids)))
    threading.Event().wait()
    return {}


def publish_and_end(arguments: Arguments, report: Report) -> dict[str, Any]:
    """Writes a file, and never tells: killed at once, or `held` until it is stopped."""
    Path(arguments["file"]).write_text("published")
    report(0.9, f"holding {os.getpid()}")
    if not arguments.get("held"):
        os.kill(os.getpid(), signal.SIGKILL)
    threading.Event().wait()
    return {}


def until_told(arguments: Arguments, report: Report) -> dict[str, Any]:
    """Waits for a line in a FIFO and says it."""
    report(0.1, "waiting")
    return {"heard": Path(arguments["fifo"]).read_text()}


def chatter(arguments: Arguments, report: Report) -> dict[str, Any]:
    """More words than anybody reads, then silence: the last one arrives."""
    for i in range(100_001):
        report(i / 200_000, f"word {i}")
    return until_told(arguments, lambda fraction, message: None)


def nonsense(arguments: Arguments, report: Report) -> dict[str, Any]:
    report(float("nan"), "x" * 100_000)
    return {"result": object()}


def refuse(arguments: Arguments, report: Report) -> dict[str, Any]:
    raise InvalidInput("that cannot be built", remedy="ask for less")


def falls_short(arguments: Arguments, report: Report) -> dict[str, Any]:
    report(0.5, "the first step")
    report(0.9, "the last step")
    raise InvalidInput("too much")


def crash(arguments: Arguments, report: Report) -> dict[str, Any]:
    raise ZeroDivisionError("by zero")


def killed(arguments: Arguments, report: Report) -> dict[str, Any]:
    report(0.7, "nearly there")
    print("last words", file=sys.stderr, flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
    return {}


def leaves(arguments: Arguments, report: Report) -> dict[str, Any]:
    """Ends without a word, and leaves a process that holds its stderr; `pids`: a file to write its pid to."""
    left = subprocess.Popen(["sleep", "1000"])
    if arguments.get("pids"):
        Path(arguments["pids"]).write_text(str(left.pid))
    os._exit(7)


def environment(arguments: Arguments, report: Report) -> dict[str, Any]:
    return dict(os.environ)

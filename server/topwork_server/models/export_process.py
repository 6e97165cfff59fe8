"""Runs the export of an encoder in a process of its own, so that this one never has torch in memory, and that files that others
made have bounded memory and time, no network and no keys.

$TOPWORK_EXPORT_MEMORY (such as 16GiB, by default three quarters of what this process may have) and $TOPWORK_EXPORT_SECONDS (by
default 3600) bound it.
"""

from __future__ import annotations

import json
import logging
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from topwork_server import errors
from topwork_server.errors import ExportFailed, InvalidInput, TopworkError
from topwork_server.jobs.child_processes import ChildExit, ChildProcesses, python
from topwork_server.models import artifacts
from topwork_server.process_resources import usable_memory

log = logging.getLogger(__name__)

MEMORY, SECONDS = "TOPWORK_EXPORT_MEMORY", "TOPWORK_EXPORT_SECONDS"
LONGEST = 3600.0
_UNITS = {"": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30}


def run_export(home: Path, name: str, force: bool, children: ChildProcesses, proposed: Mapping[str, Any] | None = None) -> Path:
    """Export an encoder, its towers one after another, and return the first one's folder. `proposed` is its record where that is
    not on the disk. Errors are those of the process; ExportFailed where it ends without an answer."""
    memory, seconds = most_memory(), most_seconds()
    command = [*python("topwork_server.runtime.export", memory), "--home", str(home), name, *["--force"] * force]
    if proposed:
        command += ["--proposed", json.dumps(proposed)]
    try:
        return _outcome(name, children.run(command, seconds), "its whole traceback is above" if proposed else _traceback_of(name))
    except BaseException:
        artifacts.sweep(home)  # the process may have been killed
        raise


def most_memory() -> int:
    """Bytes of memory that an export may have. InvalidInput where the environment says no size."""
    text = os.environ.get(MEMORY, "")
    number, unit = re.fullmatch(r"(\d*)(.*)", text, re.DOTALL).groups()  # type: ignore[union-attr]
    if text and (unit not in _UNITS or not number or not int(number)):
        raise InvalidInput(f"${MEMORY} is {text!r}", remedy="set it to a size such as 16GiB, or unset it")
    return int(number) * _UNITS[unit] if text else usable_memory() * 3 // 4


def most_seconds() -> float:
    """Seconds that an export may take. InvalidInput where the environment says no number."""
    text = os.environ.get(SECONDS) or str(LONGEST)
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < float("inf"):
        raise InvalidInput(f"${SECONDS} is {text!r}", remedy=f"set it to a number above 0, or unset it ({LONGEST:.0f})")
    return seconds


def _traceback_of(name: str) -> str:
    return f"run `topwork export {name}` where the server runs: it prints the whole traceback"


def _outcome(name: str, child: ChildExit, remedy: str) -> Path:
    lines = child.out.splitlines()
    if child.status not in (0, 1) or not lines:
        last = " | ".join(child.err.strip().splitlines()[-3:])
        log.error("the export of %s %s:\n%s", name, child.how, child.err)
        if child.late:
            raise ExportFailed(
                f"the export of {name} took more than {most_seconds():.0f} s, and was ended",
                remedy=f"see that its files are what their publisher made; where they are, set ${SECONDS} higher",
            )
        if child.status < 0:  # libraries in C end with a signal where they get no memory
            remedy = f"it may have {most_memory() / (1 << 30):.1f} GiB of memory; where that is too little, set ${MEMORY} higher"
        raise ExportFailed(
            f"the export of {name} {child.how}: {last or 'it said nothing'}",
            remedy=remedy,
        )
    answer = json.loads(lines[-1])
    if "error" in answer:
        kind: type[TopworkError] = getattr(errors, answer["kind"], ExportFailed)
        raise kind(answer["error"], remedy=answer["remedy"])
    return Path(answer["folder"])

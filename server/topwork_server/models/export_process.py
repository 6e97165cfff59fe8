"""Runs the export of an encoder in a process of its own, so that this one never has torch in memory."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from topwork_server import errors
from topwork_server.errors import ExportFailed, TopworkError
from topwork_server.jobs.child_processes import ChildExit, ChildProcesses, python
from topwork_server.models import artifacts

log = logging.getLogger(__name__)


def run_export(home: Path, name: str, force: bool, children: ChildProcesses, proposed: Mapping[str, Any] | None = None) -> Path:
    """Export an encoder, its towers one after another, and return the first one's folder. `proposed` is its record where that is
    not on the disk. Errors are those of the process; ExportFailed where it ends without an answer."""
    command = [*python("topwork_server.runtime.export"), "--home", str(home), name, *["--force"] * force]
    if proposed:
        command += ["--proposed", json.dumps(proposed)]
    try:
        return _outcome(name, children.run(command), "its whole traceback is above" if proposed else _traceback_of(name))
    except BaseException:
        artifacts.sweep(home)  # the process may have been killed
        raise


def _traceback_of(name: str) -> str:
    return f"run `topwork export {name}` where the server runs: it prints the whole traceback"


def _outcome(name: str, child: ChildExit, remedy: str) -> Path:
    lines = child.out.splitlines()
    if child.status not in (0, 1) or not lines:
        last = " | ".join(child.err.strip().splitlines()[-3:])
        log.error("the export of %s %s:\n%s", name, child.how, child.err)
        raise ExportFailed(
            f"the export of {name} {child.how}: {last or 'it said nothing'}",
            remedy=remedy,
        )
    answer = json.loads(lines[-1])
    if "error" in answer:
        kind: type[TopworkError] = getattr(errors, answer["kind"], ExportFailed)
        raise kind(answer["error"], remedy=answer["remedy"])
    return Path(answer["folder"])

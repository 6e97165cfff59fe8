"""Runs pip, in a process that ends with this one, and reports what it downloads."""

from __future__ import annotations

import os
import subprocess
import threading
from collections.abc import Callable, Sequence
from pathlib import Path

from topwork_server.jobs.child_processes import python

#: Seconds that pip may take in all: 300 MB at 100 kB a second.
PATIENCE = 3600.0


def run_pip(arguments: Sequence[str], progress: Callable[[int, int], None], scratch: Path) -> str:
    """Run a command of pip, its temporary files in `scratch`, and return why it failed: "" where it did not.

    `progress` gets the bytes of all downloads that are done, and of those and the present one.
    """
    common = ["--no-input", "--disable-pip-version-check", "--progress-bar", "raw"]
    pipe = subprocess.PIPE
    with subprocess.Popen(
        [*python("pip"), *arguments, *common],
        stdin=pipe,  # its end tells pip that this process has died: see `parent_watch.py`
        stdout=pipe,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "TMPDIR": str(scratch)},
    ) as pip:
        timer = threading.Timer(PATIENCE, pip.kill)
        timer.start()
        try:
            complaints = _followed(pip, progress)
            late = pip.wait() < 0 and not timer.is_alive()
        except BaseException:
            pip.kill()
            raise
        finally:
            timer.cancel()
    if late:
        return f"pip took more than {PATIENCE:.0f} s"
    return (complaints[-1] if complaints else f"pip ended with status {pip.returncode}") if pip.returncode else ""


def _followed(pip: subprocess.Popen[str], progress: Callable[[int, int], None]) -> list[str]:
    """Report progress until pip writes no more, and return its errors, and why it had no connection."""
    before, complaints, broken = 0, [], ""
    assert pip.stdout is not None
    for line in pip.stdout:
        match line.split():
            case ["Progress", done, "of", total]:
                progress(before + int(done), before + int(total))
                before += int(total) if done == total else 0
            case ["ERROR:", *_]:
                complaints.append(line.strip().removeprefix("ERROR: "))
            case ["WARNING:", "Retrying", *_]:
                broken = f"; it has no connection: {line.strip().partition('broken by ')[2][:200]}"
    return [f"{complaint}{broken}" for complaint in complaints]

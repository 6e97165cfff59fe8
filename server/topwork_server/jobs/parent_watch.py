"""`python -m topwork_server.jobs.parent_watch MODULE ARGUMENTS`: a module as `python -m` runs it,
in a process that ends with its parent.

With `--confined-to=BYTES` before MODULE it has so much memory, and no network (`jobs.confinement`).

Its stdin is a pipe that the parent holds open: its end says that the parent has died, however it did. Then this process ends at
once, with those that it started, so that a lock that it holds is free.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import runpy
import signal
import sys
import threading

from topwork_server.jobs.confinement import confine

CONFINED = "--confined-to="
#: Of Linux's prctl: the signal that a process gets when its parent ends.
_PR_SET_PDEATHSIG = 1


def end_with_parent(pipe: int) -> None:
    """Block until the pipe ends, then end this process and those of its group."""
    while os.read(pipe, 1):
        pass
    if os.getpgrp() == os.getpid():
        os.killpg(0, signal.SIGKILL)
    os._exit(1)


def _be_killed_with_parent() -> None:
    """Ask the kernel to kill this process with its parent: no library that keeps Python's lock for seconds delays that."""
    with contextlib.suppress(AttributeError, OSError):
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def main() -> None:
    _be_killed_with_parent()
    del sys.argv[0]
    if sys.argv[0].startswith(CONFINED):
        confine(int(sys.argv.pop(0).removeprefix(CONFINED)))
    pipe = os.dup(0)
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    threading.Thread(target=end_with_parent, args=(pipe,), daemon=True).start()
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from topwork_server.errors import Unavailable
from topwork_server.jobs.child_processes import ChildProcesses, python

FOR_EVER = "import os; os.read(os.pipe()[0], 1)"


def test_how_it_ended_is_told() -> None:
    children = ChildProcesses()
    fine = children.run([sys.executable, "-c", "import sys; print('out'); print('err', file=sys.stderr)"])
    assert (fine.status, fine.out, fine.err) == (0, "out\n", "err\n")
    assert children.run([sys.executable, "-c", "raise SystemExit(3)"]).how == "ended with status 3"
    killed = children.run([sys.executable, "-c", "import os; os.kill(os.getpid(), 9)"])
    assert (killed.how, killed.late) == ("was killed by signal 9", False)
    late = children.run([sys.executable, "-c", FOR_EVER], seconds=0.2)
    assert (late.how, late.late) == ("took too long", True)


def test_closing_ends_those_that_run_and_starts_no_more() -> None:
    children, refused = ChildProcesses(), list[Unavailable]()

    def run() -> None:
        try:
            children.run([sys.executable, "-c", FOR_EVER])
        except Unavailable as error:
            refused.append(error)

    threads = [threading.Thread(target=run) for _ in range(3)]
    for thread in threads:
        thread.start()
    children.close()
    for thread in threads:
        thread.join(30)
    assert len(refused) == 3
    with pytest.raises(Unavailable, match="stopping"):
        children.run([sys.executable, "-c", ""])


def test_what_lies_in_the_working_directory_is_not_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "types.py").write_text("raise SystemExit('the wrong module')")
    monkeypatch.chdir(tmp_path)
    ended = ChildProcesses().run([*python("json.tool"), "--help"])
    assert (ended.status, ended.err) == (0, "")


HOLDS = "import fcntl, sys, threading; file = open(sys.argv[1], 'w'); fcntl.flock(file, fcntl.LOCK_EX)"
RUNS = """
import sys; from topwork_server.jobs.child_processes import ChildProcesses, python
ChildProcesses().run([*python('holds'), *sys.argv[1:]])
"""


def test_a_child_ends_with_its_parent_and_lets_go_of_its_lock(tmp_path: Path) -> None:
    """However the parent ends: a killed `topwork pull` leaves no export behind that keeps the next one waiting."""
    os.mkfifo(tmp_path / "told")
    (tmp_path / "holds.py").write_text(f"{HOLDS}; open(sys.argv[2], 'w').close(); threading.Event().wait()")
    command = [sys.executable, "-c", RUNS, str(tmp_path / "lock"), str(tmp_path / "told")]
    with subprocess.Popen(command, env={**os.environ, "PYTHONPATH": str(tmp_path)}) as parent:
        (tmp_path / "told").read_text()  # the child holds the lock
        with (tmp_path / "lock").open() as lock:
            with pytest.raises(BlockingIOError):
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            parent.kill()
            fcntl.flock(lock, fcntl.LOCK_EX)  # else this waits for ever

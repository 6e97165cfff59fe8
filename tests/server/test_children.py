from __future__ import annotations

import sys
import threading
from pathlib import Path

import pytest
from topwork_server.children import Children, python
from topwork_server.errors import Unavailable

FOR_EVER = "import os; os.read(os.pipe()[0], 1)"


def test_how_it_ended_is_told() -> None:
    children = Children()
    fine = children.run([sys.executable, "-c", "import sys; print('out'); print('err', file=sys.stderr)"])
    assert (fine.status, fine.out, fine.err) == (0, "out\n", "err\n")
    assert children.run([sys.executable, "-c", "raise SystemExit(3)"]).how == "ended with status 3"
    killed = children.run([sys.executable, "-c", "import os; os.kill(os.getpid(), 9)"])
    assert (killed.how, killed.late) == ("was killed by signal 9", False)
    late = children.run([sys.executable, "-c", FOR_EVER], seconds=0.2)
    assert (late.how, late.late) == ("took too long", True)


def test_closing_ends_those_that_run_and_starts_no_more() -> None:
    children, refused = Children(), list[Unavailable]()

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
    ended = Children().run([*python("json.tool"), "--help"])
    assert (ended.status, ended.err) == (0, "")

"""The lock of a home: one server, named to the second, let go however it ends."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from topwork_server import home_lock
from topwork_server.errors import StartError
from topwork_server.home_lock import Holder, HomeLock, holder

SERVER = """
import sys
from pathlib import Path
from topwork_server.home_lock import HomeLock

with HomeLock(Path(sys.argv[1])) as held:
    held.listening("127.0.0.1:1234")
    print("held", flush=True)
    sys.stdin.read()
"""


@contextmanager
def server(home: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process that holds the home until its stdin ends."""
    command = [sys.executable, "-c", SERVER, str(home)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        yield process


def refused(home: Path) -> StartError:
    with pytest.raises(StartError) as caught, HomeLock(home, patience=0):
        pass
    return caught.value


def test_the_second_server_is_told_of_the_first(tmp_path):
    with server(tmp_path) as first:
        error = refused(tmp_path)
        assert error.message == f"{tmp_path} is in use by the server with pid {first.pid} (listening on 127.0.0.1:1234)"
        assert "--home" in error.remedy
        assert holder(tmp_path) == Holder(first.pid, "127.0.0.1:1234")
        refused(tmp_path)  # asking changed nothing
    assert holder(tmp_path) is None
    with HomeLock(tmp_path):
        assert holder(tmp_path) == Holder(os.getpid())


def test_a_killed_server_is_no_obstacle(tmp_path):
    with server(tmp_path) as first:
        first.kill()
    assert str(first.pid) in (tmp_path / home_lock.NAME).read_text()
    with HomeLock(tmp_path, patience=0) as held:
        held.listening("a:1")
        assert refused(tmp_path).message.endswith(f"pid {os.getpid()} (listening on a:1)")


def test_a_server_that_is_about_to_end_is_waited_for(tmp_path, monkeypatch):
    with server(tmp_path) as first:
        pauses = []

        def pause(seconds: float) -> None:
            if not pauses:
                first.communicate("")
            pauses.append(seconds)

        monkeypatch.setattr("topwork_server.home_lock.time.sleep", pause)
        with HomeLock(tmp_path, patience=20):
            assert pauses


@pytest.mark.parametrize("content", [b"", b"{", b"[1]", b'{"pid": "x", "address": ""}', b"\xff" * 600])
def test_a_file_of_nonsense_is_no_obstacle(tmp_path, content):
    (tmp_path / home_lock.NAME).write_bytes(content)
    assert holder(tmp_path) is None
    with HomeLock(tmp_path):
        assert str(os.getpid()) in refused(tmp_path).message


def test_a_holder_that_could_not_write_its_pid(tmp_path, monkeypatch, caplog):
    def full(*arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "pwrite", full)
    with HomeLock(tmp_path):
        assert "No space left on device" in caplog.text
        assert refused(tmp_path).message == f"{tmp_path} is in use by another server"


def test_it_can_be_had_again(tmp_path):
    held = HomeLock(tmp_path)
    for _ in range(2):
        held.acquire()
        held.release()
        held.release()
    assert holder(tmp_path) is None


def test_children_do_not_inherit_it(tmp_path):
    with HomeLock(tmp_path):
        child = subprocess.Popen(["sleep", "1000"], close_fds=False)
    try:
        assert holder(tmp_path) is None
        with HomeLock(tmp_path, patience=0):
            pass
    finally:
        child.kill()
        child.wait()


def test_a_home_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").touch()
    assert "cannot be written" in refused(tmp_path / "file" / "home").message
    assert holder(tmp_path / "file" / "home") is None


def test_a_home_that_is_not_there_yet_is_made(tmp_path):
    with HomeLock(tmp_path / "new" / "home"):
        assert holder(tmp_path / "new" / "home") is not None

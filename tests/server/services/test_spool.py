"""spool.py: what is on disk, and when it is gone."""

from __future__ import annotations

import subprocess
import sys

import pytest
from topwork_server.errors import Overloaded
from topwork_server.services.uploads import UploadStore

LEAVE_ONE = """
import asyncio, os, sys
from pathlib import Path
from topwork_server.services.uploads import UploadStore
upload = UploadStore(Path(sys.argv[1]), 100).open()
asyncio.run(upload.write(b"abc"))
print(upload.path, flush=True)
sys.stdin.readline()
os._exit(9)
"""


async def test_a_sweep_deletes_what_the_dead_left_and_nothing_else(tmp_path):
    spool = UploadStore(tmp_path, 100)
    mine = spool.open()
    command = [sys.executable, "-c", LEAVE_ONE, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout.readline()
        assert len(list(tmp_path.glob("*.part"))) == 2
        assert spool.sweep() == 0  # both live
        other.communicate("\n")
    assert spool.sweep() == 1
    assert list(tmp_path.glob("*.part")) == [mine.path]
    mine.discard()
    mine.discard()
    assert list(tmp_path.glob("*.part")) == []


async def test_all_uploads_together_have_a_limit(tmp_path):
    spool = UploadStore(tmp_path, 10)
    uploads = [spool.open() for _ in range(5)]
    for upload in uploads[:4]:
        await upload.write(b"x" * 10)
    with pytest.raises(Overloaded, match="spool"):
        await uploads[4].write(b"x")
    uploads[0].discard()
    await uploads[4].write(b"x")
    for upload in uploads:
        upload.discard()
    assert spool.used == 0


async def test_a_full_disk_is_said(tmp_path):
    upload = UploadStore(tmp_path, 10).open()
    upload._file.close()
    upload._file = open("/dev/full", "wb", buffering=0)  # noqa: SIM115
    with pytest.raises(Overloaded, match="No space left"):
        await upload.write(b"abc")
    upload.discard()

"""spool.py: what is on disk, and when it is gone."""

from __future__ import annotations

import pytest
from topwork_server.errors import DiskFull, Overloaded
from topwork_server.services.uploads import UploadStore


async def test_an_upload_lies_on_disk_until_it_is_discarded_or_swept(tmp_path):
    spool = UploadStore(tmp_path, 100)
    mine, other = spool.open(), spool.open()
    assert len(list(tmp_path.iterdir())) == 2
    mine.discard()
    mine.discard()
    assert list(tmp_path.iterdir()) == [other.path]
    spool.sweep()
    assert list(tmp_path.iterdir()) == []
    other.discard()


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
    with pytest.raises(DiskFull, match=r"disk is full.*free some room"):
        await upload.write(b"abc")
    upload.discard()

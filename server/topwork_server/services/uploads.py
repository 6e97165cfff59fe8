"""Large videos, recordings and corpora on their way in: chunks go to a file on disk, so that memory holds one chunk at a time.

Owns $TOPWORK_HOME/spool, which is emptied at the start: one server has the home.
"""

from __future__ import annotations

import asyncio
import tempfile
from pathlib import Path

from topwork_server import atomic_store
from topwork_server.errors import InvalidInput, Overloaded, TooLarge


class UploadStore:
    """The uploads of one server; together they may have as many bytes as four of the largest allowed."""

    def __init__(self, folder: Path, limit: int) -> None:
        self.folder = folder
        self.limit = limit
        self.used = 0

    def sweep(self) -> None:
        """Delete what a killed server left."""
        atomic_store.sweep(self.folder)

    def open(self, what: str = "video or recording") -> Upload:
        self.folder.mkdir(parents=True, exist_ok=True)
        return Upload(self, what)

    def take(self, size: int, before: int, what: str) -> None:
        """Account for `size` more bytes of an upload that has `before`."""
        if before + size > self.limit:
            raise TooLarge(f"a {what} of more than {self.limit} bytes", remedy="send it in pieces, or raise --max-video-bytes")
        if self.used + size > 4 * self.limit:
            raise Overloaded("other callers' uploads fill the server's spool", remedy="come back later")
        self.used += size


class Upload:
    """One video, recording or corpus. `discard` deletes its file, and is safe to call at any time and again."""

    def __init__(self, spool: UploadStore, what: str) -> None:
        self._spool, self._what = spool, what
        self._file = tempfile.NamedTemporaryFile(  # noqa: SIM115
            dir=spool.folder, prefix=".", suffix=atomic_store.PART, delete=False, buffering=0
        )
        self._writing: asyncio.Future[int] | None = None
        self.path = Path(self._file.name)
        self.size = 0

    async def write(self, chunk: bytes) -> None:
        """Raises TooLarge past the limit, DiskFull where the disk is full."""
        if not chunk:
            raise InvalidInput(f"a chunk of a {self._what} has no bytes", remedy="send no empty chunks")
        self._spool.take(len(chunk), self.size, self._what)
        self.size += len(chunk)
        self._writing = asyncio.ensure_future(asyncio.to_thread(_write_all, self._file, chunk))
        with atomic_store.disk_errors(f"the {self._what} on the server", "send it again"):
            # A caller that leaves must not close the file under the thread that writes to it.
            await asyncio.shield(self._writing)

    def discard(self) -> None:
        if self._writing and not self._writing.done():
            self._writing.add_done_callback(self._delete)
        else:
            self._delete()

    async def abandon(self) -> None:
        """Discard, and wait for a write that is under way."""
        self.discard()
        if self._writing:
            await asyncio.wait({self._writing})

    def _delete(self, written: asyncio.Future[int] | None = None) -> None:
        if written and not written.cancelled():
            written.exception()  # else asyncio reports it as never retrieved
        if not self._file.closed:
            self._spool.used -= self.size
            self.path.unlink(missing_ok=True)
            self._file.close()


def _write_all(file: tempfile._TemporaryFileWrapper[bytes], chunk: bytes) -> int:
    view = memoryview(chunk)
    while view:
        view = view[file.write(view) :]
    return len(chunk)

"""A head on its way into a file: parts as they come, from the first on after a break."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from topwork._files import save_features
from topwork._ops.progress_bar import Advance, Progress, reporting
from topwork._transport.calls import ClientState, Steps, StreamCall
from topwork._transport.methods import EXPORT_HEAD
from topwork._transport.streams import DownloadStream
from topwork.errors import InvalidInput, TopworkError
from topwork.v1 import heads_pb2


@dataclass
class HeadDownload:
    """`total` is None before the first part."""

    request: heads_pb2.GetHeadRequest
    file: IO[bytes]
    advance: Advance
    done: int = 0
    total: int | None = None
    description: dict[str, Any] = field(default_factory=dict)

    def ask(self) -> heads_pb2.GetHeadRequest | None:
        """Nothing more where all has come; else all of it again."""
        if self.done == self.total:
            return None
        self.file.seek(0)
        self.file.truncate()
        self.advance(-self.done, self.total)
        self.done = 0
        return self.request

    def receive(self, reply: heads_pb2.ExportHeadResponse, _: None) -> None:
        if reply.description:
            self.description = json.loads(reply.description)
        self.total = reply.total or self.total
        self.file.write(reply.part)
        self.done += len(reply.part)
        self.advance(len(reply.part), self.total)


def exported(
    session: ClientState, name: str, path: str | os.PathLike[str], progress: Progress, timeout: float | None
) -> Steps[dict[str, Any]]:
    """See `export_head`."""
    target = Path(path)
    if not target.absolute().parent.is_dir():
        raise InvalidInput(f"there is no folder {target.absolute().parent}", remedy="create it, or write elsewhere")
    if target.is_dir():
        raise InvalidInput(f"{target} is a folder", remedy="name a file")
    with save_features.whole(target) as file, reporting(progress, None, name) as advance:
        download = HeadDownload(heads_pb2.GetHeadRequest(name=name), file, advance)
        tail = DownloadStream(session, download.ask, session.timeout if timeout is None else timeout)
        yield StreamCall(EXPORT_HEAD, tail, download.receive)
        if download.done != download.total:
            raise TopworkError(f"{session.target} sent {download.done:,} of {download.total or 0:,} bytes of {name}")
    return download.description

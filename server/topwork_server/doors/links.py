"""Pictures, videos and recordings by URL: those of a request are fetched together, and held until it is answered."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from topwork._display.excerpts import excerpt

from topwork_server.blocking_calls import together
from topwork_server.doors.media import Link
from topwork_server.errors import InvalidInput, TooLarge, TopworkError
from topwork_server.services.message_budget import MAX_MESSAGE, CountedBytes, MessageBudget
from topwork_server.services.uploads import Upload, UploadStore
from topwork_server.types import AudioItem, ImageItem, Item, Modality, VideoItem

if TYPE_CHECKING:
    from topwork_server.access.fetch_policy import RemoteUrl
    from topwork_server.access.url_fetcher import RemoteFile, UrlFetcher

#: Files that are fetched at a time for one request.
AT_A_TIME = 8
#: Bytes of a video or recording that are written to disk at a time.
BLOCK = 1 << 20


class LinkReader:
    """Makes items of links. `fetcher` is None where the server fetches nothing. Pictures of one request may have as many bytes
    together as a message, and count in the same budget; videos and recordings go to the spool, as those that come in chunks."""

    def __init__(self, fetcher: UrlFetcher | None, spool: UploadStore, budget: MessageBudget) -> None:
        self._fetcher, self._spool, self._budget = fetcher, spool, budget

    @asynccontextmanager
    async def read(self, items: Sequence[Item | Link]) -> AsyncIterator[Sequence[Item]]:
        """The items, with what was fetched in the place of links; it is gone when the context ends. An error blames the item."""
        links = {position: (item, self._checked(item, position)) for position, item in enumerate(items) if isinstance(item, Link)}
        fetch = _Fetch(self._fetcher, self._spool, self._budget) if links and self._fetcher else None
        try:
            work = [fetch.item(link, url, position) for position, (link, url) in links.items()] if fetch else []
            fetched = dict(zip(links, await together(work), strict=True)) if work else {}
            yield [fetched[i] if isinstance(item, Link) else item for i, item in enumerate(items)]
        finally:
            if fetch:
                fetch.release()

    def _checked(self, link: Link, position: int) -> RemoteUrl:
        if self._fetcher is None:
            raise InvalidInput(
                f"{excerpt(link.url)}: this server fetches no URLs",
                remedy="send the file's own bytes as a data URI, or serve with --allow-fetch HOST",
                item=position,
            )
        try:
            return self._fetcher.check(link.url)
        except InvalidInput as error:
            raise error.at(position) from None


class _Fetch:
    """The fetching for one request, and what it brought, until `release`."""

    def __init__(self, fetcher: UrlFetcher, spool: UploadStore, budget: MessageBudget) -> None:
        self._fetcher, self._spool = fetcher, spool
        self._turn, self._bytes, self._uploads = asyncio.Semaphore(AT_A_TIME), CountedBytes(budget), list[Upload]()

    def release(self) -> None:
        """Delete the files, and give the room of the bytes back."""
        self._bytes.release()
        for upload in self._uploads:
            upload.discard()

    async def item(self, link: Link, url: RemoteUrl, position: int) -> Item:
        try:
            async with self._turn, self._fetcher.open(url) as file:
                match _modality(link, file):
                    case Modality.IMAGE:
                        return ImageItem(await self._in_memory(file))
                    case Modality.VIDEO:
                        return VideoItem(await self._on_disk(file))
                return AudioItem(await self._on_disk(file))
        except TopworkError as error:
            raise error.at(position) from None

    async def _in_memory(self, file: RemoteFile) -> bytes:
        self._check_size(file, file.length or 0)
        data = bytearray()
        async for chunk in file.chunks():
            self._check_size(file, len(chunk))
            await self._bytes.add(len(chunk))
            data += chunk
        return bytes(data)

    def _check_size(self, file: RemoteFile, size: int) -> None:
        if self._bytes.size + size > MAX_MESSAGE:
            raise TooLarge(
                f"pictures of more than {MAX_MESSAGE:,} bytes, with that of {file.url.place}", remedy="send fewer or smaller ones"
            )

    async def _on_disk(self, file: RemoteFile) -> Path:
        if (file.length or 0) > self._spool.limit:
            raise TooLarge(f"{file.length:,} bytes at {file.url.place}", remedy=f"this server takes {self._spool.limit:,}")
        upload, block = self._spool.open(), bytearray()
        self._uploads.append(upload)
        async for chunk in file.chunks():
            block += chunk
            if len(block) >= BLOCK:
                await upload.write(bytes(block))
                block.clear()
        if block:
            await upload.write(bytes(block))
        return upload.path


def _modality(link: Link, file: RemoteFile) -> Modality:
    """The modality that a file is taken for: as the request says, and the type of the file, where they say it."""
    wanted, sent = link.modality, file.modality
    if wanted and sent and wanted is not sent:
        raise InvalidInput(
            f"{file.url.place} sent a file of {sent}, not of {wanted}", remedy=f"name the URL of a file of {wanted}"
        )
    if found := wanted or sent:
        return found
    raise InvalidInput(f"{file.url.place} does not tell what it sent", remedy="set `modality`")

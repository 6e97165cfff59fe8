"""LightlyStudio's protocol of remote embedders, version 1.0, by its package lightly-studio-serve
(github.com/lightly-ai/lightly-studio): describe an encoder, and embed texts, pictures or videos with it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import msgspec
from starlette.responses import Response

from topwork_server.doors import http_errors
from topwork_server.doors.calls import FINGERPRINT, Call
from topwork_server.doors.embedding import Embedder, one_row_each
from topwork_server.doors.file_parts import KIND, files_of
from topwork_server.doors.json_calls import BRIEF, Operation
from topwork_server.doors.json_reply import json_reply
from topwork_server.doors.media import KINDS
from topwork_server.errors import InvalidInput, NotReady, TooLarge, TopworkError, Unavailable
from topwork_server.features import TapRows
from topwork_server.services.encoders import OtherFingerprint
from topwork_server.services.in_threads import in_thread_if
from topwork_server.services.message_budget import MAX_MESSAGE
from topwork_server.types import Item, Modality, TextItem

VERSION = "1.0"
#: Items of a request that the protocol knows of: its own server reads no more parts.
MOST_ITEMS = 999
CAPABILITIES: Mapping[Modality, str] = {
    Modality.TEXT: "text",
    Modality.IMAGE: "image_bytes",
    Modality.VIDEO: "video_bytes",
}


class LightlyTextsRequest(msgspec.Struct):
    """Texts to embed."""

    texts: list[str]


class LightlyFilesRequest(msgspec.Struct):
    """Files to embed, a part each, with a file name."""

    files: Annotated[list[Any], msgspec.Meta(extra_json_schema={"items": {"type": "string", "format": "binary"}})]


@dataclass(frozen=True, slots=True)
class Space:
    """The space that an encoder embeds into: that of its usual tap."""

    encoder: str
    fingerprint: str
    dimension: int
    modalities: Sequence[Modality]


class LightlyDoor:
    """Answers the routes under /v1/describe and /v1/embed. `why_not_ready` tells why an encoder would not answer now; "" where it
    would."""

    def __init__(self, embedder: Embedder, most_items: int, why_not_ready: Callable[[str], Awaitable[str]]) -> None:
        self._embedder, self._most = embedder, min(most_items, MOST_ITEMS)
        self._why_not_ready = why_not_ready

    def operations(self) -> list[Operation]:
        embed, files = "Lightly.Embed", LightlyFilesRequest
        return [
            Operation("/v1/describe", "Lightly.Describe", "Describe the encoder", self.describe),
            Operation("/v1/embed/texts", embed, "Embed texts", self.texts, LightlyTextsRequest),
            Operation("/v1/embed/images/bytes", embed, "Embed files of pictures", self.images, files, True, KIND),
            Operation("/v1/embed/videos/bytes", embed, "Embed files of videos", self.videos, files, True, KIND),
        ]

    async def describe(self, call: Call[None]) -> Response:
        space = await self._space(call)
        body = {
            "protocol_version": VERSION,
            "space_key": space.fingerprint,
            "dimension": space.dimension,
            "ready": not await self._why_not_ready(space.encoder),
            "capabilities": [CAPABILITIES[modality] for modality in space.modalities],
            "limits": {"max_batch_size": self._most, "max_request_bytes": MAX_MESSAGE},
        }
        return json_reply(body, headers={FINGERPRINT: space.fingerprint})

    async def texts(self, call: Call[LightlyTextsRequest]) -> Response:
        items = [TextItem(text) for text in call.body.texts]
        encoder = self._embedder.name(call)
        truncate = {"truncate": True} if await self._embedder.takes(encoder, "truncate") else {}
        return await self._embedded(call, Modality.TEXT, items, truncate)

    async def images(self, call: Call[bytes]) -> Response:
        return await self._embedded(call, Modality.IMAGE, await self._files(call, Modality.IMAGE))

    async def videos(self, call: Call[bytes]) -> Response:
        return await self._embedded(call, Modality.VIDEO, await self._files(call, Modality.VIDEO))

    async def _files(self, call: Call[bytes], modality: Modality) -> list[Item]:
        kind = call.headers.get("content-type", "")
        files = await in_thread_if(len(call.body) > BRIEF, files_of, call.body, kind, "files", self._most)
        if not files:
            raise InvalidInput("there are no files", remedy="send each file as a part `files` with a file name")
        return [KINDS[modality](data) for data in files]

    async def _embedded(
        self, call: Call[Any], modality: Modality, items: Sequence[Item], options: Mapping[str, Any] | None = None
    ) -> Response:
        """Rows of the items that can be read, and their positions; the protocol leaves the others out."""
        space = await self._space(call, [modality])
        if len(items) > self._most:
            raise TooLarge(f"{len(items):,} items", remedy=f"send at most {self._most:,} at a time")
        if not items:
            return _reply(space.fingerprint, space.dimension, [], [])
        result = await self._embedder.embed(call, space.encoder, items, options=options, skip_bad_items=True)
        if fault := next((error for error in result.failures.values() if not isinstance(error, InvalidInput)), None):
            raise fault
        rows = one_row_each(result)
        kept = [position for position in range(len(items)) if position not in result.failures]
        return await in_thread_if(rows.rows.nbytes > BRIEF, _reply_of, rows, kept)

    async def _space(self, call: Call[Any], wanted: Collection[Modality] = tuple(CAPABILITIES)) -> Space:
        """Where the encoder embeds to, as far as it is known without loading it. InvalidInput where it reads nothing of what is
        wanted; Unavailable before it is exported."""
        entry = await self._embedder.entry(self._embedder.name(call))
        spec = entry.spec
        modalities = [modality for modality in spec.modalities if modality in wanted]
        if not modalities:
            reads = " and ".join(spec.modalities)
            raise InvalidInput(f"{spec.name} reads {reads}", remedy=f"name an encoder that reads {' or '.join(wanted)}")
        tap = entry.manifest.tap(spec.default_tap) if entry.manifest else None
        if tap is None:
            raise Unavailable(f"{spec.name} is not ready", remedy=entry.detail or f"run `topwork pull {spec.name}`")
        return Space(spec.name, tap.fingerprint, tap.tap.dim, modalities)


def error_form(error: TopworkError) -> Response:
    """{"detail": ...}; 503 while the encoder is not ready, as the protocol has it."""
    waits = isinstance(error, NotReady) and not isinstance(error, OtherFingerprint)
    status = 503 if waits else http_errors.status(error)
    return json_reply({"detail": str(error)}, status, http_errors.headers(error))


def _reply_of(rows: TapRows, kept: list[int]) -> Response:
    return _reply(rows.tap.fingerprint, rows.tap.tap.dim, kept, rows.rows)


def _reply(fingerprint: str, dimension: int, kept: list[int], rows: Any) -> Response:
    body = {"space_key": fingerprint, "dimension": dimension, "kept_indices": kept, "embeddings": rows}
    return json_reply(body, headers={FINGERPRINT: fingerprint})

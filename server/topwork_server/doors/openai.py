"""OpenAI's embeddings and models (platform.openai.com/docs/api-reference/embeddings), with what vLLM, Infinity, Jina and NIM add.

Rows have unit length, as OpenAI's have, unless `normalize` is false.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import grpc
import msgspec
import numpy as np
import orjson
from starlette.responses import Response

from topwork_server.doors import http_errors
from topwork_server.doors.calls import FINGERPRINT, Call
from topwork_server.doors.embedding import Embedder, one_row_each
from topwork_server.doors.json_calls import Operation
from topwork_server.doors.json_reply import json_reply
from topwork_server.doors.media import Link, is_data_uri, linked_item_of
from topwork_server.doors.text_inputs import ROLES, as_list, dimensions, each, token_ids
from topwork_server.doors.typed_rows import EmbeddingType, base64_rows, typed
from topwork_server.errors import InvalidInput, TopworkError
from topwork_server.features import EmbedResult
from topwork_server.inference.output_format import OutputFormat, RowType, format_rows
from topwork_server.models.catalog import Catalog
from topwork_server.models.catalog_entry import CatalogEntry
from topwork_server.models.chunk_taps import CHUNKS
from topwork_server.services.encoders import readable_entries
from topwork_server.services.in_threads import in_thread_if
from topwork_server.types import Array, Item, Modality, TextItem

#: Inputs of one request, as OpenAI has it.
MOST_INPUTS = 2048
#: Numbers in a reply that are formatted on the event loop.
BRIEF = 1 << 14


class ImageUrl(msgspec.Struct):
    """The place of a picture: a data URI, or a URL that may be fetched."""

    url: str


class Part(msgspec.Struct):
    """A part of a message: a text or a picture."""

    type: Literal["text", "image_url"]
    text: str = ""
    image_url: ImageUrl | None = None


class ChatMessage(msgspec.Struct):
    """A message as chats have them, of one part."""

    content: str | list[Part]
    role: str = "user"


class JinaInput(msgspec.Struct):
    """A text, or a picture as a data URI, in base64, or at a URL that may be fetched."""

    text: str | None = None
    image: str | None = None


class EmbeddingsRequest(msgspec.Struct):
    """`input` is a text, a list of texts, or token ids of the encoder's own tokenizer; data URIs are pictures, videos and
    recordings where the encoder reads those. `tap`, `options` and `normalize` are Topwork's; from `task` on the fields are
    Jina's, and `input_type` is NIM's."""

    input: str | list[str | int | list[int] | JinaInput] | None = None
    messages: list[ChatMessage] | None = None
    model: str = ""
    dimensions: int | None = None
    encoding_format: Literal["float", "base64", "bytes", "bytes_only"] = "float"
    embed_dtype: Literal["float32", "float16"] = "float32"
    user: str = ""
    modality: Modality | None = None
    tap: str = ""
    options: dict[str, Any] = msgspec.field(default_factory=dict)
    normalize: bool = True
    task: Literal["", "retrieval.query", "retrieval.passage", "text-matching", "classification", "separation"] = ""
    input_type: Literal["", "query", "passage", "document", "search_query", "search_document"] = ""
    embedding_type: EmbeddingType | None = None
    normalized: bool | None = None
    truncate: bool | None = None
    late_chunking: bool = False


class OpenAiDoor:
    """Answers /v1/embeddings and /v1/models."""

    def __init__(self, embedder: Embedder, catalog: Catalog) -> None:
        self._embedder, self._catalog = embedder, catalog

    def operations(self) -> list[Operation]:
        return [
            Operation("/v1/embeddings", "OpenAI.Embeddings", "Embed texts or pictures", self.embeddings, EmbeddingsRequest),
            Operation("/embeddings", "OpenAI.Embeddings", "Embed texts or pictures", self.embeddings, EmbeddingsRequest),
            Operation("/v1/models", "OpenAI.Models", "List encoders", self.models),
            Operation("/v1/models/{name:path}", "OpenAI.Model", "Describe an encoder", self.model),
        ]

    async def embeddings(self, call: Call[EmbeddingsRequest]) -> Response:
        body = call.body
        encoder = self._embedder.name(call, body.model)
        items, tap = _items(body, await self._embedder.modalities(encoder)), body.tap
        if body.late_chunking:
            items, tap = [_joined(items)], tap or CHUNKS
        cuts = body.truncate and await self._embedder.takes(encoder, "truncate")
        options, role = {**({"truncate": True} if cuts else {}), **body.options}, ROLES.get(body.task or body.input_type)
        result = await self._embedder.embed(call, encoder, items, tap=tap, options=options, role=role)
        normalize = body.normalize if body.normalized is None else body.normalized
        wanted = OutputFormat(RowType(body.embed_dtype), normalize, dimensions(body.dimensions))
        rows = result.taps[0].rows if body.late_chunking else one_row_each(result).rows
        return await in_thread_if(rows.size > BRIEF, _reply, body, encoder, result, format_rows(rows, wanted).values)

    async def models(self, call: Call[None]) -> Response:
        entries = await asyncio.to_thread(readable_entries, self._catalog)
        return json_reply({"object": "list", "data": [_model(entry) for entry in entries if entry.manifest]})

    async def model(self, call: Call[None]) -> Response:
        return json_reply(_model(await self._embedder.entry(call.path["name"])))


def error_form(error: TopworkError) -> Response:
    """{"error": {message, type, param, code}}, which the client's exceptions show."""
    status = http_errors.status(error)
    kind = "invalid_request_error" if status < 500 else "server_error"
    code = "model_not_found" if error.code is grpc.StatusCode.NOT_FOUND else error.reason
    body = {"error": {"message": str(error), "type": kind, "param": None, "code": code}}
    return json_reply(body, status, http_errors.headers(error))


def _items(body: EmbeddingsRequest, reads: Sequence[Modality]) -> list[Item | Link]:
    if (body.input is None) == (body.messages is None):
        raise InvalidInput("there is no input" if body.input is None else "input and messages are both set", remedy="set one")
    given = [_part(message) for message in body.messages or ()] if body.input is None else as_list(body.input)
    if not given or len(given) > MOST_INPUTS:
        raise InvalidInput(f"{len(given)} inputs", remedy=f"send 1 to {MOST_INPUTS:,}")
    return each(given, lambda one: _item(one, body.modality, reads))


def _part(message: ChatMessage) -> str | Part:
    if isinstance(message.content, str):
        return message.content
    if len(message.content) != 1:
        raise InvalidInput(f"a message of {len(message.content)} parts", remedy="send each text and each picture as a message")
    return message.content[0]


def _item(given: str | list[int] | Part | JinaInput, modality: Modality | None, reads: Sequence[Modality]) -> Item | Link:
    match given:
        case Part(type="image_url", image_url=place):
            return linked_item_of(place.url if place else "", Modality.IMAGE)
        case Part():
            return TextItem(given.text)
        case JinaInput(str(text), None):
            return TextItem(text)
        case JinaInput(None, str(image)):
            return linked_item_of(image, Modality.IMAGE)
        case JinaInput():
            raise InvalidInput("an input has not one of text and image", remedy="set one of them")
        case list():
            return token_ids(given)
        case str() if modality not in (None, Modality.TEXT):
            return linked_item_of(given, modality)
        case str() if Modality.TEXT not in reads or (len(reads) > 1 and is_data_uri(given)):
            return linked_item_of(given)
    return TextItem(given)


def _joined(items: Sequence[Item | Link]) -> TextItem:
    """Join texts, with a blank between, as one text of which each is a chunk."""
    texts, chunks, start = list[str](), list[tuple[int, int]](), 0
    for position, item in enumerate(items):
        if not isinstance(item, TextItem) or not item.text.strip():
            what = "is empty" if isinstance(item, TextItem) else "is no text"
            raise InvalidInput(f"the input {what}, and late_chunking joins texts", remedy="send texts alone", item=position)
        texts.append(item.text)
        chunks.append((start, start + len(item.text)))
        start += len(item.text) + 1
    return TextItem(" ".join(texts), chunks=tuple(chunks))


def _reply(body: EmbeddingsRequest, encoder: str, result: EmbedResult, rows: Array) -> Response:
    usage = {"prompt_tokens": result.cost, "total_tokens": result.cost}
    headers = {FINGERPRINT: result.taps[0].tap.fingerprint}
    if body.encoding_format.startswith("bytes"):
        return _bytes_reply(body, encoder, rows, usage, headers)
    if body.encoding_format == "base64" and body.embedding_type is None:
        rendered: list[Any] = base64_rows(rows)
    else:
        rendered = typed(rows.astype(np.float32, copy=False), body.embedding_type or "float")
    data = [{"object": "embedding", "index": i, "embedding": row} for i, row in enumerate(rendered)]
    return json_reply({"object": "list", "data": data, "model": encoder, "usage": usage}, headers=headers)


def _bytes_reply(
    body: EmbeddingsRequest, encoder: str, rows: Array, usage: Mapping[str, int], headers: dict[str, str]
) -> Response:
    """The rows one after another; the header `metadata` says where each is."""
    if body.encoding_format == "bytes":
        size = rows.shape[1] * rows.itemsize
        described = {"object": "embedding", "embed_dtype": body.embed_dtype, "endianness": "little", "shape": [rows.shape[1]]}
        data = [{"index": i, "start": i * size, "end": (i + 1) * size, **described} for i in range(len(rows))]
        headers["metadata"] = orjson.dumps({"created": int(time.time()), "model": encoder, "data": data, "usage": usage}).decode()
    return Response(rows.tobytes(), headers=headers, media_type="application/octet-stream")


def _model(entry: CatalogEntry) -> dict[str, Any]:
    """OpenAI's fields, and what Topwork knows of an encoder that is ready."""
    found: dict[str, Any] = {"id": entry.spec.name, "object": "model", "created": 0, "owned_by": entry.owner}
    if entry.folder and entry.manifest:
        tap = entry.manifest.tap(entry.spec.default_tap)
        with contextlib.suppress(OSError):  # its folder is damaged: other verbs tell
            found["created"] = int(entry.folder.stat().st_mtime)
        found |= {"modalities": entry.spec.modalities, "license": entry.spec.license}
        found |= {"dimensions": tap.tap.dim, "fingerprint": tap.fingerprint} if tap else {}
    return found

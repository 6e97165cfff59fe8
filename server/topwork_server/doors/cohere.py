"""Cohere's embeddings (docs.cohere.com/reference/embed), version 2: rows of unit length, in several types at once."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from typing import Any, Literal

import msgspec
from starlette.responses import Response

from topwork_server.doors import http_errors
from topwork_server.doors.calls import FINGERPRINT, Call
from topwork_server.doors.embedding import Embedder, one_row_each
from topwork_server.doors.json_calls import Operation
from topwork_server.doors.json_reply import json_reply
from topwork_server.doors.media import Link, linked_item_of
from topwork_server.doors.openai import BRIEF, MOST_INPUTS, Part
from topwork_server.doors.text_inputs import ROLES, dimensions, each
from topwork_server.doors.typed_rows import EmbeddingType, typed
from topwork_server.errors import InvalidInput, TopworkError
from topwork_server.features import EmbedResult
from topwork_server.inference.output_format import OutputFormat, RowType, format_rows
from topwork_server.services.in_threads import in_thread_if
from topwork_server.types import Item, Modality, TextItem

InputType = Literal["search_document", "search_query", "classification", "clustering", "image"]


class EmbedInput(msgspec.Struct):
    """An input of one part."""

    content: list[Part]


class CohereEmbedRequest(msgspec.Struct):
    """One of `texts`, `images` (data URIs, or URLs that may be fetched) and `inputs` is set; `tap` and `options` are ours."""

    model: str = ""
    input_type: InputType | None = None
    texts: list[str] | None = None
    images: list[str] | None = None
    inputs: list[EmbedInput] | None = None
    output_dimension: int | None = None
    embedding_types: list[EmbeddingType] = msgspec.field(default_factory=lambda: ["float"])
    truncate: Literal["NONE", "START", "END"] = "END"
    max_tokens: int | None = None
    tap: str = ""
    options: dict[str, Any] = msgspec.field(default_factory=dict)


class CohereDoor:
    """Answers /v2/embed."""

    def __init__(self, embedder: Embedder) -> None:
        self._embedder = embedder

    def operations(self) -> list[Operation]:
        return [Operation("/v2/embed", "Cohere.Embed", "Embed texts or pictures", self.embed, CohereEmbedRequest)]

    async def embed(self, call: Call[CohereEmbedRequest]) -> Response:
        body = call.body
        encoder, items = self._embedder.name(call, body.model), _items(body)
        options = {**await self._truncation(encoder, body.truncate), **body.options}
        role = ROLES.get(body.input_type or "")
        result = await self._embedder.embed(call, encoder, items, tap=body.tap, options=options, role=role)
        wanted = OutputFormat(RowType.FLOAT32, True, dimensions(body.output_dimension))
        size = one_row_each(result).rows.size * len(body.embedding_types)
        return await in_thread_if(size > BRIEF, _reply, body, items, result, wanted)

    async def _truncation(self, encoder: str, truncate: str) -> dict[str, Any]:
        """The encoder's option that cuts texts which are too long, where it has it."""
        if truncate == "START":
            raise InvalidInput("texts are cut at their end here, not at their start", remedy="set `truncate` to END or NONE")
        return {"truncate": True} if truncate == "END" and await self._embedder.takes(encoder, "truncate") else {}


def error_form(error: TopworkError) -> Response:
    """{"message": ...}, as Cohere has it."""
    return json_reply({"message": str(error)}, http_errors.status(error), http_errors.headers(error))


def _items(body: CohereEmbedRequest) -> list[Item | Link]:
    given = [one for one in (body.texts, body.images, body.inputs) if one is not None]
    if len(given) != 1:
        what = "there are no inputs" if not given else "more than one of texts, images and inputs is set"
        raise InvalidInput(what, remedy="set `texts`, `images` or `inputs`")
    if body.max_tokens is not None:
        raise InvalidInput("max_tokens is not known here", remedy="leave it out: texts are cut at the limit of the encoder")
    if not body.embedding_types:
        raise InvalidInput("embedding_types names none", remedy="name float, int8, uint8, binary, ubinary or base64")
    if not 0 < len(given[0]) <= MOST_INPUTS:
        raise InvalidInput(f"{len(given[0])} inputs", remedy=f"send 1 to {MOST_INPUTS:,}")
    if body.texts is not None:
        return [TextItem(text) for text in body.texts]
    return each(given[0], _item)


def _item(given: Any) -> Item | Link:
    if isinstance(given, str):
        return linked_item_of(given, Modality.IMAGE)
    if len(given.content) != 1:
        raise InvalidInput(f"an input of {len(given.content)} parts", remedy="send each text and each picture as an input")
    [part] = given.content
    if part.type == "text":
        return TextItem(part.text)
    return linked_item_of(part.image_url.url if part.image_url else "", Modality.IMAGE)


def _reply(body: CohereEmbedRequest, items: Sequence[Item | Link], result: EmbedResult, wanted: OutputFormat) -> Response:
    rows = format_rows(one_row_each(result).rows, wanted).values
    texts = [item.text for item in items if isinstance(item, TextItem)]
    billed = {"input_tokens": result.cost} if texts else {"images": len(items)}
    reply = {
        "response_type": "embeddings_by_type",
        "id": str(uuid.uuid4()),
        "embeddings": {kind: typed(rows, kind) for kind in dict.fromkeys(body.embedding_types)},
        "texts": texts,
        "meta": {"api_version": {"version": "2"}, "billed_units": billed},
    }
    return json_reply(reply, headers={FINGERPRINT: result.taps[0].tap.fingerprint})

"""LlamaIndex: an encoder of the server as an embedding, of texts and of pictures."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

from topwork.client import Client
from topwork.integrations._encoder import RemoteEncoder
from topwork.integrations._extras import needs

with needs("llama-index-core", "llama-index"):
    from llama_index.core.base.embeddings.base import BaseEmbedding, Embedding
    from llama_index.core.bridge.pydantic import Field
    from llama_index.core.embeddings.multi_modal_base import MultiModalEmbedding


class TopworkEmbedding(BaseEmbedding):
    """Embeds texts with an encoder of the server, named `model_name`; queries and texts each with its prompt for them.

    Errors are those of the SDK: NotFound for the encoder, Unavailable without a server, InvalidInput with the text's position in
    its batch.
    """

    tap: str | None = Field(default=None, description="One with a row for each text; None: the encoder's default.")
    options: dict[str, Any] | None = Field(default=None, description="What the encoder declares.")
    query_prompt: str | None = Field(
        default=None, description='Put before queries, in the place of the encoder\'s own prompt for them; "" for none at all.'
    )
    document_prompt: str | None = Field(default=None, description="Put before texts to be found, likewise.")
    normalize: bool = Field(default=False, description="Rows of unit length.")
    dimensions: int = Field(default=0, description="Keep the first so many numbers of a row; 0 keeps all.")
    required_fingerprint: str | None = Field(default=None, description="Refuse (NotReady) rows of another fingerprint.")
    server: str | Client | None = Field(
        default=None, description='"HOST:PORT", or an open Client; None: $TOPWORK_SERVER, or 127.0.0.1:50051.'
    )

    @classmethod
    def class_name(cls) -> str:
        return cls.__name__

    @property
    def fingerprint(self) -> str:
        """The fingerprint of the rows, asked from the server: rows compare only where it is equal."""
        return self._remote().known_fingerprint()

    def _remote(self) -> RemoteEncoder:
        return RemoteEncoder(
            self.model_name,
            self.server,
            self.tap,
            self.options,
            self.query_prompt,
            self.document_prompt,
            self.normalize,
            self.dimensions,
            self.required_fingerprint,
        )

    def _get_query_embedding(self, query: str) -> Embedding:
        return self._remote().lists([query], "query")[0]

    def _get_text_embedding(self, text: str) -> Embedding:
        return self._get_text_embeddings([text])[0]

    def _get_text_embeddings(self, texts: list[str]) -> list[Embedding]:
        return self._remote().lists(texts, "document")

    # One connection, which is safe to use from many threads, serves all event loops.
    async def _aget_query_embedding(self, query: str) -> Embedding:
        return await asyncio.to_thread(self._get_query_embedding, query)

    async def _aget_text_embedding(self, text: str) -> Embedding:
        return await asyncio.to_thread(self._get_text_embedding, text)

    async def _aget_text_embeddings(self, texts: list[str]) -> list[Embedding]:
        return await asyncio.to_thread(self._get_text_embeddings, texts)


class TopworkMultiModalEmbedding(TopworkEmbedding, MultiModalEmbedding):
    """Embeds pictures, too: paths or open files. The encoder reads both, or pictures alone."""

    def _get_image_embedding(self, img_file_path: Any) -> Embedding:
        return self._get_image_embeddings([img_file_path])[0]

    def _get_image_embeddings(self, img_file_paths: Sequence[Any]) -> list[Embedding]:
        pictures = [one.getvalue() if isinstance(one, BytesIO) else Path(one) for one in img_file_paths]
        return self._remote().lists(pictures, "document")

    async def _aget_image_embedding(self, img_file_path: Any) -> Embedding:
        return await asyncio.to_thread(self._get_image_embedding, img_file_path)

    async def _aget_image_embeddings(self, img_file_paths: Sequence[Any]) -> list[Embedding]:
        return await asyncio.to_thread(self._get_image_embeddings, img_file_paths)

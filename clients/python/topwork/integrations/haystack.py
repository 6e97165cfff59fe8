"""Haystack: an encoder of the server as embedders of texts, of documents, and of documents that are pictures."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Self

from topwork.errors import InvalidInput
from topwork.integrations._encoder import RemoteEncoder, Role, Server
from topwork.integrations._extras import needs

with needs("haystack-ai", "haystack"):
    from haystack import Document, component, default_from_dict, default_to_dict


class _Embedder:
    """An encoder of the server, and how its rows are asked for.

    encoder      its name on the server
    tap          one with a row for each text; None: the encoder's default
    options      what the encoder declares, such as {"truncate": True}
    role         "query" or "document": the prompt that the encoder has for it goes before each; None: options choose
    normalize    rows of unit length
    dimensions   keep the first so many numbers of a row; 0 keeps all
    fingerprint  refuse (NotReady) where the server's rows have another
    server       "HOST:PORT", or an open Client; None: $TOPWORK_SERVER, or 127.0.0.1:50051
    """

    def __init__(
        self,
        encoder: str,
        *,
        tap: str | None = None,
        options: dict[str, Any] | None = None,
        role: Role | None = "document",
        normalize: bool = False,
        dimensions: int = 0,
        fingerprint: str | None = None,
        server: Server = None,
    ) -> None:
        self.encoder = encoder
        self.tap = tap
        self.options = options
        self.role = role
        self.normalize = normalize
        self.dimensions = dimensions
        self.fingerprint = fingerprint
        self.server = server

    def warm_up(self) -> None:
        """Ask the server for the encoder. Raises NotFound where it has none of that name, Unavailable without a server."""
        self._remote().known_fingerprint()

    def known_fingerprint(self) -> str:
        """The fingerprint of the rows, asked from the server: rows compare only where it is equal."""
        return self._remote().known_fingerprint()

    def to_dict(self) -> dict[str, Any]:
        """The settings, for a pipeline in YAML. Raises InvalidInput where `server` is an open client."""
        if self.server is not None and not isinstance(self.server, str):
            raise InvalidInput("an open client cannot be written down", remedy='pass server="HOST:PORT", or $TOPWORK_SERVER')
        return default_to_dict(self, **{name: getattr(self, name) for name in _settings(type(self))})  # type: ignore[no-any-return]

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Self:
        """Make one of the settings that `to_dict` wrote."""
        return default_from_dict(cls, data)  # type: ignore[no-any-return]

    def _remote(self) -> RemoteEncoder:
        return RemoteEncoder(
            self.encoder,
            self.server,
            self.tap,
            self.options,
            normalize=self.normalize,
            dimensions=self.dimensions,
            fingerprint=self.fingerprint,
        )

    def _rows(self, items: Sequence[Any]) -> list[list[float]]:
        return self._remote().lists(items, self.role)


@component
class TopworkTextEmbedder(_Embedder):
    """Embeds one text, a query unless `role` says otherwise. Its other settings are those of TopworkDocumentEmbedder, without its
    last two."""

    def __init__(
        self,
        encoder: str,
        *,
        tap: str | None = None,
        options: dict[str, Any] | None = None,
        role: Role | None = "query",
        normalize: bool = False,
        dimensions: int = 0,
        fingerprint: str | None = None,
        server: Server = None,
    ) -> None:
        _Embedder.__init__(  # not super(): `component` makes another class of this one
            self,
            encoder,
            tap=tap,
            options=options,
            role=role,
            normalize=normalize,
            dimensions=dimensions,
            fingerprint=fingerprint,
            server=server,
        )

    @component.output_types(embedding=list[float])
    def run(self, text: str) -> dict[str, Any]:
        """The text's row. Raises TypeError for what is no text, and a TopworkError where the server refuses it."""
        if not isinstance(text, str):
            raise TypeError(f"TopworkTextEmbedder embeds a text, not a {type(text).__name__}: use TopworkDocumentEmbedder")
        return {"embedding": self._rows([text])[0]}

    @component.output_types(embedding=list[float])
    async def run_async(self, text: str) -> dict[str, Any]:
        """As `run`, beside the event loop."""
        return await asyncio.to_thread(self.run, text)


class _DocumentsEmbedder(_Embedder):
    """What embeds documents: copies of them get their rows."""

    def _items(self, documents: Sequence[Document]) -> list[Any]:
        raise NotImplementedError

    def _embedded(self, documents: Sequence[Document]) -> dict[str, Any]:
        if not isinstance(documents, list) or not all(isinstance(document, Document) for document in documents):
            raise TypeError(f"{type(self).__name__} embeds a list of Documents: use TopworkTextEmbedder for a text")
        rows = self._rows(self._items(documents))
        return {"documents": [replace(document, embedding=row) for document, row in zip(documents, rows, strict=True)]}


@component
class TopworkDocumentEmbedder(_DocumentsEmbedder):
    """Embeds documents by their content.

    encoder               its name on the server
    tap                   one with a row for each text; None: the encoder's default
    options               what the encoder declares, such as {"truncate": True}
    role                  "document" or "query": the prompt that the encoder has for it goes before each; None: options choose
    normalize             rows of unit length
    dimensions            keep the first so many numbers of a row; 0 keeps all
    fingerprint           refuse (NotReady) where the server's rows have another
    server                "HOST:PORT", or an open Client; None: $TOPWORK_SERVER, or 127.0.0.1:50051
    meta_fields_to_embed  fields of `meta` whose values are put before the content, with `embedding_separator` between them
    """

    def __init__(
        self,
        encoder: str,
        *,
        tap: str | None = None,
        options: dict[str, Any] | None = None,
        role: Role | None = "document",
        normalize: bool = False,
        dimensions: int = 0,
        fingerprint: str | None = None,
        server: Server = None,
        meta_fields_to_embed: list[str] | None = None,
        embedding_separator: str = "\n",
    ) -> None:
        _Embedder.__init__(  # not super(): `component` makes another class of this one
            self,
            encoder,
            tap=tap,
            options=options,
            role=role,
            normalize=normalize,
            dimensions=dimensions,
            fingerprint=fingerprint,
            server=server,
        )
        self.meta_fields_to_embed = meta_fields_to_embed
        self.embedding_separator = embedding_separator

    @component.output_types(documents=list[Document])
    def run(self, documents: list[Document]) -> dict[str, Any]:
        """Copies of the documents with their rows. Raises TypeError for what are none; a TopworkError has the position of
        one that the server refuses."""
        return self._embedded(documents)

    @component.output_types(documents=list[Document])
    async def run_async(self, documents: list[Document]) -> dict[str, Any]:
        """As `run`, beside the event loop."""
        return await asyncio.to_thread(self.run, documents)

    def _items(self, documents: Sequence[Document]) -> list[Any]:
        return [self.embedding_separator.join([*self._values(document), document.content or ""]) for document in documents]

    def _values(self, document: Document) -> list[str]:
        return [str(document.meta[name]) for name in self.meta_fields_to_embed or () if document.meta.get(name) is not None]


@component
class TopworkDocumentImageEmbedder(_DocumentsEmbedder):
    """Embeds documents by their pictures: their `blob`, or else the file that `meta["file_path"]` names. Its settings are
    those of TopworkDocumentEmbedder, without the last two."""

    @component.output_types(documents=list[Document])
    def run(self, documents: list[Document]) -> dict[str, Any]:
        """Copies of the documents with their rows. Raises TypeError for what are none; a TopworkError has the position of
        one that has no picture, or that the server refuses."""
        return self._embedded(documents)

    @component.output_types(documents=list[Document])
    async def run_async(self, documents: list[Document]) -> dict[str, Any]:
        """As `run`, beside the event loop."""
        return await asyncio.to_thread(self.run, documents)

    def _items(self, documents: Sequence[Document]) -> list[Any]:
        return [_picture(document, item) for item, document in enumerate(documents)]


def _picture(document: Document, item: int) -> Any:
    if document.blob is not None:
        return document.blob.data
    if path := document.meta.get("file_path"):
        return Path(path)
    raise InvalidInput(f"document {document.id} has no picture", remedy='give it a blob, or meta["file_path"]', item=item)


def _settings(kind: type) -> list[str]:
    """The names of its parameters, under which it keeps them."""
    return [name for name in inspect.signature(kind.__init__).parameters if name != "self"]  # type: ignore[misc]

"""LangChain: an encoder of the server as embeddings, and a feature set as a vector store."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Any, Self

import numpy as np

from topwork.client import Client
from topwork.errors import InvalidInput, NotFound
from topwork.integrations._documents import PLAIN, RELEVANCE, filter_sql, most_diverse
from topwork.integrations._encoder import RemoteEncoder, Server, client_of
from topwork.integrations._extras import needs
from topwork.search_results import Hits

with needs("langchain-core", "langchain"):
    from langchain_core.documents import Document
    from langchain_core.embeddings import Embeddings
    from langchain_core.vectorstores import VectorStore

#: Columns of a document's text, and of its whole metadata as JSON.
COLUMNS = TEXT, METADATA = "page_content", "metadata_json"
#: Names that no metadata gets a column of.
RESERVED = frozenset({"id", *COLUMNS})


class TopworkEmbeddings(Embeddings):
    """Embeds texts with an encoder of the server, queries and documents each with the prompt that it has for them.

    encoder          its name on the server
    tap              one with a row for each text; None: the encoder's default
    options          what the encoder declares, such as {"truncate": True}
    query_prompt     put before queries, in the place of the encoder's own prompt for them; "" for none at all
    document_prompt  put before documents, likewise
    normalize        rows of unit length
    dimensions       keep the first so many numbers of a row; 0 keeps all
    fingerprint      refuse (NotReady) where the server's rows have another
    server           "HOST:PORT", or an open Client; None: $TOPWORK_SERVER, or 127.0.0.1:50051

    Errors are those of the SDK: NotFound for the encoder, Unavailable without a server, InvalidInput with the text's position.
    """

    def __init__(
        self,
        encoder: str,
        *,
        tap: str | None = None,
        options: Mapping[str, Any] | None = None,
        query_prompt: str | None = None,
        document_prompt: str | None = None,
        normalize: bool = False,
        dimensions: int = 0,
        fingerprint: str | None = None,
        server: Server = None,
    ) -> None:
        self.remote = RemoteEncoder(
            encoder, server, tap, options, query_prompt, document_prompt, normalize, dimensions, fingerprint
        )

    @property
    def encoder(self) -> str:
        return self.remote.encoder

    @property
    def fingerprint(self) -> str:
        """The fingerprint of the rows, asked from the server: rows compare only where it is equal."""
        return self.remote.known_fingerprint()

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        """Rows of texts to be found, in their order."""
        return self.remote.lists(texts, "document")

    def embed_query(self, text: str) -> list[float]:
        """The row of a text that searches."""
        return self.remote.lists([text], "query")[0]

    def __repr__(self) -> str:
        return f"TopworkEmbeddings({self.encoder!r})"


class TopworkVectorStore(VectorStore):
    """Documents in a feature set of the server, which is made by the first that are added.

    name        of the set
    embedding   an encoder's name, or TopworkEmbeddings: the server embeds documents and queries, each as its model prompts them.
                Other embeddings are computed here, and kept as vectors. None: the encoder that the set was made with
    columns     metadata to filter by; None: all that is a bool, a number or a string. All metadata of a document is kept, as JSON
    server      "HOST:PORT", or an open Client; None: $TOPWORK_SERVER, or 127.0.0.1:50051

    `filter` of searches is SQL, such as "year > 2020 AND source IN ('a', 'b')", or a dict of values that are to be equal (of a
    list: one of them). Scores are cosines, unless the set has an index of another metric. An index (`client.create_index(name)`)
    makes searches of large sets fast.
    """

    def __init__(
        self,
        name: str,
        embedding: Embeddings | str | None = None,
        *,
        columns: Sequence[str] | None = None,
        server: Server = None,
    ) -> None:
        self.name, self.columns = name, columns
        self._embedding = TopworkEmbeddings(embedding, server=server) if isinstance(embedding, str) else embedding
        own = self._embedding.remote.server if isinstance(self._embedding, TopworkEmbeddings) else None
        self._server = own if server is None else server

    @property
    def client(self) -> Client:
        return client_of(self._server)

    @property
    def embeddings(self) -> Embeddings | None:
        return self._embedding

    @property
    def fingerprint(self) -> str:
        """The fingerprint of the set's rows; empty for vectors of other embeddings. Raises NotFound before the first document."""
        return self.client.set(self.name).taps[0].fingerprint

    @classmethod
    def from_texts(
        cls,
        texts: list[str],
        embedding: Embeddings | str,
        metadatas: list[dict[str, Any]] | None = None,
        *,
        ids: list[str] | None = None,
        name: str = "langchain",
        **settings: Any,
    ) -> Self:
        """A store of these texts; `settings` are those of the class."""
        store = cls(name, embedding, **settings)
        store.add_texts(texts, metadatas, ids=ids)
        return store

    def add_documents(self, documents: list[Document], **settings: Any) -> list[str]:
        """Add documents, or replace those of the same ids. Ids: of `ids=`, else their own, else new ones. They are returned."""
        ids = settings.pop("ids", None) or [document.id for document in documents]
        return self.add_texts(
            [document.page_content for document in documents],
            [document.metadata for document in documents],
            ids=ids,
            **settings,
        )

    def add_texts(
        self,
        texts: Iterable[str],
        metadatas: Sequence[dict[str, Any]] | None = None,
        *,
        ids: Sequence[str | None] | None = None,
        **settings: Any,
    ) -> list[str]:
        """Add texts, or replace those of the same ids; `settings` are those of `Client.write`, such as priority. The ids."""
        texts = list(texts)
        metadatas = [{} for _ in texts] if metadatas is None else metadatas
        given: Sequence[str | None] = [None] * len(texts) if ids is None else ids
        for what, values in (("metadatas", metadatas), ("ids", given)):
            if len(values) != len(texts):
                raise InvalidInput(f"{len(values)} {what} for {len(texts)} texts", remedy="pass one for each text, or none")
        chosen = [str(uuid.uuid4()) if id is None else id for id in given]
        if texts:
            rows = [self._row(text, values, item) for item, (text, values) in enumerate(zip(texts, metadatas, strict=True))]
            self.client.write(self.name, ids=chosen, metadata=rows, **self._written(texts), **settings)
        return chosen

    def delete(self, ids: list[str] | None = None, **settings: Any) -> bool:
        """Delete the documents of these ids, of which some may not be there; all documents for None."""
        with suppress(NotFound):  # of a set that is not made yet
            self.client.delete(self.name, ids, where="id IS NOT NULL" if ids is None else "")
        return True

    def get_by_ids(self, ids: Sequence[str], /) -> list[Document]:
        """The documents of these ids that are there, in the order of the ids."""
        try:
            rows = self.client.read(self.name, taps=[], columns=COLUMNS, ids=list(ids)) if ids else None
        except NotFound:
            rows = None
        if rows is None:
            return []
        found = dict(zip(rows.ids, map(_document, rows.ids, rows.metadata[TEXT], rows.metadata[METADATA]), strict=True))
        return [found[id] for id in ids if id in found]

    def similarity_search(self, query: str, k: int = 4, filter: Any = None, **settings: Any) -> list[Document]:
        """The `k` documents nearest to a text; `settings` are those of `Client.search`, such as exact or effort."""
        return [document for document, _ in self.similarity_search_with_score(query, k, filter, **settings)]

    def similarity_search_with_score(
        self, query: str, k: int = 4, filter: Any = None, **settings: Any
    ) -> list[tuple[Document, float]]:
        """The documents with their scores: cosines or inner products (larger is nearer), or distances of an index of "l2"."""
        return _scored(self._hits(query, None, k, filter, settings))

    def similarity_search_by_vector(
        self, embedding: list[float], k: int = 4, filter: Any = None, **settings: Any
    ) -> list[Document]:
        """The `k` documents nearest to a vector."""
        return [document for document, _ in _scored(self._hits(None, embedding, k, filter, settings))]

    def max_marginal_relevance_search(
        self, query: str, k: int = 4, fetch_k: int = 20, lambda_mult: float = 0.5, filter: Any = None, **settings: Any
    ) -> list[Document]:
        """Of the `fetch_k` nearest documents `k` that are near the text (lambda_mult 1) and far from each other (0)."""
        return _diverse(self._hits(query, None, fetch_k, filter, {**settings, "with_vectors": True}), k, lambda_mult)

    def max_marginal_relevance_search_by_vector(
        self,
        embedding: list[float],
        k: int = 4,
        fetch_k: int = 20,
        lambda_mult: float = 0.5,
        filter: Any = None,
        **settings: Any,
    ) -> list[Document]:
        """As `max_marginal_relevance_search`, of a vector."""
        return _diverse(self._hits(None, embedding, fetch_k, filter, {**settings, "with_vectors": True}), k, lambda_mult)

    def _similarity_search_with_relevance_scores(
        self, query: str, k: int = 4, filter: Any = None, **settings: Any
    ) -> list[tuple[Document, float]]:
        hits = self._hits(query, None, k, filter, settings)
        relevance = RELEVANCE[hits.metric] if hits is not None else float
        return [(document, relevance(score)) for document, score in _scored(hits)]

    async def _asimilarity_search_with_relevance_scores(
        self, query: str, k: int = 4, **settings: Any
    ) -> list[tuple[Document, float]]:
        from langchain_core.runnables.config import run_in_executor

        found = await run_in_executor(None, self._similarity_search_with_relevance_scores, query, k, **settings)
        return list(found)

    def _hits(
        self, query: str | None, vector: Sequence[float] | None, k: int, filter: Any, settings: Mapping[str, Any]
    ) -> Hits | None:
        """Search; None where no document was added yet."""
        if query is not None and self._embedding is not None and self._remote() is None:
            vector = self._embedding.embed_query(query)
        what: dict[str, Any] = {"query": query} if vector is None else {"vectors": np.asarray(vector, np.float32)}
        try:
            where = filter_sql(filter)
            found: Hits | list[Hits] = self.client.search(self.name, k=k, where=where, columns=COLUMNS, **what, **settings)
        except NotFound:
            if self.name in {info.name for info in self.client.sets()}:
                raise
            return None
        return found[0] if isinstance(found, list) else found

    def _remote(self) -> RemoteEncoder | None:
        """The encoder that embeds on the server; None where rows are made here and kept as vectors."""
        remote = self._embedding.remote if isinstance(self._embedding, TopworkEmbeddings) else None
        return None if remote is None or remote.dimensions or remote.has_prompts else remote

    def _written(self, texts: list[str]) -> dict[str, Any]:
        """What `Client.write` is passed of texts."""
        remote = self._remote()
        if remote is not None:
            return {
                "items": texts,
                "encoder": remote.encoder,
                "taps": [remote.tap] if remote.tap else None,
                "options": remote.options,
            }
        if self._embedding is None:
            return {"items": texts}
        return {"vectors": np.asarray(self._embedding.embed_documents(texts), np.float32)}

    def _row(self, text: str, metadata: Mapping[str, Any], item: int) -> dict[str, Any]:
        """The columns of a document. Raises InvalidInput for metadata that JSON does not have."""
        try:
            whole = json.dumps(metadata, allow_nan=False)
        except (TypeError, ValueError) as error:
            raise InvalidInput(f"metadata: {error}", remedy="pass what JSON has", item=item) from None
        wanted = metadata if self.columns is None else self.columns
        plain = {
            name: metadata[name]
            for name in wanted
            if name not in RESERVED and name.isidentifier() and isinstance(metadata.get(name), PLAIN)
        }
        return {**plain, TEXT: text, METADATA: whole}


def _document(id: str, text: str | None, metadata: str | None) -> Document:
    return Document(id=id, page_content=text or "", metadata=json.loads(metadata or "{}"))


def _scored(hits: Hits | None) -> list[tuple[Document, float]]:
    if hits is None:
        return []
    documents = map(_document, hits.ids, hits.metadata[TEXT], hits.metadata[METADATA])
    return list(zip(documents, map(float, hits.scores), strict=True))


def _diverse(hits: Hits | None, k: int, balance: float) -> list[Document]:
    """Take the best by maximal marginal relevance (Carbonell and Goldstein, 1998), one after another."""
    if hits is None:
        return []
    found = _scored(hits)
    return [found[i][0] for i in most_diverse(hits, k, balance)]

"""LangChain's embeddings and vector store, on a real server; its own standard tests are in test_langchain_standard.py."""

from __future__ import annotations

import asyncio
import pickle
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import topwork
from langchain_core.documents import Document
from langchain_core.embeddings import DeterministicFakeEmbedding
from topwork.integrations.langchain import TopworkEmbeddings, TopworkVectorStore

TEXTS = ["aaab", "aabb", "xyz", "xxyz"]
METADATAS: list[dict[str, Any]] = [
    {"source": "it's", "page": 1, "nested": {"deep": [1, 2]}},
    {"source": "b", "page": 2},
    {"source": "b", "page": 3, "id": 7},
    {},
]
IDS = ["1", "2", "3", "4"]


@pytest.fixture(autouse=True)
def usual_server(server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOPWORK_SERVER", server)


@pytest.fixture
def name(client: topwork.Client) -> Iterator[str]:
    name = f"documents-{uuid.uuid4().hex[:8]}"
    yield name
    if name in {info.name for info in client.sets()}:
        client.drop_set(name)


@pytest.fixture(params=["encoder", "embeddings", "vectors"])
def store(request: pytest.FixtureRequest, name: str) -> TopworkVectorStore:
    kinds: dict[str, Any] = {
        "encoder": "letters",
        "embeddings": TopworkEmbeddings("letters", options={"repeat": 2}, dimensions=6),
        "vectors": DeterministicFakeEmbedding(size=6),
    }
    return TopworkVectorStore.from_texts(TEXTS, kinds[request.param], METADATAS, ids=IDS, name=name)


def test_documents_and_queries_are_embedded_with_the_settings(client: topwork.Client) -> None:
    embeddings = TopworkEmbeddings("letters", options={"repeat": 2}, normalize=True)
    assert embeddings.embed_documents([]) == []
    expected = client.embed("letters", ["AB", "xY"], options={"repeat": 2}, normalize=True).rows
    np.testing.assert_allclose(embeddings.embed_documents(["AB", "xY"]), expected, atol=1e-6)
    expected = client.embed("letters", ["ab"], options={"repeat": 2}, normalize=True).rows[0]
    np.testing.assert_allclose(embeddings.embed_query("AB"), expected, atol=1e-6)
    np.testing.assert_allclose(asyncio.run(embeddings.aembed_query("AB")), expected, atol=1e-6)
    again = pickle.loads(pickle.dumps(embeddings))
    assert again.embed_query("AB") == embeddings.embed_query("AB")
    assert embeddings.fingerprint == client.embed("letters", ["a"]).fingerprint


def test_documents_and_queries_have_the_prompts_of_their_roles(client: topwork.Client, name: str) -> None:
    expected = {mark: client.embed("marked", ["ab"], options={"prompt": mark}).rows[0].tolist() for mark in ("?", "!", "#")}
    embeddings = TopworkEmbeddings("marked")
    assert (embeddings.embed_query("ab"), embeddings.embed_documents(["ab"])) == (expected["?"], [expected["!"]])
    own = TopworkEmbeddings("marked", query_prompt="#")
    assert (own.embed_query("ab"), own.embed_documents(["ab"])) == (expected["#"], [expected["!"]])
    bare = TopworkEmbeddings("marked", query_prompt="#", document_prompt="")
    assert bare.embed_documents(["ab"]) == client.embed("marked", ["ab"], options={"prompt_name": "none"}).rows.tolist()
    for embeddings in (own, TopworkEmbeddings("marked")):  # vectors made here, and rows that the server makes
        store = TopworkVectorStore.from_texts(["ab"], embeddings, ids=["1"], name=name)
        [(_, score)] = store.similarity_search_with_score("ab", k=1)
        rows = np.array([expected["#" if embeddings is own else "?"], expected["!"]])
        assert score == pytest.approx(rows[0] @ rows[1] / np.prod(np.linalg.norm(rows, axis=1)), abs=1e-5)
        client.drop_set(name)
    with pytest.raises(topwork.InvalidInput, match=r"prompt.*contradict"):
        TopworkEmbeddings("marked", options={"prompt": "#"}).embed_query("ab")


@pytest.mark.parametrize(
    ("embeddings", "error", "word"),
    [
        (TopworkEmbeddings("nosuch"), topwork.NotFound, "nosuch"),
        (TopworkEmbeddings("letters", server="127.0.0.1:1"), topwork.Unavailable, "127.0.0.1:1"),
        (TopworkEmbeddings("letters", tap="letters"), topwork.InvalidInput, "token"),
        (TopworkEmbeddings("letters", fingerprint="0" * 64), topwork.NotReady, "fingerprint"),
        (TopworkEmbeddings("letters", options={"nosuch": 1}), topwork.InvalidInput, "nosuch"),
        (TopworkEmbeddings("letters", query_prompt="q: "), topwork.InvalidInput, "prompt"),
    ],
)
def test_what_cannot_be_embedded_is_refused(embeddings: Any, error: type[Exception], word: str) -> None:
    with pytest.raises(error, match=word):
        embeddings.embed_query("a")


def test_metadata_comes_back_as_it_was(store: TopworkVectorStore) -> None:
    expected = [Document(id=i, page_content=t, metadata=m) for i, t, m in zip(IDS, TEXTS, METADATAS, strict=True)]
    assert store.get_by_ids(["3", "nosuch", "1"]) == [expected[2], expected[0]]
    assert store.similarity_search("xyz", k=1) == [expected[2]]
    [(document, score)] = store.similarity_search_with_score("aaab", k=1)
    assert (document, score) == (expected[0], pytest.approx(1, abs=1e-5))


def test_searches_are_filtered(store: TopworkVectorStore) -> None:
    def found(filter: Any) -> list[str | None]:
        return sorted(document.id or "" for document in store.similarity_search("a", k=4, filter=filter))

    assert found(None) == IDS
    assert found("page > 1") == found({"source": "b"}) == ["2", "3"]
    assert found({"source": "it's", "page": 1}) == ["1"]
    assert found({"page": [1, 3]}) == ["1", "3"]
    with pytest.raises(topwork.InvalidInput, match="nosuch"):
        found({"nosuch": 1})
    for filter in ({"page": {"$gt": 1}}, lambda document: True):
        with pytest.raises(topwork.InvalidInput, match="pass SQL"):
            found(filter)


def test_searches_by_vectors_and_by_scores(store: TopworkVectorStore) -> None:
    assert store.embeddings is not None
    [row] = store.embeddings.embed_documents(["xyz"])
    assert [document.id for document in store.similarity_search_by_vector(row, k=1)] == ["3"]
    found = store.similarity_search_with_relevance_scores("xyz", k=4)
    assert found[0][0].id == "3"
    assert all(0 <= score <= 1 for _, score in found)
    assert [score for _, score in found] == sorted((score for _, score in found), reverse=True)
    retriever = store.as_retriever(search_type="similarity_score_threshold", search_kwargs={"score_threshold": 0.999})
    assert [document.id for document in retriever.invoke("xyz")] == ["3"]
    assert [document.id for document in asyncio.run(retriever.ainvoke("xyz"))] == ["3"]


def test_diverse_results(name: str) -> None:
    store = TopworkVectorStore.from_texts(["aaaaab", "aaaaba", "aaxxyz"], "letters", ids=IDS[:3], name=name)
    assert {document.id for document in store.similarity_search("aaaaab", k=2)} == {"1", "2"}
    diverse = store.max_marginal_relevance_search("aaaaab", k=2, lambda_mult=0.1)
    assert diverse[0].id in {"1", "2"}
    assert diverse[1].id == "3"
    assert store.embeddings is not None
    row = store.embeddings.embed_query("aaaaab")
    assert store.max_marginal_relevance_search_by_vector(row, k=2, lambda_mult=0.1) == diverse
    assert len(store.max_marginal_relevance_search("a", k=9)) == 3


def test_the_server_embeds_in_their_roles(name: str) -> None:
    store = TopworkVectorStore.from_texts(["AAB", "aab"], "letters", ids=["large", "small"], name=name)
    [(document, score)] = store.similarity_search_with_score("AAB", k=1)  # queries are in small letters on this server
    assert (document.id, score) == ("small", pytest.approx(1, abs=1e-5))


def test_documents_are_replaced_and_deleted(store: TopworkVectorStore, client: topwork.Client) -> None:
    again = pickle.loads(pickle.dumps(store))
    assert again.add_documents([Document(id="1", page_content="qqq", metadata={"new": True})]) == ["1"]
    assert store.get_by_ids(["1"]) == [Document(id="1", page_content="qqq", metadata={"new": True})]
    assert store.delete(["1", "nosuch"])
    assert store.get_by_ids(["1"]) == []
    assert store.delete()
    assert client.set(store.name).items == 0
    assert store.similarity_search("a") == []


def test_a_store_of_a_set_that_is_there_needs_no_embedding(name: str, client: topwork.Client) -> None:
    TopworkVectorStore.from_texts(TEXTS, "letters", ids=IDS, name=name, columns=["page"])
    store = TopworkVectorStore(name, columns=["page"], server=client)
    [id] = store.add_texts(["zzz"], [{"page": 4, "source": "s"}])
    assert [document.id for document in store.similarity_search("zzz", k=1, filter="page = 4")] == [id]
    assert set(client.set(name).columns) == {"page", "page_content", "metadata_json"}
    assert store.fingerprint == client.embed("letters", ["a"]).fingerprint


@pytest.mark.parametrize(
    ("add", "error", "word"),
    [
        (lambda store: store.add_texts(["a", "b"], [{}]), topwork.InvalidInput, "1 metadatas for 2 texts"),
        (lambda store: store.add_texts(["a", "b"], ids=["1"]), topwork.InvalidInput, "1 ids for 2 texts"),
        (lambda store: store.add_texts(["a", "b"], [{}, {"at": object()}]), topwork.InvalidInput, "item 1: metadata"),
        (lambda store: store.add_texts(["a", ""]), topwork.InvalidInput, "item 1: the text is empty"),
        (lambda store: TopworkVectorStore(store.name, "nosuch").add_texts(["a"]), topwork.NotFound, "nosuch"),
        (lambda store: TopworkVectorStore(store.name).add_texts(["a"]), topwork.InvalidInput, "no set"),
        (lambda store: TopworkVectorStore("x", server="127.0.0.1:1").similarity_search("a"), topwork.Unavailable, ":1"),
    ],
)
def test_what_cannot_be_added_is_refused(name: str, add: Callable[[Any], Any], error: type[Exception], word: str) -> None:
    store = TopworkVectorStore(name, "letters")
    assert store.similarity_search("a") == []
    with pytest.raises(error, match=word):
        add(store)


def test_what_the_page_shows_runs(shown: Callable[[str], dict[str, Any]], client: topwork.Client) -> None:
    found = shown("langchain")
    assert len(found["documents"]) == 1
    client.drop_set(found["store"].name)

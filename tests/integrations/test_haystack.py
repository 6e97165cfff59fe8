"""Haystack's embedders, on a real server."""

from __future__ import annotations

import asyncio
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import topwork
from haystack import Document, Pipeline
from haystack.components.retrievers.in_memory import InMemoryEmbeddingRetriever
from haystack.components.writers import DocumentWriter
from haystack.dataclasses import ByteStream
from haystack.document_stores.in_memory import InMemoryDocumentStore
from PIL import Image
from topwork.integrations.haystack import TopworkDocumentEmbedder, TopworkDocumentImageEmbedder, TopworkTextEmbedder

MODULE = "topwork.integrations.haystack"


@pytest.fixture(autouse=True)
def usual_server(server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOPWORK_SERVER", server)


def test_texts_and_documents_get_rows(client: topwork.Client) -> None:
    settings: dict[str, Any] = {"options": {"case": "lower"}, "normalize": True, "dimensions": 3}
    expected = client.embed("letters", ["AB", "t\nxY"], **settings).rows
    text = TopworkTextEmbedder("letters", **settings)
    np.testing.assert_allclose(text.run("AB")["embedding"], expected[0], atol=1e-6)
    np.testing.assert_allclose(asyncio.run(text.run_async("AB"))["embedding"], expected[0], atol=1e-6)
    given = [Document(content="AB", meta={"title": None}), Document(content="xY", meta={"title": "t", "n": 1})]
    embedder = TopworkDocumentEmbedder("letters", meta_fields_to_embed=["title"], **settings)
    for found in (embedder.run(given)["documents"], asyncio.run(embedder.run_async(given))["documents"]):
        np.testing.assert_allclose([document.embedding for document in found], expected, atol=1e-6)
        assert [document.id for document in found] == [document.id for document in given]
    assert [document.embedding for document in given] == [None, None]
    assert embedder.run([]) == {"documents": []}
    assert pickle.loads(pickle.dumps(embedder)).run(given) == embedder.run(given)
    assert embedder.known_fingerprint() == client.embed("letters", ["a"]).fingerprint


def test_texts_are_queries_and_documents_are_documents(client: topwork.Client) -> None:
    expected = {mark: client.embed("marked", ["ab"], options={"prompt": mark}).rows[0].tolist() for mark in ("?", "!", "#")}

    def rows(**settings: Any) -> list[Any]:
        embedded = TopworkDocumentEmbedder("marked", **settings).run([Document(content="ab")])
        return [TopworkTextEmbedder("marked", **settings).run("ab")["embedding"], embedded["documents"][0].embedding]

    assert rows() == [expected["?"], expected["!"]]
    assert rows(role="document") == [expected["!"]] * 2
    assert rows(role=None, options={"prompt": "#"}) == [expected["#"]] * 2
    with pytest.raises(topwork.InvalidInput, match=r"prompt.*contradict"):
        rows(options={"prompt": "#"})
    with pytest.raises(topwork.InvalidInput, match="passage"):
        rows(role="passage")


def test_pictures(client: topwork.Client, tmp_path: Path) -> None:
    path = tmp_path / "red.png"
    Image.new("RGB", (40, 30), (200, 10, 10)).save(path)
    given = [Document(blob=ByteStream(path.read_bytes())), Document(meta={"file_path": str(path)})]
    found = TopworkDocumentImageEmbedder("patches").run(given)["documents"]
    expected = client.embed("patches", [path]).rows[0]
    np.testing.assert_allclose([document.embedding for document in found], [expected] * 2, atol=1e-6)
    with pytest.raises(topwork.InvalidInput, match="no picture") as raised:
        TopworkDocumentImageEmbedder("patches").run([*given, Document(content="a text")])
    assert raised.value.item == 2


def indexing(store: InMemoryDocumentStore) -> Pipeline:
    pipeline = Pipeline()
    pipeline.add_component("embedder", TopworkDocumentEmbedder("letters"))
    pipeline.add_component("writer", DocumentWriter(store))
    pipeline.connect("embedder", "writer")
    return pipeline


def searching(store: InMemoryDocumentStore) -> Pipeline:
    pipeline = Pipeline()
    pipeline.add_component("embedder", TopworkTextEmbedder("letters", options={"case": "lower"}))
    pipeline.add_component("retriever", InMemoryEmbeddingRetriever(store, top_k=1))
    pipeline.connect("embedder.embedding", "retriever.query_embedding")
    return pipeline


def test_a_pipeline_finds_and_is_read_again_from_yaml() -> None:
    store = InMemoryDocumentStore(embedding_similarity_function="cosine")
    indexing(store).run({"embedder": {"documents": [Document(content=text) for text in ("aaab", "xyz", "qqr")]}})
    pipeline = searching(store)
    assert [document.content for document in pipeline.run({"embedder": {"text": "XYZ"}})["retriever"]["documents"]] == ["xyz"]
    again = Pipeline.loads(pipeline.dumps(), allowed_modules=[MODULE])
    assert again.get_component("embedder").to_dict() == pipeline.get_component("embedder").to_dict()
    assert again.get_component("embedder").run("a") == pipeline.get_component("embedder").run("a")


@pytest.mark.parametrize("kind", [TopworkTextEmbedder, TopworkDocumentEmbedder, TopworkDocumentImageEmbedder])
def test_settings_are_written_down(kind: Any, client: topwork.Client) -> None:
    settings = {
        "encoder": "e",
        "tap": "t",
        "options": {"a": 1},
        "role": None,
        "normalize": True,
        "dimensions": 2,
        "fingerprint": "f",
    }
    written = kind(**settings, server="h:1").to_dict()
    assert written["type"] == f"{MODULE}.{kind.__name__}"
    assert written["init_parameters"].items() >= {**settings, "server": "h:1"}.items()
    assert kind.from_dict(written).to_dict() == written
    with pytest.raises(topwork.InvalidInput, match="open client"):
        kind("e", server=client).to_dict()


@pytest.mark.parametrize(
    ("settings", "error", "word"),
    [
        ({"encoder": "nosuch"}, topwork.NotFound, "nosuch"),
        ({"encoder": "letters", "server": "127.0.0.1:1"}, topwork.Unavailable, "127.0.0.1:1"),
        ({"encoder": "letters", "tap": "nosuch"}, topwork.TopworkError, "nosuch"),
    ],
)
def test_what_cannot_be_embedded_is_refused(settings: dict[str, Any], error: type[Exception], word: str) -> None:
    with pytest.raises(error, match=word):
        TopworkTextEmbedder(**settings).warm_up()
    with pytest.raises(error, match=word):
        TopworkTextEmbedder(**settings).run("a")


def test_what_is_of_another_kind_is_refused() -> None:
    with pytest.raises(TypeError, match="TopworkDocumentEmbedder"):
        TopworkTextEmbedder("letters").run([Document(content="a")])
    with pytest.raises(TypeError, match="TopworkTextEmbedder"):
        TopworkDocumentEmbedder("letters").run("a")
    with pytest.raises(topwork.InvalidInput, match="empty") as raised:
        TopworkDocumentEmbedder("letters").run([Document(content="a"), Document(content=None)])
    assert raised.value.item == 1


def test_what_the_page_shows_runs(shown: Callable[[str], dict[str, Any]]) -> None:
    assert len(shown("haystack")["found"]) == 1

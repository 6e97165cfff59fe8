"""LlamaIndex's embeddings, on a real server."""

from __future__ import annotations

import asyncio
import io
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import topwork
from llama_index.core import VectorStoreIndex
from llama_index.core.schema import TextNode
from PIL import Image
from topwork.integrations.llama_index import TopworkEmbedding, TopworkMultiModalEmbedding


@pytest.fixture(autouse=True)
def usual_server(server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOPWORK_SERVER", server)


@pytest.fixture
def embedding() -> TopworkEmbedding:
    return TopworkEmbedding(model_name="letters", options={"repeat": 2}, normalize=True, embed_batch_size=2)


def test_queries_and_texts_are_embedded_with_the_settings(embedding: TopworkEmbedding, client: topwork.Client) -> None:
    texts = ["AB", "xY", "zzz"]
    expected = client.embed("letters", texts, options={"repeat": 2}, normalize=True).rows
    np.testing.assert_allclose(embedding.get_text_embedding_batch(texts), expected, atol=1e-6)
    np.testing.assert_allclose(embedding.get_text_embedding("AB"), expected[0], atol=1e-6)
    np.testing.assert_allclose(asyncio.run(embedding.aget_text_embedding_batch(texts)), expected, atol=1e-6)
    np.testing.assert_allclose(asyncio.run(embedding.aget_text_embedding("AB")), expected[0], atol=1e-6)
    expected = client.embed("letters", ["ab"], options={"repeat": 2}, normalize=True).rows[0]
    np.testing.assert_allclose(embedding.get_query_embedding("AB"), expected, atol=1e-6)
    np.testing.assert_allclose(asyncio.run(embedding.aget_query_embedding("AB")), expected, atol=1e-6)
    assert embedding.fingerprint == client.embed("letters", ["a"]).fingerprint


def test_queries_and_texts_have_the_prompts_of_their_roles(client: topwork.Client) -> None:
    expected = {mark: client.embed("marked", ["ab"], options={"prompt": mark}).rows[0].tolist() for mark in ("?", "!", "#")}
    embedding = TopworkEmbedding(model_name="marked")
    assert (embedding.get_query_embedding("ab"), embedding.get_text_embedding("ab")) == (expected["?"], expected["!"])
    own = TopworkEmbedding(model_name="marked", document_prompt="#")
    assert (own.get_query_embedding("ab"), own.get_text_embedding("ab")) == (expected["?"], expected["#"])


def test_it_goes_into_other_processes_and_into_json(embedding: TopworkEmbedding) -> None:
    assert pickle.loads(pickle.dumps(embedding)).get_query_embedding("a") == embedding.get_query_embedding("a")
    assert TopworkEmbedding.from_dict(embedding.to_dict()).get_query_embedding("a") == embedding.get_query_embedding("a")
    assert embedding.to_payload()["model_name"] == "letters"


def test_an_index_finds_with_it(embedding: TopworkEmbedding) -> None:
    nodes = [TextNode(text=text, id_=text) for text in ("aaab", "xyz", "qqr")]
    index = VectorStoreIndex(nodes, embed_model=embedding)
    retriever = index.as_retriever(similarity_top_k=1)
    assert [found.node.node_id for found in retriever.retrieve("XYZ")] == ["xyz"]
    assert [found.node.node_id for found in asyncio.run(retriever.aretrieve("XYZ"))] == ["xyz"]


def test_pictures(client: topwork.Client, tmp_path: Path) -> None:
    path = tmp_path / "red.png"
    Image.new("RGB", (40, 30), (200, 10, 10)).save(path)
    expected = client.embed("patches", [path]).rows[0]
    embedding = TopworkMultiModalEmbedding(model_name="patches")
    for picture in (path, str(path), io.BytesIO(path.read_bytes())):
        np.testing.assert_allclose(embedding.get_image_embedding(picture), expected, atol=1e-6)
    np.testing.assert_allclose(embedding.get_image_embedding_batch([str(path)] * 3), [expected] * 3, atol=1e-6)
    np.testing.assert_allclose(asyncio.run(embedding.aget_image_embedding(str(path))), expected, atol=1e-6)
    np.testing.assert_allclose(asyncio.run(embedding.aget_image_embedding_batch([str(path)] * 3)), [expected] * 3, atol=1e-6)
    with pytest.raises(topwork.InvalidInput, match="no file"):
        embedding.get_image_embedding(str(tmp_path / "nosuch.png"))


@pytest.mark.parametrize(
    ("settings", "error", "word"),
    [
        ({"model_name": "nosuch"}, topwork.NotFound, "nosuch"),
        ({"model_name": "letters", "server": "127.0.0.1:1"}, topwork.Unavailable, "127.0.0.1:1"),
        ({"model_name": "letters", "tap": "letters"}, topwork.InvalidInput, "token"),
        ({"model_name": "letters", "required_fingerprint": "0" * 64}, topwork.NotReady, "fingerprint"),
    ],
)
def test_what_cannot_be_embedded_is_refused(settings: dict[str, Any], error: type[Exception], word: str) -> None:
    with pytest.raises(error, match=word):
        TopworkEmbedding(**settings).get_text_embedding("a")


def test_what_the_page_shows_runs(shown: Callable[[str], dict[str, Any]]) -> None:
    assert len(shown("llama_index")["found"]) == 1

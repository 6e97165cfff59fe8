"""LlamaIndex's own client of text-embeddings-inference, at the door of that protocol."""

from __future__ import annotations

import asyncio

import numpy as np
import topwork
from llama_index.embeddings.text_embeddings_inference import TextEmbeddingsInference

TEXTS = ["ab", "xyz", "q"] * 5


def test_it_embeds_queries_and_texts(http_server: str, client: topwork.Client) -> None:
    embedding = TextEmbeddingsInference(model_name="marked", base_url=http_server, query_instruction="?", text_instruction="!")
    expected = client.embed("marked", [f"! {text}" for text in TEXTS], normalize=True).rows
    np.testing.assert_allclose(embedding.get_text_embedding_batch(TEXTS), expected, atol=1e-6)
    np.testing.assert_allclose(asyncio.run(embedding.aget_text_embedding_batch(TEXTS)), expected, atol=1e-6)
    expected = client.embed("marked", "? ab", normalize=True).rows[0]
    np.testing.assert_allclose(embedding.get_query_embedding("ab"), expected, atol=1e-6)
